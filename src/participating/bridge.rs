//! What passes between the two MSRP legs of a chat.
//!
//! While both live, the author's 200 follows the recipient's (decision 1): every message also lies in
//! an unsynced spool until the other side has confirmed it. A leg that is lost, or silent for too
//! long, turns what it did not confirm into custody: stored first, answered then.

use bytes::Bytes;

use crate::clock::Now;
use crate::cpim::{self, CpimError, Envelope};
use crate::limits::memory::{Kind, Room};
use crate::msrp::event::{EndReason, InboundId, OutboundId, SessionEvent};
use crate::msrp::frame::FailureReport;
use crate::msrp::outgoing::OutboundMessage;
use crate::participating::arrival;
use crate::participating::bridge_custody::CANNOT_KEEP;
use crate::participating::chat::{ChatId, ChatState, Side};
use crate::participating::first_message::FIRST;
use crate::participating::media::MediaId;
use crate::participating::privacy;
use crate::participating::reason::Reason;
use crate::participating::served_user::Carrier;
use crate::participating::service::{Service, Waiter};
use crate::participating::spool::{IN_MEMORY, Spool};
use crate::participating::submission::Refused;
use crate::participating::transit::{Delivered, Fate, HEAD, Transit};
use crate::store::request::{BodySource, StoreRequest};

impl Service {
    /// Something happened in the MSRP session of one side of a chat.
    pub(super) fn handle_chat_media(
        &mut self,
        id: ChatId,
        side: Side,
        event: SessionEvent,
        now: Now,
    ) {
        let Some(chat) = self.chats.get_mut(&id) else {
            return;
        };
        chat.quiet_since = now.instant;
        match event {
            SessionEvent::Bound => self.pump(id, side, now),
            SessionEvent::MessageBegun {
                message,
                content_type,
                total,
                message_id,
                success_report,
                ..
            } => {
                let mut transit = self.new_transit(content_type, now);
                transit.message_id = Some(message_id);
                transit.success_report = success_report;
                transit.total = total;
                self.begin_transit(id, side, message, transit, now);
            }
            SessionEvent::Data {
                message,
                offset,
                octets,
            } => {
                self.carry(id, side, message, offset, octets, now);
            }
            SessionEvent::ChunkDone {
                message,
                chunk,
                range,
            } => {
                let end = range.end.unwrap_or_default();
                if let Some(transit) = self.transit(id, side, message) {
                    transit.unanswered.push_back((chunk, end));
                }
                self.answer_confirmed(id, side, message);
                self.chunks_to_settle.push((id, side, message));
            }
            SessionEvent::MessageDone { message, length } => {
                self.complete(id, side, message, length, now)
            }
            SessionEvent::MessageAborted { message, .. } => {
                self.abort_transit(id, side, message);
            }
            SessionEvent::Progress { message, confirmed } => {
                self.handle_progress(id, side, message, confirmed, now);
            }
            SessionEvent::Delivered { message } => self.handle_delivered(id, side, message, now),
            SessionEvent::Refused { message, status } => {
                self.handle_refused_by_peer(id, side, message, status, now);
                self.pump(id, side, now);
                self.end_if_settled(id, now);
            }
            SessionEvent::TimedOut { .. } => self.break_leg(id, side, &Reason::TimedOut, now),
            SessionEvent::Report {
                message,
                status,
                range,
            } => {
                if let Some((from, inbound)) = self.reported(id, side, message) {
                    let (media, tokens) = (self.media_of(id, from), &mut self.tokens);
                    if let Some(session) = media.and_then(|media| self.media.session(media)) {
                        session.report(inbound, status, range, tokens);
                    }
                }
            }
            SessionEvent::Ended { reason } => self.handle_leg_ended(id, side, reason, now),
        }
    }

    fn handle_leg_ended(&mut self, id: ChatId, side: Side, reason: EndReason, now: Now) {
        tracing::debug!(?side, ?reason, "an MSRP leg of a chat is lost");
        let reason = match reason {
            EndReason::ConnectionLost | EndReason::Elsewhere => Reason::BearerLost,
            EndReason::Unknown => Reason::Gone,
            EndReason::Silent => Reason::TimedOut,
        };
        self.break_leg(id, side, &reason, now);
    }

    pub(super) fn transit(
        &mut self,
        id: ChatId,
        side: Side,
        message: InboundId,
    ) -> Option<&mut Transit> {
        let transits = &mut self.chats.get_mut(&id)?.transits;
        transits
            .get_mut(&(side, message))
            .map(|transit| &mut **transit)
    }

