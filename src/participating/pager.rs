//! Pager mode: a SIP MESSAGE goes to the recipient's devices, or is kept (cpm-facts §4, §6).
//!
//! 200 only when a device took it; 202 when it is durable here. While no device has answered within
//! `answer_within`, the message is kept and the branches go on: a late 2xx settles the kept copy.

use std::sync::Arc;

use crate::clock::Now;
use crate::config::CopyTo;
use crate::identity::Identity;
use crate::limits::memory::{Held, Kind};
use crate::participating::admission::{Admission, UNAVAILABLE};
use crate::participating::arrival::{self, Content, ConversationHeaders};
use crate::participating::contacts::Target;
use crate::participating::deferral::{Condition, DeviceAnswers, Form, Stored, verdict};
use crate::participating::receipts::{MessageRef, Notice, Receipt};
use crate::participating::revocation;
use crate::participating::served_user::{Carrier, ServedUser};
use crate::participating::service::{Service, Usage, Waiter};
use crate::participating::spool::BodySize;
use crate::participating::{forward, privacy};
use crate::sip::message::HeaderName;
use crate::sip::message::Message;
use crate::sip::proxy::unsupported_requirements;
use crate::sip::rejection::Rejection;
use crate::sip::splice::Edit;
use crate::sip::transaction::table::{Kind as TransactionKind, ServerId};
use crate::sip::transport::flow::Flow;
use crate::sip::warning;
use crate::store::request::{
    Body, ConversationKey, DeferredMessage, Refusal, Seq, Settlement, StoreRequest,
};

/// Names a MESSAGE under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PagerId(pub u64);

/// A MESSAGE that has no final answer yet, or whose branches still run.
#[derive(Debug)]
pub struct Pager {
    request: Message,
    server: ServerId,
    author: Identity,
    recipient: Identity,
    content: Content,
    answered: bool,
    branches: usize,
    /// Its conversation header fields, and whether we had to give it some of them.
    ids: ConversationHeaders,
    are_generated: bool,
    /// The flows those branches went over.
    ways: Vec<Flow>,
    /// The devices that took it after it was kept, where each gets a copy.
    taken: Vec<u64>,
    answers: DeviceAnswers,
    keeping: Keeping,
    /// What its octets take of memory.
    _held: Held,
}

impl Pager {
    /// A device's answer as its author gets it.
    fn answer_of(&self, response: &Message) -> bytes::Bytes {
        let is_success = (200..300).contains(&response.status());
        let given = (self.are_generated && is_success).then_some(&self.ids);
        match forward::wants_privacy(&self.request) {
            true => privacy::answer_to_author(&self.request, response, given),
            false => upstream(response, given),
        }
    }
}

#[derive(Debug)]
enum Keeping {
    No,
    Storing(Arc<DeferredMessage>),
    Stored(Seq, Arc<DeferredMessage>),
    /// Other devices are offered it, while those that it went to first may still answer.
    Offered(Seq, Arc<DeferredMessage>),
    /// A device took it while it was being stored.
    Superseded(Arc<DeferredMessage>),
    Failed,
}

