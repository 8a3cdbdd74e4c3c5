//! Notifications the participating function makes itself (RFC 5438, cpm-facts §8): `stored` once when
//! asked, `failed` when a kept message ends undelivered and the author asked to know.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Now;
use crate::cpim;
use crate::identity::Identity;
use crate::imdn::{DispositionNotification, Dispositions, Kind, Status};
use crate::participating::internal::{HandedReceipt, InternalMessage, Origin};
use crate::participating::outgoing::FUNCTION;
use crate::participating::receipts::{Notice, Receipt};
use crate::participating::service::Service;
use crate::store::request::{Body, DeferredMessage, MessageKind, Refusal, Seq, Settlement};

/// A message that leaves undelivered, while its author is being told.
#[derive(Debug)]
pub(super) struct Leaving {
    seq: Seq,
    message: Arc<DeferredMessage>,
    settlement: Settlement,
}

/// How long a message can still be named as due after it was settled: the readers of the store do not
/// wait for its log.
const SETTLES_WITHIN: Duration = Duration::from_secs(60);

impl Service {
    /// The author hears `processing/stored` if he asked for it (RFC 5438 §7.2.1.2: once).
    pub(super) fn tell_stored(&mut self, message: &DeferredMessage, now: Now) {
        if message.dispositions.contains(Dispositions::PROCESSING) {
            self.notify_author(message, Kind::Processing, Status::Stored, None, now);
        }
    }

    /// A notification never begets another; those for other domains have no way to go.
    fn is_notifiable(&self, about: &DeferredMessage) -> bool {
        about.kind != MessageKind::Notification && self.is_local(&about.author)
    }

    fn notify_author(
        &mut self,
        about: &DeferredMessage,
        kind: Kind,
        status: Status,
        origin: Option<Origin>,
        now: Now,
    ) {
        if !self.is_notifiable(about) {
            return;
        }
        let function = self.function();
        let message_id = self.tokens.token();
        let date_time = cpim::format_date_time(now.wall);
        let about_date_time = about.date_time.clone();
        let document = DispositionNotification {
            message_id: about.message_id.clone(),
            date_time: about_date_time.unwrap_or_else(|| cpim::format_date_time(about.accepted_at)),
            recipient_uri: Some(format!("sip:{}", about.recipient)),
            kind,
            status,
        };
        let (from, to) = (
            format!("<sip:{function}>"),
            format!("<sip:{}>", about.author),
        );
        let body = cpim::wrap_notification(&document, &from, &to, &date_time, &message_id);
        let notification = DeferredMessage {
            recipient: about.author.clone(),
            author: function,
            from,
            to,
            kind: MessageKind::Notification,
            conversation: about.conversation.clone(),
            contribution: self.tokens.token(),
            in_reply_to: None,
            headers: Vec::new(),
            content_type: "message/cpim".to_owned(),
            message_id,
            date_time: Some(date_time),
            dispositions: Dispositions::default(),
            accepted_at: now.wall,
            expires_at: now.wall.plus(self.settings.lifetimes.receipts),
            duplicate_key: 0,
        };
        let receipt = Receipt {
            author: about.author.clone(),
            speaker: about.recipient.clone(),
            own: true,
            notices: vec![Notice::from(&document)],
        };
        let handed = HandedReceipt {
            receipt,
            message: Arc::new(notification),
            body: Body::Inline(body.into()),
            origin,
        };
        self.tell_shard_of(&about.author, InternalMessage::Receipt(Box::new(handed)));
    }

    /// Messages whose time is over: gone from the queue, and the author told.
    pub(super) fn handle_due(
        &mut self,
        due: Vec<(Seq, Arc<DeferredMessage>)>,
        delivered: &[Seq],
        now: Now,
    ) {
        for (seq, message) in due {
            if self.is_on_its_way_out(&message.recipient, seq) {
                continue;
            }
            let key = super::arrival::conversation_key(&message);
            let machine = self.users.get(&message.recipient);
            if machine.is_some_and(|machine| machine.is_out(&key, seq)) {
                self.due_in_flight
                    .insert((message.recipient.clone(), seq), message);
            } else {
                let delivered = delivered.contains(&seq);
                self.expire(seq, message, delivered, now);
            }
        }
    }