    pub(super) fn media_of(&self, id: ChatId, side: Side) -> Option<MediaId> {
        let standing = self.chats.get(&id)?.leg(side).map(|leg| leg.media);
        let mut parted = self.parted.iter();
        standing.or_else(|| {
            let found = parted.find(|(chat, own, _)| (*chat, *own) == (id, side));
            found.map(|(_, _, media)| *media)
        })
    }

    fn new_transit(&self, content_type: String, now: Now) -> Transit {
        let deadline = now.instant + self.settings.custody_after;
        Transit::new(content_type, Fate::Unread, deadline, self.new_spool())
    }

    /// An empty spool.
    pub(super) fn new_spool(&self) -> Spool {
        Spool::new(self.memory.hold(Kind::Spools, 0))
    }

    /// Octets of one message on its way that may stay in memory.
    pub(super) fn room_for_spool(&self) -> u64 {
        let all = self.settings.spools;
        match self.load.room() {
            Room::Ample if self.memory.ledger().of(Kind::Spools) < all => (all / 4).max(IN_MEMORY),
            Room::Ample => IN_MEMORY,
            Room::Scarce | Room::None => 0,
        }
    }

    fn begin_transit(
        &mut self,
        id: ChatId,
        side: Side,
        message: InboundId,
        mut transit: Transit,
        now: Now,
    ) {
        self.metrics.received_session.count();
        let is_short = transit.total.is_none_or(|total| total <= HEAD as u64);
        let is_unread = is_short && arrival::may_be_receipt(&transit.content_type);
        let is_envelope = arrival::is_type(&transit.content_type, cpim::MEDIA_TYPE);
        let author = self.chats.get(&id).map(|chat| chat.person(side));
        let is_measured = author.is_some_and(|author| self.is_measured(author));
        let is_judged = is_measured || (is_envelope && self.checks_names());
        let most = author.and_then(|author| self.largest_of(author));
        transit.most = most.unwrap_or(u64::MAX);
        if let Some(chat) = self.chats.get_mut(&id) {
            transit.discarded = chat.silent && side == Side::Caller;
            transit.may_name = chat.hidden && side == Side::Caller && is_envelope;
            transit.unjudged = is_judged;
            chat.transits.insert((side, message), Box::new(transit));
        }
        if !is_unread {
            self.go_on(id, side, message, now);
        }
    }

    /// A message goes to the other side, or if it cannot, into custody.
    pub(super) fn go_on(&mut self, id: ChatId, side: Side, inbound: InboundId, now: Now) {
        let live = self.may_go_live(id, side) && !self.is_repeated(id, side, inbound);
        let media = self.media_of(id, side.other()).filter(|_| live);
        let transits = self.chats.get_mut(&id).map(|chat| &mut chat.transits);
        let Some(transit) = transits.and_then(|all| all.get_mut(&(side, inbound))) else {
            return;
        };
        let outbound = OutboundMessage {
            message_id: transit.message_id.clone(),
            content_type: transit.content_type.clone(),
            length: transit.total,
            success_report: transit.success_report,
            failure_report: FailureReport::Yes,
        };
        let session = media.and_then(|media| self.media.session(media));
        let out = session.map(|session| session.send(outbound, &mut self.tokens));
        transit.fate = out.map_or(Fate::Custody, Fate::Live);
        transit.deadline = now.instant + self.settings.custody_after;
        let has_come = transit.covered.prefix() > 0;
        match (out, transit.complete) {
            (Some(_), complete) if has_come || complete.is_some() => {
                self.pump(id, side.other(), now);
            }
            (None, Some(_)) => self.store_transit(id, side, inbound, now),
            (_, None) | (Some(_), _) => {}
        }
    }

    /// Decision 10: the recipient's machine lets a live message pass while nothing of its conversation
    /// is held or replayed; that of the caller says so from its own shard.
    fn may_go_live(&self, id: ChatId, side: Side) -> bool {
        let Some(chat) = self.chats.get(&id) else {
            return false;
        };
        if chat.state != ChatState::Live {
            return false;
        }
        let earlier = chat.transits.iter().any(|((from, _), transit)| {
            *from == side && matches!(transit.fate, Fate::Custody | Fate::Storing(..))
        });
        if !self.may_receive(chat.person(side.other())) {
            return false;
        }
        let free = match side {
            Side::Caller => {
                let key = chat.conversation_of(side);
                // The machine of somebody who is not registered is forgotten, what waits for him is not.
                let is_forgotten = !self.users.contains_key(&chat.callee)
                    && self.waiting.contains(&chat.callee)
                    && self.reach(&chat.callee).is_none();
                !is_forgotten && self.lets_pass(&chat.callee, &key, Carrier::Session)
            }
            Side::Callee => self.may_pass_to_caller(chat),
        };
        free && !earlier
    }