impl Service {
    /// A MESSAGE from an authenticated author to a user of this shard.
    pub fn handle_message(
        &mut self,
        request: Message,
        server: ServerId,
        author: Identity,
        recipient: Identity,
        now: Now,
    ) {
        let read = self.read_message(&request).and_then(|content| {
            let receipt = content.is_notification;
            let receipt = receipt.then(|| read_receipt(&request, &author, &recipient));
            Ok((content, receipt.transpose()?))
        });
        let (content, receipt) = match read {
            Ok(read) => read,
            Err(rejection) => return self.reject(&request, server, &rejection, now),
        };
        let (request, ids, are_generated) = match self.prepared(&request, &author, &recipient) {
            Ok(prepared) => prepared,
            Err(rejection) => return self.reject(&request, server, &rejection, now),
        };
        if self.pagers.len() >= self.settings.most_under_way || self.has_drained {
            return self.overloaded(&request, server, now);
        }
        if !self.recent.is_empty()
            && let Some(seq) = self.recent.find(arrival::duplicate_key(&request))
        {
            tracing::debug!(seq = seq.0, "a MESSAGE kept before a restart came again");
            return self.accepted(&request, server, None, now);
        }
        if !content.is_notification
            && !content.is_revocation
            && let Err(refused) = self.submit_message(&request, &author, now)
        {
            return self.reject(&request, server, &refused.rejection(), now);
        }
        if !content.is_notification
            && !self.is_admitted(&request, server, &content, (&author, &recipient), now)
        {
            return;
        }
        if content.is_revocation {
            match revocation::revoked_by(&request) {
                Err(rejection) => return self.reject(&request, server, &rejection, now),
                Ok(revoked) => {
                    let parties = (author, &recipient);
                    return self.handle_revocation(request, server, parties, revoked, now);
                }
            }
        }
        self.expect_receipts_of(&request, &content, &author, &recipient, now);
        let id = PagerId(self.next_number());
        let pager = Pager {
            _held: self.memory.hold(Kind::Work, request.bytes().len()),
            request,
            server,
            author,
            recipient,
            content,
            ids,
            are_generated,
            answered: false,
            branches: 0,
            ways: Vec::new(),
            taken: Vec::new(),
            answers: DeviceAnswers::default(),
            keeping: Keeping::No,
        };
        self.pagers.insert(id, pager);
        match receipt {
            Some(_) => self.metrics.received_receipt.count(),
            None => self.metrics.received_pager.count(),
        }
        match receipt {
            Some(receipt) => self.take_receipt(id, receipt, now),
            None => self.start_pager(id, now),
        }
    }

    /// To the devices, or into custody.
    pub(super) fn start_pager(&mut self, id: PagerId, now: Now) {
        let Some(pager) = self.pagers.get(&id) else {
            return;
        };
        let recipient = &pager.recipient;
        let targets = self.message_targets(recipient, Some(&pager.request));
        if !targets.is_empty() && self.may_pass(pager) {
            self.fork_message(id, &targets, now);
        } else {
            let absent = self.absence(recipient);
            self.decide(id, absent, now);
        }
    }

    /// Whether the author has had no answer yet.
    pub(super) fn is_unanswered(&self, id: PagerId) -> bool {
        self.pagers.get(&id).is_some_and(|pager| !pager.answered)
    }

    /// 202 for what has been taken before.
    pub(super) fn accept_without_effect(&mut self, id: PagerId, now: Now) {
        if let Some(pager) = self.pagers.remove(&id) {
            self.accepted(&pager.request, pager.server, None, now);
        }
    }

    /// 503 for what there is no room for.
    pub(super) fn refuse_overloaded(&mut self, id: PagerId, now: Now) {
        if let Some(pager) = self.pagers.remove(&id) {
            self.overloaded(&pager.request, pager.server, now);
        }
    }

    /// A message that asks for receipts is made known before a device can have it.
    fn expect_receipts_of(
        &mut self,
        request: &Message,
        content: &Content,
        author: &Identity,
        recipient: &Identity,
        now: Now,
    ) {
        if let (false, Some(id)) = (content.dispositions.is_empty(), &content.message_id) {
            let message = MessageRef {
                author: author.clone(),
                recipient: recipient.clone(),
                message_id: id.as_str().into(),
            };
            let expires = arrival::expiry(request, self.settings.lifetimes, now);
            let is_private = super::forward::wants_privacy(request);
            self.expect_receipts(message, expires, is_private);
        }
    }