    /// Whether a message is leaving the store, or has just left it: an answer that was read before may still
    /// name it.
    pub(super) fn is_on_its_way_out(&self, user: &Identity, seq: Seq) -> bool {
        self.expiring.contains_key(&(user.clone(), seq)) || self.told.has_settled(user, seq)
    }

    /// Whether some device has got a copy of a message that waits for others.
    fn has_been_copied(&self, message: &DeferredMessage, seq: Seq) -> bool {
        let key = super::arrival::conversation_key(message);
        let machine = self.users.get(&message.recipient);
        machine.is_some_and(|machine| machine.is_marked(&key, seq))
            || self.told.has_mark(&message.recipient, seq)
    }

    /// What expired while it was out with a delivery, or with devices as it first came, that have now
    /// ended without it.
    pub(super) fn expire_due_of(&mut self, user: &Identity, now: Now) {
        let mut over: Vec<(Identity, Seq)> = self
            .due_in_flight
            .keys()
            .filter(|key| key.0 == *user)
            .cloned()
            .collect();
        over.sort();
        let machine = self.users.get(user);
        over.retain(|(_, seq)| {
            let message = self.due_in_flight.get(&(user.clone(), *seq));
            let key = message.map(|message| super::arrival::conversation_key(message));
            // Another delivery may still have it.
            !machine.is_some_and(|it| key.is_some_and(|key| it.is_out(&key, *seq)))
        });
        for key in over {
            if let Some(message) = self.due_in_flight.remove(&key) {
                self.expire(key.1, message, false, now);
            }
        }
    }

    /// It was delivered after all.
    pub(super) fn forget_due(&mut self, user: &Identity, seq: Seq) {
        if !self.due_in_flight.is_empty() {
            self.due_in_flight.remove(&(user.clone(), seq));
        }
    }

    fn expire(&mut self, seq: Seq, message: Arc<DeferredMessage>, delivered: bool, now: Now) {
        // The store names it again in a second: a storm of failures is told bit by bit.
        if self.owes_failure(&message, seq, delivered) && !self.may_tell_failure(now) {
            return;
        }
        tracing::info!(recipient = %message.recipient, seq = seq.0, "a kept message expired");
        if message.kind == MessageKind::Notification {
            self.metrics.receipts_expired.count();
        }
        self.metrics.messages_expired.count();
        self.end_told(seq, message, Settlement::Expired, delivered, now);
    }

    /// A kept message turned out to be damaged: its author hears so as far as it is known who he is.
    pub(super) fn handle_ruined(
        &mut self,
        user: &Identity,
        seq: Seq,
        message: Option<Arc<DeferredMessage>>,
        delivered: bool,
        now: Now,
    ) {
        self.metrics.messages_damaged.count();
        self.forget_due(user, seq);
        if let Some(message) = message {
            tracing::error!(recipient = %user, author = %message.author, seq = seq.0,
                "a kept message is damaged and cannot be delivered");
            self.end_waiting(seq, message, Settlement::Failed, delivered, now);
        } else {
            tracing::error!(recipient = %user, seq = seq.0,
                "a kept message is damaged, and so is its author's name: nobody can be told");
            self.leave(user, seq, Settlement::Failed, now);
        }
    }

    /// See [`Self::end_waiting`]; no device has got it.
    pub(super) fn end_undelivered(
        &mut self,
        seq: Seq,
        message: Arc<DeferredMessage>,
        settlement: Settlement,
        now: Now,
    ) {
        self.end_waiting(seq, message, settlement, false, now);
    }

    /// An author who asked for it hears `failed`, unless some device has got a copy (`delivered`); only
    /// once that is durable does the message leave the store, so that it never vanishes without a word.
    pub(super) fn end_waiting(
        &mut self,
        seq: Seq,
        message: Arc<DeferredMessage>,
        settlement: Settlement,
        delivered: bool,
        now: Now,
    ) {
        if self.owes_failure(&message, seq, delivered) && !self.may_tell_failure(now) {
            let recipient = message.recipient.clone();
            let key = super::arrival::conversation_key(&message);
            if let Some(machine) = self.users.get_mut(&recipient) {
                machine.handle_settled(&key, seq);
            }
            self.expiring.insert((recipient.clone(), seq), None);
            self.untold.push(Leaving {
                seq,
                message,
                settlement,
            });
            return self.run_user_later(&recipient);
        }
        self.end_told(seq, message, settlement, delivered, now);
    }