    /// Octets of a message: into the spool, and on to the other side if it is their turn.
    fn carry(
        &mut self,
        id: ChatId,
        side: Side,
        message: InboundId,
        offset: u64,
        octets: Bytes,
        now: Now,
    ) {
        let most = self.room_for_spool();
        let custody = &mut self.custody;
        let Some(chat) = self.chats.get_mut(&id) else {
            return;
        };
        let peer = chat.leg(side.other()).map(|leg| leg.media);
        let Some(transit) = chat.transits.get_mut(&(side, message)) else {
            return;
        };
        if transit.changes_judged(offset, &octets) {
            return self.end_transit(id, side, message, 400);
        }
        for request in transit.write(offset, octets.clone(), most, || custody.new_spool()) {
            custody.tell(request);
        }
        if transit.covered.prefix() > transit.most {
            return self.refuse_transit(id, side, message, Refused::TooLarge);
        }
        if !transit.is_cleared() {
            return self.clear(id, side, message, now);
        }
        if matches!(transit.fate, Fate::Unread) && transit.covered.prefix() > HEAD as u64 {
            return self.go_on(id, side, message, now);
        }
        let taken = |peer: &MediaId| self.media.may_send(*peer) || transit.is_notification();
        let (out, peer) = (transit.outbound(), peer.filter(taken));
        if let (Some(out), Some(peer)) = (out, peer)
            && let Some(session) = self.media.session(peer)
        {
            let wanted = session.wants_of(out);
            if wanted.is_some_and(|want| want.offset == offset) {
                session.supply(out, &octets, &mut self.tokens);
                transit.spool.pass(offset + octets.len() as u64);
                return;
            }
        }
        self.pump(id, side.other(), now);
    }

    /// A message of an author who hides goes on once its envelope is known not to name him; one that
    /// does is refused, because what arrives in a session cannot be rewritten. One of an author with
    /// limits goes on once it is known to keep within them.
    fn clear(&mut self, id: ChatId, side: Side, message: InboundId, now: Now) {
        let Some(chat) = self.chats.get(&id) else {
            return;
        };
        let Some(transit) = chat.transits.get(&(side, message)) else {
            return;
        };
        if arrival::is_type(&transit.content_type, cpim::MEDIA_TYPE) {
            // What came behind a gap says nothing of the envelope yet.
            let named = Envelope::parse(transit.first()).map(|it| privacy::names_author(&it));
            match named {
                Ok(true) if transit.may_name => return self.end_transit(id, side, message, 403),
                Ok(_) => {}
                // A longer head is no envelope that anybody writes.
                Err(CpimError::Incomplete) if transit.first().len() < HEAD => return,
                Err(_) => return self.end_transit(id, side, message, 400),
            }
        }
        let counted = match transit.unjudged {
            false => None,
            true => match self.submit_transit(chat.person(side), transit, now) {
                None => return,
                Some(Ok(octets)) => Some(octets),
                Some(Err(refused)) => return self.end_transit(id, side, message, refused.status()),
            },
        };
        if let Some(transit) = self.transit(id, side, message) {
            transit.pass_judgement();
            transit.counted = counted;
        }
        self.pump(id, side.other(), now);
    }

    fn refuse_transit(&mut self, id: ChatId, side: Side, message: InboundId, refused: Refused) {
        refused.count(&self.metrics);
        self.end_transit(id, side, message, refused.status());
    }

    /// Gives the session on `side` what it can take of the messages from the other side.
    pub(super) fn pump(&mut self, id: ChatId, side: Side, now: Now) {
        let Some(media) = self.media_of(id, side) else {
            return;
        };
        loop {
            if !self.media.has_room_for(media) {
                return;
            }
            let Some(want) = self.next_wanted(id, side, media) else {
                return;
            };
            if !self.supply(id, side, want.message, want.offset, want.max, now) {
                return;
            }
        }
    }