    /// The request as it goes on: with the conversation header fields that its author left out
    /// (cpm-facts §11), and without his name in the envelope if he asked for that.
    fn prepared(
        &mut self,
        request: &Message,
        author: &Identity,
        recipient: &Identity,
    ) -> Result<(Message, ConversationHeaders, bool), Rejection> {
        let ids = ConversationHeaders::read(request, author, recipient, &mut self.tokens)?;
        let mut edit = Edit::new(request);
        let mut is_changed = false;
        for (id, name, value) in [
            (
                HeaderName::ConversationId,
                "Conversation-ID",
                &ids.conversation,
            ),
            (
                HeaderName::ContributionId,
                "Contribution-ID",
                &ids.contribution,
            ),
        ] {
            if request.header(id).is_none() {
                edit.append(name, value);
                is_changed = true;
            }
        }
        let named = match is_changed {
            true => crate::sip::wire::parse(edit.finish()).ok(),
            false => None,
        };
        let request = named.unwrap_or_else(|| request.clone());
        let hidden = match forward::wants_privacy(&request) {
            true => privacy::hide_author_of(&request),
            false => None,
        };
        Ok((hidden.unwrap_or(request), ids, is_changed))
    }

    /// What the recipient's rules say; false if the request has been answered by them.
    fn is_admitted(
        &mut self,
        request: &Message,
        server: ServerId,
        content: &Content,
        (author, recipient): (&Identity, &Identity),
        now: Now,
    ) -> bool {
        let rejection = match self.admit(request, author, recipient, now) {
            Admission::Pass => return true,
            Admission::Refuse(rejection) => rejection,
            Admission::Drop if content.is_composing => UNAVAILABLE,
            Admission::Drop => {
                let ids = ConversationHeaders::read(request, author, recipient, &mut self.tokens);
                match ids {
                    Ok(ids) => {
                        self.drop_message(request.clone(), server, ids, now);
                        return false;
                    }
                    Err(rejection) => rejection,
                }
            }
        };
        self.reject(request, server, &rejection, now);
        false
    }

    pub(super) fn read_message(&self, request: &Message) -> Result<Content, Rejection> {
        if request.body().len() as u64 > self.settings.largest_message {
            let too_large = Rejection::new(413, "Request Entity Too Large");
            return Err(too_large.with_warning(warning::TOO_LARGE));
        }
        let content_type = request.header(HeaderName::ContentType);
        let content_type = content_type.unwrap_or("text/plain");
        let is_coded = request
            .values(HeaderName::ContentEncoding)
            .any(|coding| !coding.trim().eq_ignore_ascii_case("identity"));
        // What we have to read must be readable (RFC 3428 §7, RFC 3261 §8.2.3).
        if is_coded && arrival::is_type(content_type, crate::cpim::MEDIA_TYPE) {
            return Err(Rejection::new(415, "Unsupported Media Type"));
        }
        arrival::validity(request)?;
        let mut content = Content::read(content_type, request.body())?;
        let disposition = request.header(HeaderName::ContentDisposition);
        content.is_notification |= crate::imdn::is_aggregate(content_type, disposition);
        Ok(content)
    }

    /// A message never overtakes one that is being stored or replayed, or that devices put off (decision 3).
    fn may_pass(&self, pager: &Pager) -> bool {
        let Some(user) = self.users.get(&pager.recipient) else {
            return !self.stands_in_line(&pager.recipient);
        };
        let is_receipt = pager.content.is_notification;
        let key = ConversationKey {
            author: pager.author.clone(),
            conversation: pager.ids.conversation.as_str().into(),
        };
        (!is_receipt || user.may_pass_receipt(&pager.author))
            && (user.may_pass(&key, Carrier::Message)
                || (is_receipt && user.lets_receipts_by(&key)))
    }

