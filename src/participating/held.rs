//! A side of a chat that takes no messages for a while (`a=sendonly`, `a=inactive`): what is for it
//! waits, and after `custody_after` is kept. Notifications pass (RFC 4975 §8.9, cpm-facts §9.7).

use crate::clock::Now;
use crate::msrp::event::InboundId;
use crate::msrp::outgoing::Want;
use crate::participating::chat::{ChatId, Side};
use crate::participating::first_message::FIRST;
use crate::participating::media::MediaId;
use crate::participating::service::Service;
use crate::participating::transit::{Fate, Transit};

impl Service {
    /// The next octets that the session on `side` takes: of the oldest message that has any ready, or
    /// of notifications alone.
    pub(super) fn next_wanted(&mut self, id: ChatId, side: Side, media: MediaId) -> Option<Want> {
        let takes_all = self.media.may_send(media);
        let session = self.media.session(media)?;
        let transits = &self.chats.get(&id)?.transits;
        let source_of = |want: &Want| {
            let mut to_side = transits
                .iter()
                .filter(|((from, _), _)| *from == side.other());
            let found = to_side.find(|(_, transit)| transit.outbound() == Some(want.message));
            found.map(|(_, transit)| transit)
        };
        let is_next = |transit: &Transit, want: &Want| {
            transit.is_live()
                && transit.has_more_from(want.offset)
                && (takes_all || transit.is_notification())
        };
        let mut wants = session.all_wants();
        wants.find(|want| source_of(want).is_some_and(|transit| is_next(transit, want)))
    }

    /// What has waited too long for a side that takes nothing turns into custody.
    pub(super) fn keep_held(&mut self, id: ChatId, now: Now) {
        for side in [Side::Caller, Side::Callee] {
            let Some(media) = self.media_of(id, side) else {
                continue;
            };
            if self.media.may_send(media) {
                continue;
            }
            for inbound in self.held_too_long(id, side, media, now) {
                self.keep_held_message(id, side, media, inbound, now);
            }
        }
    }

    fn held_too_long(
        &mut self,
        id: ChatId,
        side: Side,
        media: MediaId,
        now: Now,
    ) -> Vec<InboundId> {
        let Some(session) = self.media.session(media) else {
            return Vec::new();
        };
        let Some(chat) = self.chats.get(&id) else {
            return Vec::new();
        };
        let waits = |transit: &Transit| match transit.fate {
            Fate::Live(out) => transit.deadline <= now.instant && !session.awaits_answer(out),
            _ => false,
        };
        let to_side = chat.transits.iter();
        to_side
            .filter(|((from, _), transit)| *from == side.other() && waits(transit))
            .map(|((_, inbound), _)| *inbound)
            .collect()
    }

    fn keep_held_message(
        &mut self,
        id: ChatId,
        side: Side,
        media: MediaId,
        inbound: InboundId,
        now: Now,
    ) {
        if inbound == FIRST {
            self.first_leg_lost(id, now);
            return;
        }
        let Some(transit) = self.transit(id, side.other(), inbound) else {
            return;
        };
        let complete = transit.complete.is_some();
        let fate = std::mem::replace(&mut transit.fate, Fate::Custody);
        if let (Fate::Live(out), Some(session)) = (fate, self.media.session(media)) {
            session.abort(out, &mut self.tokens);
        }
        if complete {
            self.store_transit(id, side.other(), inbound, now);
        } else {
            self.sync_chunks(id, side.other(), inbound, now);
        }
    }
}
