//! Pager mode: a SIP MESSAGE goes to the recipient's devices, or is kept (cpm-facts §4, §6).
//!
//! 200 only when a device took it; 202 when it is durable here. While no device has answered within
//! `answer_within`, the message is kept and the branches go on: a late 2xx settles the kept copy.

use crate::clock::Now;
use crate::identity::Identity;
use crate::participating::arrival::{self, Content};
use crate::participating::contacts::Target;
use crate::participating::deferral::{Condition, DeviceAnswers, Form, Stored, verdict};
use crate::participating::receipts::Receipt;
use crate::participating::served_user::ServedUser;
use crate::participating::service::{Service, Usage, Waiter};
use crate::participating::spool::BodySize;
use crate::sip::message::HeaderName;
use crate::sip::message::Message;
use crate::sip::rejection::Rejection;
use crate::sip::splice::Edit;
use crate::sip::transaction::table::{Kind, ServerId};
use crate::sip::transport::flow::Flow;
use crate::store::request::{Body, DeferredMessage, Refusal, Seq, Settlement, StoreRequest};

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
    /// What it reports, if it is a notification: claimed, and given back if it is refused.
    receipt: Option<Receipt>,
    answered: bool,
    branches: usize,
    /// The flows those branches went over.
    ways: Vec<Flow>,
    answers: DeviceAnswers,
    keeping: Keeping,
}