    fn fork_message(&mut self, id: PagerId, targets: &[Target], now: Now) {
        let deadline = now.instant + self.settings.answer_within;
        self.pager_deadlines.push_back((deadline, id));
        for target in targets {
            let Some(pager) = self.pagers.get(&id) else {
                return;
            };
            let hash = crate::sip::proxy::loop_hash(&pager.request, self.sip.own_name());
            let via = self.sip.via(&target.flow, Some(hash), &mut self.tokens);
            let octets = match forward::wants_privacy(&pager.request) {
                true => {
                    let domain = &self.settings.domain;
                    let (request, tokens) = (&pager.request, &mut self.tokens);
                    privacy::message_to_device(request, target, &via.value, domain, tokens)
                }
                false => to_device(&pager.request, &pager.author, target, &via.value),
            };
            let usage = Usage::Pager(id, target.device);
            let sent = self.sip.send(
                TransactionKind::NonInvite,
                via,
                octets,
                target.flow,
                usage,
                now,
            );
            let Some(pager) = self.pagers.get_mut(&id) else {
                return;
            };
            pager.answers.tried(target.profile);
            match sent {
                Ok(_) => {
                    pager.branches += 1;
                    pager.ways.push(target.flow);
                }
                Err(_) => pager.answers.silent(),
            }
        }
        if self
            .pagers
            .get(&id)
            .is_some_and(|pager| pager.branches == 0)
        {
            self.decide(id, Condition::Unreachable, now);
        }
    }

    /// A device answered.
    pub(super) fn handle_pager_response(
        &mut self,
        id: PagerId,
        device: u64,
        response: Message,
        now: Now,
    ) {
        let status = response.status();
        if status < 200 {
            return;
        }
        let Some(pager) = self.pagers.get_mut(&id) else {
            return;
        };
        pager.branches = pager.branches.saturating_sub(1);
        if status < 300 {
            self.message_taken(id, device, &response, now);
        } else {
            pager.answers.refused(response);
        }
        self.branch_ended(id, now);
    }

    /// A device gave no answer.
    pub(super) fn handle_pager_silence(&mut self, id: PagerId, now: Now) {
        if let Some(pager) = self.pagers.get_mut(&id) {
            pager.branches = pager.branches.saturating_sub(1);
            pager.answers.silent();
        }
        self.branch_ended(id, now);
    }

    /// RFC 3428 §7: the first 2xx goes upstream; later ones end here.
    fn message_taken(&mut self, id: PagerId, device: u64, response: &Message, now: Now) {
        let Some(pager) = self.pagers.get_mut(&id) else {
            return;
        };
        if !pager.answered {
            pager.answered = true;
            let octets = pager.answer_of(response);
            self.sip
                .respond(pager.server, response.status(), octets, now);
            self.receipt_taken(id);
        }
        let Some(pager) = self.pagers.get(&id) else {
            return;
        };
        let settings = &self.settings_of(&pager.recipient).settings;
        let copies = settings.copy_to == CopyTo::Every;
        let Some(pager) = self.pagers.get_mut(&id) else {
            return;
        };
        match std::mem::replace(&mut pager.keeping, Keeping::No) {
            // The others get their copies of what was kept meanwhile.
            Keeping::Stored(seq, message) if copies => {
                pager.taken.push(device);
                let recipient = message.recipient.clone();
                pager.keeping = Keeping::Stored(seq, message);
                self.tell_mark(recipient, seq, device);
            }
            Keeping::No => self.metrics.passed_pager.count(),
            Keeping::Storing(message) => pager.keeping = Keeping::Superseded(message),
            Keeping::Stored(seq, message) => {
                pager.keeping = Keeping::Failed;
                let size = BodySize::of_whole(pager.request.body());
                let key = arrival::conversation_key(&message);
                self.take_out(&message.recipient, &key, seq, Settlement::Delivered);
                self.end_storing(&message, size, now);
            }
            Keeping::Offered(seq, message) => {
                let key = arrival::conversation_key(&message);
                self.taken_late(&message.recipient, &key, seq, device);
                if let Some(pager) = self.pagers.get_mut(&id).filter(|_| copies) {
                    pager.keeping = Keeping::Offered(seq, message);
                }
            }
            other => pager.keeping = other,
        }
    }