    fn supply(
        &mut self,
        id: ChatId,
        side: Side,
        out: OutboundId,
        offset: u64,
        most: usize,
        now: Now,
    ) -> bool {
        let Some((from, inbound)) = self.source_of(id, side, out) else {
            return false;
        };
        let Some(media) = self.media_of(id, side) else {
            return false;
        };
        let Some(transit) = self.transit(id, from, inbound) else {
            return false;
        };
        if !transit.is_cleared() {
            return false;
        }
        let ready = transit.covered.prefix().saturating_sub(offset);
        let most = most.min(usize::try_from(ready).unwrap_or(most));
        if most == 0 {
            if transit.complete == Some(offset)
                && let Some(session) = self.media.session(media)
            {
                session.end(out, &mut self.tokens);
                return true;
            }
            return false;
        }
        if let Some(octets) = transit.spool.read(offset, most) {
            if let Some(session) = self.media.session(media) {
                session.supply(out, &octets, &mut self.tokens);
            }
            return !octets.is_empty();
        }
        if let (None, Some(spool)) = (transit.reading, transit.spool.id()) {
            transit.reading = Some(offset);
            let waiter = Waiter::Transit(id, from, inbound);
            let asked = self
                .custody
                .read(BodySource::Spool(spool), offset, most, waiter, now);
            if asked.is_err()
                && let Some(transit) = self.transit(id, from, inbound)
            {
                transit.reading = None;
            }
        }
        false
    }

    /// Octets that had gone to the store are back for the other side.
    pub(super) fn handle_transit_piece(
        &mut self,
        id: ChatId,
        from: Side,
        inbound: InboundId,
        octets: &Bytes,
        now: Now,
    ) {
        let Some(transit) = self.transit(id, from, inbound) else {
            return;
        };
        let asked = transit.reading.take();
        let out = transit.outbound();
        let media = self.media_of(id, from.other());
        if let (Some(out), Some(media)) = (out, media)
            && let Some(session) = self.media.session(media)
        {
            // Meanwhile it may have been sent again from its beginning.
            let wanted = session.wants_of(out).map(|want| want.offset);
            if wanted == asked {
                session.supply(out, octets, &mut self.tokens);
            }
        }
        self.pump(id, from.other(), now);
    }

    /// The message that goes out as `out` on `side`.
    fn source_of(&self, id: ChatId, side: Side, out: OutboundId) -> Option<(Side, InboundId)> {
        let chat = self.chats.get(&id)?;
        let from = side.other();
        let matches = |transit: &Transit| transit.outbound() == Some(out);
        let mut all = chat.transits.iter();
        let found = all.find(|((own, _), transit)| *own == from && matches(transit));
        found.map(|((own, inbound), _)| (*own, *inbound))
    }

    /// Whose message a REPORT from `side` speaks of: one that is on its way, or was a moment ago.
    fn reported(&self, id: ChatId, side: Side, out: OutboundId) -> Option<(Side, InboundId)> {
        let under_way = self.source_of(id, side, out);
        under_way.or_else(|| {
            let mut delivered = self.chats.get(&id)?.delivered.iter();
            let found = delivered.find(|it| (it.to, it.sent_as) == (side, out))?;
            Some((side.other(), found.inbound))
        })
    }

    fn handle_progress(
        &mut self,
        id: ChatId,
        side: Side,
        out: OutboundId,
        confirmed: u64,
        now: Now,
    ) {
        let Some((from, inbound)) = self.source_of(id, side, out) else {
            return self.pump(id, side, now);
        };
        let deadline = now.instant + self.settings.custody_after;
        if let Some(transit) = self.transit(id, from, inbound) {
            transit.confirmed = confirmed;
            transit.deadline = deadline;
        }
        self.answer_confirmed(id, from, inbound);
        self.pump(id, side, now);
    }

    /// A chunk is answered 200 when the other side has confirmed all it held.
    fn answer_confirmed(&mut self, id: ChatId, from: Side, inbound: InboundId) {
        let media = self.media_of(id, from);
        let Some(transit) = self.transit(id, from, inbound) else {
            return;
        };
        let mut ready = Vec::new();
        if transit.is_live() {
            let confirmed = transit.confirmed;
            while let Some((chunk, _)) = transit
                .unanswered
                .front()
                .filter(|(_, end)| *end <= confirmed && *end > 0)
            {
                ready.push(*chunk);
                transit.unanswered.pop_front();
            }
        }
        if let Some(session) = media.and_then(|media| self.media.session(media)) {
            for chunk in ready {
                session.answer(chunk, 200);
            }
        }
    }