#[derive(Debug)]
enum Keeping {
    No,
    Storing(Box<DeferredMessage>),
    Stored(Seq, Box<DeferredMessage>),
    /// A device took it while it was being stored.
    Superseded(Box<DeferredMessage>),
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
        let content = match self.read_message(&request) {
            Ok(content) => content,
            Err(rejection) => return self.reject(&request, server, &rejection, now),
        };
        if self.pagers.len() >= self.settings.most_under_way {
            return self.overloaded(&request, server, now);
        }
        if let Some(seq) = self.recent.find(arrival::duplicate_key(&request)) {
            tracing::debug!(seq = seq.0, "a MESSAGE kept before a restart came again");
            return self.accepted(&request, server, None, now);
        }
        let receipt = content
            .is_notification
            .then(|| Receipt::read(request.body(), &recipient, &author))
            .flatten();
        if let Some(receipt) = &receipt {
            self.note_receipt(receipt);
        }
        if receipt
            .as_ref()
            .is_some_and(|receipt| !self.receipts.claim(receipt, now))
        {
            tracing::debug!(%author, "a second notification of one kind ends here");
            let octets = self.reply(&request, 200, "OK", None).build();
            return self.sip.respond(server, 200, octets, now);
        }
        let targets = self.message_targets(&recipient, Some(&request));
        let pass = !targets.is_empty() && self.may_pass(&request, &author, &recipient);
        let absent = self.absence(&recipient);
        let id = PagerId(self.next_number());
        let pager = Pager {
            request,
            server,
            author,
            recipient,
            content,
            receipt,
            answered: false,
            branches: 0,
            ways: Vec::new(),
            answers: DeviceAnswers::default(),
            keeping: Keeping::No,
        };
        self.pagers.insert(id, pager);
        if pass {
            self.fork_message(id, &targets, now);
        } else {
            self.decide(id, absent, now);
        }
    }

    fn read_message(&self, request: &Message) -> Result<Content, Rejection> {
        if request.body().len() as u64 > self.settings.largest_message {
            return Err(Rejection::new(413, "Request Entity Too Large"));
        }
        let content_type = request.header(HeaderName::ContentType);
        let content_type = content_type.unwrap_or("text/plain");
        Content::read(content_type, request.body())
    }

    /// A message never overtakes one that is being stored or replayed (decision 3).
    fn may_pass(&mut self, request: &Message, author: &Identity, recipient: &Identity) -> bool {
        let Some(user) = self.users.get(recipient) else {
            return true;
        };
        let ids = arrival::ConversationHeaders::read(request, author, recipient, &mut self.tokens);
        ids.is_ok_and(|ids| {
            user.may_pass(&crate::store::request::ConversationKey {
                author: author.clone(),
                conversation: ids.conversation.into(),
            })
        })
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
            let octets = to_device(&pager.request, &pager.author, target, &via.value);
            let usage = Usage::Pager(id);
            let sent = self
                .sip
                .send(Kind::NonInvite, via, octets, target.flow, usage, now);
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
    pub(super) fn handle_pager_response(&mut self, id: PagerId, response: Message, now: Now) {
        let status = response.status();
        if status < 200 {
            return;
        }
        let Some(pager) = self.pagers.get_mut(&id) else {
            return;
        };
        pager.branches = pager.branches.saturating_sub(1);
        if status < 300 {
            self.message_taken(id, &response, now);
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
    fn message_taken(&mut self, id: PagerId, response: &Message, now: Now) {
        let Some(pager) = self.pagers.get_mut(&id) else {
            return;
        };
        if !pager.answered {
            pager.answered = true;
            let octets = upstream(response);
            self.sip
                .respond(pager.server, response.status(), octets, now);
        }
        let Some(pager) = self.pagers.get_mut(&id) else {
            return;
        };
        match std::mem::replace(&mut pager.keeping, Keeping::No) {
            Keeping::Storing(message) => pager.keeping = Keeping::Superseded(message),
            Keeping::Stored(seq, message) => {
                pager.keeping = Keeping::Failed;
                let size = BodySize::of_whole(pager.request.body());
                let key = arrival::conversation_key(&message);
                self.settle(&message.recipient, seq, Settlement::Delivered);
                if let Some(user) = self.users.get_mut(&message.recipient) {
                    user.handle_settled(&key, seq);
                }
                self.end_storing(&message, size, now);
            }
            other => pager.keeping = other,
        }
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
                self.pagers.remove(&id);
                self.hold(&message, seq, size, true, now);
            }
            Keeping::Failed => {
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
        let (server, status, octets) = (pager.server, best.status(), upstream(best));
        if let Some(pager) = self.pagers.remove(&id) {
            self.give_receipt_back(&pager);
        }
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
        let message = arrival::of_message(
            &pager.request,
            &pager.author,
            &pager.recipient,
            pager.content.clone(),
            self.settings.lifetimes,
            &mut self.tokens,
            now,
        );
        let message = match message {
            Ok(message) if message.expires_at > now.wall => Box::new(message),
            Ok(_) => return self.unavailable(id, now),
            Err(rejection) => return self.refuse(id, &rejection, now),
        };
        let body = self.custody_body(pager.request.body().clone());
        tracing::debug!(recipient = %message.recipient, ?condition, "keeping a MESSAGE");
        if self.begin_custody(&message, body, Waiter::Pager(id), now) {
            if let Some(pager) = self.pagers.get_mut(&id) {
                pager.keeping = Keeping::Storing(message);
            }
        } else if let Some(pager) = self.pagers.remove(&id) {
            self.give_receipt_back(&pager);
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
                self.tell_stored(&message, now);
                if waits {
                    let key = arrival::conversation_key(&message);
                    if let Some(user) = self.users.get_mut(&message.recipient) {
                        user.handle_trying(&key, seq);
                    }
                    if let Some(pager) = self.pagers.get_mut(&id) {
                        pager.keeping = Keeping::Stored(seq, message);
                    }
                } else {
                    let tried = pager_was_tried(self.pagers.remove(&id));
                    self.hold(&message, seq, size, tried, now);
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
            let receipt = pager.receipt.take();
            self.end_storing(&message, BodySize::of_whole(request.body()), now);
            if !answered {
                if let Some(receipt) = receipt {
                    self.receipts.give_back(&receipt);
                }
                self.not_stored(&request, server, refusal, now);
            }
        }
        self.branch_ended(id, now);
    }

    /// The user registered: a kept message is not left waiting for the silence of the devices it went to
    /// if there is now a way to him that it has not gone.
    pub(super) fn give_up_silent_branches(&mut self, user: &Identity, now: Now) {
        if !self.users.get(user).is_some_and(ServedUser::is_trying) {
            return;
        }
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
            if let Some(pager) = self.pagers.get_mut(&id) {
                pager.branches = 0;
            }
            self.branch_ended(id, now);
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
            }
        }
    }

    fn unavailable(&mut self, id: PagerId, now: Now) {
        self.refuse(id, &Rejection::new(480, "Temporarily Unavailable"), now);
    }

    fn refuse(&mut self, id: PagerId, rejection: &Rejection, now: Now) {
        if let Some(pager) = self.pagers.remove(&id) {
            self.give_receipt_back(&pager);
            self.reject(&pager.request, pager.server, rejection, now);
        }
    }

    /// A notification that its author did not get may come again.
    fn give_receipt_back(&mut self, pager: &Pager) {
        if let Some(receipt) = &pager.receipt {
            self.receipts.give_back(receipt);
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

fn pager_was_tried(pager: Option<Pager>) -> bool {
    pager.is_some_and(|pager| pager.answers.is_answered())
}

/// The request as it goes to a device (RFC 3261 §16.6): identity headers are ours to assert.
fn to_device(request: &Message, author: &Identity, target: &Target, via: &str) -> bytes::Bytes {
    super::forward::to_device(request, author, target, via, None)
}

/// A device's answer on its way to the author: our Via is taken off (RFC 3261 §16.7 step 3).
pub(super) fn upstream(response: &Message) -> bytes::Bytes {
    let mut edit = Edit::new(response);
    edit.remove_first_value(HeaderName::Via);
    // RFC 3325 §5: what a device asserts of itself is not ours to pass on.
    edit.remove(HeaderName::PAssertedIdentity);
    edit.finish()
}