    /// A device has it after all that it was no longer waited for: nobody else gets it, or it gets no
    /// copy.
    pub(super) fn taken_late(
        &mut self,
        recipient: &Identity,
        key: &ConversationKey,
        seq: Seq,
        device: u64,
    ) {
        if self.is_on_its_way_out(recipient, seq) {
            return;
        }
        if self.settings_of(recipient).settings.copy_to != CopyTo::Every {
            self.take_out(recipient, key, seq, Settlement::Delivered);
            return self.run_user_later(recipient);
        }
        if let Some(user) = self.users.get_mut(recipient) {
            user.handle_marked(key, seq, device);
        }
        self.tell_mark(recipient.clone(), seq, device);
    }

    fn branch_ended(&mut self, id: PagerId, now: Now) {
        let Some(pager) = self.pagers.get_mut(&id) else {
            return;
        };
        if pager.branches > 0 {
            return;
        }
        match std::mem::replace(&mut pager.keeping, Keeping::Failed) {
            Keeping::No if pager.answered => {
                self.pagers.remove(&id);
            }
            Keeping::No => {
                pager.keeping = Keeping::No;
                let condition = pager.answers.condition(Form::Pager);
                self.decide(id, condition, now);
            }
            Keeping::Stored(seq, message) => {
                let size = BodySize::of_whole(pager.request.body());
                let Some(Pager { taken, answers, .. }) = self.pagers.remove(&id) else {
                    return;
                };
                self.hold_marked(&message, seq, size, (taken, true), now);
                self.leave_alone(&message, &answers, now);
                self.expire_due_of(&message.recipient, now);
            }
            Keeping::Failed | Keeping::Offered(..) => {
                self.pagers.remove(&id);
            }
            still @ (Keeping::Storing(_) | Keeping::Superseded(_)) => pager.keeping = still,
        }
    }

    /// The devices have had their say, or there is none: the table says what follows.
    fn decide(&mut self, id: PagerId, condition: Condition, now: Now) {
        if verdict(condition, Form::Pager).stored == Stored::Message {
            return self.keep(id, condition, now);
        }
        let Some(pager) = self.pagers.get(&id) else {
            return;
        };
        let Some(best) = pager.answers.best() else {
            return self.unavailable(id, now);
        };
        let (server, status, octets) = (pager.server, best.status(), pager.answer_of(best));
        self.pagers.remove(&id);
        self.sip.respond(server, status, octets, now);
    }

    /// Begins custody, or refuses when nothing may be kept.
    fn keep(&mut self, id: PagerId, condition: Condition, now: Now) {
        let Some(pager) = self.pagers.get(&id) else {
            return;
        };
        if !self.settings.deferral || pager.content.is_composing {
            return self.unavailable(id, now);
        }
        // Whoever keeps it answers for the recipient's side, and understands no extension of MESSAGE.
        if let Some(tags) = unsupported_requirements(&pager.request, &[]) {
            if let Some(pager) = self.pagers.remove(&id) {
                self.bad_extension(&pager.request, pager.server, &tags, now);
            }
            return;
        }
        let message = arrival::of_message(
            &pager.request,
            (&pager.author, &pager.recipient),
            pager.ids.clone(),
            pager.content.clone(),
            self.settings.lifetimes,
            &mut self.tokens,
            now,
        );
        if message.expires_at <= now.wall {
            return self.unavailable(id, now);
        }
        let message = Arc::new(message);
        let body = self.custody_body(pager.request.body().clone());
        tracing::debug!(recipient = %message.recipient, ?condition, "keeping a MESSAGE");
        if self.begin_custody(&message, body, Waiter::Pager(id), now) {
            if let Some(pager) = self.pagers.get_mut(&id) {
                pager.keeping = Keeping::Storing(message);
            }
        } else if let Some(pager) = self.pagers.remove(&id) {
            self.overloaded(&pager.request, pager.server, now);
        }
    }