    fn handle_delivered(&mut self, id: ChatId, side: Side, out: OutboundId, now: Now) {
        let Some((from, inbound)) = self.source_of(id, side, out) else {
            return self.note_taken(id, side, out, now);
        };
        self.metrics.passed_session.count();
        let Some(chat) = self.chats.get_mut(&id) else {
            return;
        };
        let transit = chat.transits.remove(&(from, inbound));
        chat.remember_delivered(Delivered {
            to: side,
            sent_as: out,
            inbound,
        });
        if let Some(spool) = transit.and_then(|transit| transit.spool.id()) {
            self.custody.tell(StoreRequest::Drop { spool });
        }
        let media = self.media_of(id, from);
        if let Some(session) = media.and_then(|media| self.media.session(media)) {
            session.settle(inbound, 200);
        }
        if inbound == FIRST {
            self.first_delivered(id, now);
        }
        self.pump(id, side, now);
        self.end_if_settled(id, now);
    }

    /// Row 13 of cpm-facts §6: what the device refuses is refused to the author, and not kept.
    fn handle_refused_by_peer(
        &mut self,
        id: ChatId,
        side: Side,
        out: OutboundId,
        status: u16,
        now: Now,
    ) {
        let Some((from, inbound)) = self.source_of(id, side, out) else {
            return;
        };
        if inbound == FIRST {
            return self.first_refused(id, status, now);
        }
        self.end_transit(id, from, inbound, status);
    }

    /// Answers what is unanswered of a message with `status` and forgets it.
    pub(super) fn end_transit(&mut self, id: ChatId, from: Side, inbound: InboundId, status: u16) {
        let Some(chat) = self.chats.get_mut(&id) else {
            return;
        };
        let transit = chat.transits.remove(&(from, inbound));
        let spool = transit.as_ref().and_then(|transit| transit.spool.id());
        if let Some(spool) = spool {
            self.custody.tell(StoreRequest::Drop { spool });
        }
        if let Some(Fate::Live(out)) = transit.as_ref().map(|transit| &transit.fate) {
            self.give_up(id, from.other(), *out);
        }
        if let Some(receipt) = transit.and_then(|transit| transit.receipt)
            && status != 200
        {
            self.take_receipt_back(receipt);
        }
        let media = self.media_of(id, from);
        if let Some(session) = media.and_then(|media| self.media.session(media)) {
            session.settle(inbound, status);
            if status == 200 {
                session.report_success(inbound, &mut self.tokens);
            }
        }
    }

    /// Nothing more of a message goes to the session on `side`.
    pub(super) fn give_up(&mut self, id: ChatId, side: Side, out: OutboundId) {
        let media = self.media_of(id, side);
        if let Some(session) = media.and_then(|media| self.media.session(media)) {
            session.abort(out, &mut self.tokens);
        }
    }

    fn abort_transit(&mut self, id: ChatId, side: Side, inbound: InboundId) {
        let Some(chat) = self.chats.get_mut(&id) else {
            return;
        };
        let Some(transit) = chat.transits.remove(&(side, inbound)) else {
            return;
        };
        if let Some(spool) = transit.spool.id() {
            self.custody.tell(StoreRequest::Drop { spool });
        }
        if let Some(out) = transit.outbound() {
            self.give_up(id, side.other(), out);
        }
    }

    fn complete(&mut self, id: ChatId, side: Side, inbound: InboundId, length: u64, now: Now) {
        self.expect_receipts_of_chat(id, side, inbound, now);
        let Some(transit) = self.transit(id, side, inbound) else {
            return;
        };
        transit.complete = Some(length);
        if !transit.is_cleared() {
            self.clear(id, side, inbound, now);
        }
        let Some(transit) = self.transit(id, side, inbound) else {
            return;
        };
        // The header of its envelope has no end: nobody can say whether it names its author.
        if !transit.is_cleared() {
            return self.end_transit(id, side, inbound, 400);
        }
        if let Some(more) = transit.counted.and_then(|it| length.checked_sub(it)) {
            self.count_more(id, side, more, now);
        }
        let Some(transit) = self.transit(id, side, inbound) else {
            return;
        };
        if transit.discarded && transit.is_notification() && !transit.restore() {
            return self.end_transit(id, side, inbound, CANNOT_KEEP);
        }
        let is_read = matches!(transit.fate, Fate::Unread | Fate::Custody);
        if is_read && self.ask_for_receipt(id, side, inbound) {
            return;
        }
        let fate = self.transit(id, side, inbound).map(|it| &it.fate);
        let Some(fate) = fate else { return };
        match fate {
            Fate::Unread => self.go_on(id, side, inbound, now),
            Fate::Custody => self.store_transit(id, side, inbound, now),
            Fate::Live(_) => self.pump(id, side.other(), now),
            Fate::Asking | Fate::Storing(..) => {}
        }
    }
}