    /// Whether an author is to hear that his message failed: he asked for it, no device has it, and the
    /// operator suppresses no errors.
    fn owes_failure(&self, message: &DeferredMessage, seq: Seq, delivered: bool) -> bool {
        !self.traffic.suppress_errors
            && !delivered
            && !self.has_been_copied(message, seq)
            && message.dispositions.contains(Dispositions::NEGATIVE)
            && self.is_notifiable(message)
    }

    fn end_told(
        &mut self,
        seq: Seq,
        message: Arc<DeferredMessage>,
        settlement: Settlement,
        delivered: bool,
        now: Now,
    ) {
        let recipient = message.recipient.clone();
        let key = super::arrival::conversation_key(&message);
        let delivered = delivered || self.has_been_copied(&message, seq);
        if let Some(machine) = self.users.get_mut(&recipient) {
            machine.handle_settled(&key, seq);
        }
        let wants_word = !delivered
            && message.dispositions.contains(Dispositions::NEGATIVE)
            && self.is_notifiable(&message);
        if wants_word && !self.suppresses_failure(now) {
            let number = self.next_number();
            let origin = Origin {
                shard: self.settings.shard,
                number,
            };
            self.notify_author(&message, Kind::Delivery, Status::Failed, Some(origin), now);
            let leaving = Leaving {
                seq,
                message,
                settlement,
            };
            self.telling.insert(number, leaving);
            self.expiring.insert((recipient.clone(), seq), None);
        } else {
            self.leave(&recipient, seq, settlement, now);
        }
        self.run_user_later(&recipient);
    }

    /// The author's shard has, or has not, taken the notification that a message ended. If not, an
    /// expired message is found due again, and the author of another is told again. False if the number names something else.
    pub(super) fn handle_author_told(&mut self, number: u64, durable: bool, now: Now) -> bool {
        let Some(leaving) = self.telling.remove(&number) else {
            return false;
        };
        let recipient = leaving.message.recipient.clone();
        if durable {
            self.leave(&recipient, leaving.seq, leaving.settlement, now);
        } else if leaving.settlement == Settlement::Expired {
            self.expiring.remove(&(recipient, leaving.seq));
        } else {
            self.untold.push(leaving);
        }
        true
    }

    fn leave(&mut self, recipient: &Identity, seq: Seq, settlement: Settlement, now: Now) {
        self.settle(recipient, seq, settlement);
        let until = now.instant + SETTLES_WITHIN;
        self.expiring.insert((recipient.clone(), seq), Some(until));
        if settlement == Settlement::Evicted {
            self.handle_room_made(recipient, now);
        }
    }

    /// Tells authors again who could not be told before.
    pub(super) fn tell_again(&mut self, now: Now) {
        for leaving in std::mem::take(&mut self.untold) {
            self.end_undelivered(leaving.seq, leaving.message, leaving.settlement, now);
        }
    }

    /// A receipt of our own for an author whose queue is full even for receipts is dropped: if it were
    /// waited for, the message it speaks of would never leave. False if it is something else.
    pub(super) fn drop_own_receipt(&self, message: &DeferredMessage, refusal: Refusal) -> bool {
        let is_ours =
            message.kind == MessageKind::Notification && message.author == self.function();
        let is_dropped = is_ours && refusal == Refusal::OverQuota;
        if is_dropped {
            tracing::warn!(author = %message.recipient, "no room for a receipt among those he never fetched");
            self.metrics.receipts_dropped.count();
        }
        is_dropped
    }

    /// Who our own notifications are from.
    fn function(&self) -> Identity {
        Identity::new(FUNCTION, &self.settings.domain)
    }

    /// Forgets expired messages that the store no longer names as due.
    pub(super) fn forget_expired(&mut self, now: Now) {
        let mut gone = Vec::new();
        self.expiring.retain(|(user, _), until| {
            let stays = until.is_none_or(|until| until > now.instant);
            if !stays {
                gone.push(user.clone());
            }
            stays
        });
        for user in gone {
            self.doubt(&user);
        }
    }
}