    /// The store has the message: only now the author hears 202.
    pub(super) fn handle_pager_stored(&mut self, id: PagerId, seq: Seq, now: Now) {
        let Some(pager) = self.pagers.get_mut(&id) else {
            return;
        };
        match std::mem::replace(&mut pager.keeping, Keeping::Failed) {
            Keeping::Storing(message) => {
                pager.answered = true;
                let (request, server) = (pager.request.clone(), pager.server);
                let waits = pager.branches > 0;
                let size = BodySize::of_whole(request.body());
                self.recent.add(message.duplicate_key, seq, now);
                let ids = (message.conversation.as_str(), message.contribution.as_str());
                self.accepted(&request, server, Some(ids), now);
                self.receipt_taken(id);
                self.tell_stored(&message, now);
                if waits {
                    let key = arrival::conversation_key(&message);
                    if let Some(user) = self.users.get_mut(&message.recipient) {
                        user.handle_trying(&key, seq);
                    }
                    if let Some(pager) = self.pagers.get_mut(&id) {
                        pager.keeping = Keeping::Stored(seq, message);
                    }
                    // The user may have registered before it was kept.
                    if self.has_new_way(id) {
                        self.offer_to_others(id, now);
                    }
                } else {
                    let answers = self.pagers.remove(&id).map(|pager| pager.answers);
                    let answers = answers.unwrap_or_default();
                    self.hold(&message, seq, size, answers.is_answered(), now);
                    self.leave_alone(&message, &answers, now);
                }
            }
            Keeping::Superseded(message) => {
                let size = BodySize::of_whole(pager.request.body());
                self.settle(&message.recipient, seq, Settlement::Delivered);
                self.end_storing(&message, size, now);
            }
            _ => {}
        }
        self.branch_ended(id, now);
    }

    /// The store could not take it: the author keeps the message.
    pub(super) fn handle_pager_not_stored(&mut self, id: PagerId, refusal: Refusal, now: Now) {
        let Some(pager) = self.pagers.get_mut(&id) else {
            return;
        };
        let keeping = std::mem::replace(&mut pager.keeping, Keeping::Failed);
        if let Keeping::Storing(message) | Keeping::Superseded(message) = keeping {
            let answered = std::mem::replace(&mut pager.answered, true);
            let (request, server) = (pager.request.clone(), pager.server);
            self.end_storing(&message, BodySize::of_whole(request.body()), now);
            if !answered {
                self.not_stored(&request, server, refusal, now);
            }
        }
        self.branch_ended(id, now);
    }

    /// The user registered: a kept message is not left waiting for the silence of the devices it went to
    /// if there is now a way to him that it has not gone. One of them may still say that it has it.
    pub(super) fn give_up_silent_branches(&mut self, user: &Identity, now: Now) {
        if !self.users.get(user).is_some_and(ServedUser::is_trying) {
            return;
        }
        self.offer_late_firsts(user, now);
        let targets = self.message_targets(user, None);
        let waits_in_vain = |pager: &Pager| {
            pager.recipient == *user
                && matches!(pager.keeping, Keeping::Stored(..))
                && targets
                    .iter()
                    .any(|target| !pager.ways.contains(&target.flow))
        };
        let all = self.pagers.iter().filter(|(_, pager)| waits_in_vain(pager));
        let mut vain: Vec<PagerId> = all.map(|(id, _)| *id).collect();
        vain.sort();
        for id in vain {
            self.offer_to_others(id, now);
        }
    }

    /// Whether there is a way to the user, of those it may go, that it has not gone.
    fn has_new_way(&self, id: PagerId) -> bool {
        self.pagers.get(&id).is_some_and(|pager| {
            let targets = self.message_targets(&pager.recipient, Some(&pager.request));
            let mut ways = targets.iter().map(|target| target.flow);
            ways.any(|way| !pager.ways.contains(&way))
        })
    }

