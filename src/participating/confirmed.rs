//! Messages that ask for receipts are made known to their author's shard, and kept ones that their
//! recipient has already confirmed leave the store (cpm-facts §6: clients confirm a message that came
//! in an INVITE while it rings, even if the INVITE then fails).

use crate::clock::{Now, UnixMillis};
use crate::config::CopyTo;
use crate::identity::{Identity, shard_of};
use crate::participating::chat::{Chat, ChatId};
use crate::participating::internal::InternalMessage;
use crate::participating::outgoing;
use crate::participating::receipts::{MessageRef, Receipt, Sent};
use crate::participating::service::{Service, Waiter};
use crate::store::request::{ConversationKey, DeferredMessage, Held, Seq, Settlement};

/// A search for a confirmed message in its recipient's queue.
#[derive(Clone, Debug)]
pub struct Search {
    message: MessageRef,
    after: Option<Seq>,
}

impl Service {
    /// To the shard of this user, which may be our own.
    pub(super) fn tell_shard_of(&mut self, user: &Identity, message: InternalMessage) {
        let shard = shard_of(user, self.settings.shards);
        self.forwards.push_back((shard, Box::new(message)));
    }

    /// A message goes out that may bring receipts: said to its author's shard before a device has it,
    /// and if its author is to stay unnamed, to its recipient's.
    pub(super) fn expect_receipts(
        &mut self,
        message: MessageRef,
        expires: UnixMillis,
        is_private: bool,
    ) {
        if !self.is_local(&message.author) {
            return;
        }
        let author = message.author.clone();
        let until = expires.plus(self.settings.lifetimes.receipts);
        let sent = Box::new(Sent { message, until });
        if is_private {
            let recipient = sent.message.recipient.clone();
            self.tell_shard_of(&recipient, InternalMessage::Unnamed(sent.clone()));
        }
        self.tell_shard_of(&author, InternalMessage::Sent(sent));
    }

    /// A kept message goes out: after a restart its author's shard learns of it again.
    pub(super) fn expect_receipts_of_kept(&mut self, message: &DeferredMessage) {
        if message.dispositions.is_empty() {
            return;
        }
        let named = MessageRef::of(message);
        self.expect_receipts(named, message.expires_at, outgoing::is_private(message));
    }

    /// An author of this shard has sent a message that asks for receipts.
    pub(super) fn handle_sent(&mut self, sent: &Sent, now: Now) {
        let before = self.receipts.table.len();
        let forgotten = self.receipts.table.sent(sent, now.wall);
        self.count_rows(before, forgotten);
    }

    /// What the recipient says that he has need not wait for him.
    pub(super) fn cancel_confirmed(&mut self, receipt: &Receipt) {
        if receipt.own || !self.is_local(&receipt.speaker) {
            return;
        }
        for notice in receipt.notices.iter().filter(|notice| notice.confirms()) {
            let message = Box::new(MessageRef {
                author: receipt.author.clone(),
                recipient: receipt.speaker.clone(),
                message_id: notice.message_id.clone(),
            });
            self.tell_shard_of(&receipt.speaker, InternalMessage::Confirmed(message));
        }
    }

    /// A chat whose INVITE carries a message that a receipt may speak of.
    pub(super) fn await_receipt(&mut self, id: ChatId) {
        if self.firsts.len() > 2 * self.chats.len() + 16 {
            let chats = &self.chats;
            let waits = |id: &ChatId| chats.get(id).is_some_and(|chat| chat.first.is_some());
            self.firsts.retain(waits);
        }
        self.firsts.push(id);
    }

    /// The message of an INVITE that still rings is not kept if the INVITE fails.
    fn confirm_first(&mut self, message: &MessageRef) {
        for id in &self.firsts {
            let chat = self.chats.get_mut(id);
            let is_it =
                |it: &&mut Chat| it.callee == message.recipient && it.caller == message.author;
            if let Some(first) = chat.filter(is_it).and_then(|chat| chat.first.as_mut())
                && first.message.message_id() == Some(&*message.message_id)
            {
                first.confirmed = true;
            }
        }
    }

    /// A user of this shard has confirmed a message. A copy that is out with a delivery is left to it.
    pub(super) fn handle_confirmed(&mut self, message: MessageRef, now: Now) {
        self.confirm_first(&message);
        // What one device has, the others have not.
        if self.settings_of(&message.recipient).settings.copy_to == CopyTo::Every {
            return;
        }
        let user = self.users.get(&message.recipient);
        match user.map(|user| user.find_held(&message.author, &message.message_id)) {
            Some(Some((key, seq))) => self.settle_confirmed(&message.recipient, &key, seq),
            Some(None) if user.is_some_and(|user| user.has_all()) => {}
            Some(None) => self.search(
                Search {
                    message,
                    after: None,
                },
                now,
            ),
            None if self.waiting.contains(&message.recipient) => {
                self.search(
                    Search {
                        message,
                        after: None,
                    },
                    now,
                );
            }
            None => {}
        }
    }

    fn settle_confirmed(&mut self, recipient: &Identity, key: &ConversationKey, seq: Seq) {
        if self.is_on_its_way_out(recipient, seq) {
            return;
        }
        let machine = self.users.get(recipient);
        if machine.is_some_and(|machine| machine.is_out(key, seq)) {
            return;
        }
        tracing::debug!(%recipient, seq = seq.0, "the recipient has it already");
        self.metrics.messages_confirmed.count();
        self.take_out(recipient, key, seq, Settlement::Delivered);
        self.run_user_later(recipient);
    }

    /// Reads the queue page by page. Without a credit the copy stays: the device knows it by its id.
    fn search(&mut self, search: Search, now: Now) {
        let (recipient, after) = (search.message.recipient.clone(), search.after);
        let waiter = Waiter::Search(Box::new(search));
        if self.custody.load(recipient, after, waiter, now).is_err() {
            tracing::debug!("no credit to look for a confirmed message");
        }
    }

    /// A page of the queue.
    pub(super) fn handle_searched(&mut self, search: Search, held: &[Held], more: bool, now: Now) {
        let Search { message, .. } = search;
        let is_it = |held: &&Held| {
            held.conversation.author == message.author && held.message_id == message.message_id
        };
        if let Some(found) = held.iter().find(is_it) {
            let (key, seq) = (found.conversation.clone(), found.seq);
            return self.settle_confirmed(&message.recipient, &key, seq);
        }
        if let (true, Some(last)) = (more, held.last()) {
            let after = Some(last.seq);
            self.search(Search { message, after }, now);
        }
    }
}