    /// A device that said when it may be tried again is not tried before (RFC 3261 §20.33).
    fn leave_alone(&mut self, message: &DeferredMessage, answers: &DeviceAnswers, now: Now) {
        if let Some(user) = self.users.get_mut(&message.recipient) {
            let key = arrival::conversation_key(message);
            user.handle_asked(&key, answers.asked(), now);
        }
    }

    fn offer_to_others(&mut self, id: PagerId, now: Now) {
        let Some(pager) = self.pagers.get_mut(&id) else {
            return;
        };
        match std::mem::replace(&mut pager.keeping, Keeping::Failed) {
            Keeping::Stored(seq, message) => {
                let size = BodySize::of_whole(pager.request.body());
                let taken = std::mem::take(&mut pager.taken);
                pager.keeping = Keeping::Offered(seq, message.clone());
                self.hold_marked(&message, seq, size, (taken, false), now);
                self.expire_due_of(&message.recipient, now);
            }
            other => pager.keeping = other,
        }
    }

    /// Keeps what no device answered in time.
    pub(super) fn handle_pager_timeouts(&mut self, now: Now) {
        while let Some((deadline, id)) = self.pager_deadlines.front().copied() {
            if deadline > now.instant {
                break;
            }
            self.pager_deadlines.pop_front();
            let waits = |pager: &Pager| !pager.answered && matches!(pager.keeping, Keeping::No);
            if self.pagers.get(&id).is_some_and(waits) {
                self.decide(id, Condition::Unreachable, now);
                self.after_pager(id, now);
            }
        }
    }

    fn unavailable(&mut self, id: PagerId, now: Now) {
        self.refuse(id, &Rejection::new(480, "Temporarily Unavailable"), now);
    }

    pub(super) fn refuse(&mut self, id: PagerId, rejection: &Rejection, now: Now) {
        if let Some(pager) = self.pagers.remove(&id) {
            self.reject(&pager.request, pager.server, rejection, now);
        }
    }

    /// A body as the store takes it: octets of a long one go ahead into a spool.
    pub(super) fn custody_body(&mut self, octets: bytes::Bytes) -> Body {
        if octets.len() as u64 <= super::spool::IN_MEMORY {
            return Body::Inline(octets);
        }
        let spool = self.custody.new_spool();
        let length = octets.len() as u64;
        self.custody.tell(StoreRequest::Append {
            spool,
            offset: 0,
            octets,
        });
        Body::Spooled { spool, length }
    }
}

/// What a MESSAGE with a disposition notification says; a malformed one is refused (cpm-facts §11).
pub(super) fn read_receipt(
    request: &Message,
    author: &Identity,
    recipient: &Identity,
) -> Result<Receipt, Rejection> {
    let content_type = request.header(HeaderName::ContentType).unwrap_or_default();
    let disposition = request.header(HeaderName::ContentDisposition);
    let notices = Notice::read(content_type, disposition, request.body())
        .map_err(|_| Rejection::new(400, "Malformed message/imdn+xml"))?;
    Ok(Receipt {
        author: recipient.clone(),
        speaker: author.clone(),
        own: false,
        notices,
    })
}

/// The request as it goes to a device (RFC 3261 §16.6): identity headers are ours to assert.
fn to_device(request: &Message, author: &Identity, target: &Target, via: &str) -> bytes::Bytes {
    super::forward::to_device(request, author, target, via, None)
}

/// A device's answer on its way to the author: our Via is taken off (RFC 3261 §16.7 step 3).
fn upstream(response: &Message, generated: Option<&ConversationHeaders>) -> bytes::Bytes {
    let mut edit = Edit::new(response);
    edit.remove_first_value(HeaderName::Via);
    // RFC 3325 §5: what a device asserts of itself is not ours to pass on.
    edit.remove(HeaderName::PAssertedIdentity);
    if let Some(ids) = generated {
        edit.remove(HeaderName::ConversationId);
        edit.remove(HeaderName::ContributionId);
        edit.append("Conversation-ID", &ids.conversation);
        edit.append("Contribution-ID", &ids.contribution);
    }
    edit.finish()
}
