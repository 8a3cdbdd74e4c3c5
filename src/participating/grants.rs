//! Whether live messages may pass to the caller of a chat (decision 10). The chat lives on its
//! recipient's shard; the caller's machine, on his own, says whether anything older of the conversation
//! is kept for him. It is asked once for each chat, and says so again when that changes.

use std::collections::{BTreeMap, HashMap};

use crate::identity::{Identity, shard_of};
use crate::participating::chat::{Chat, ChatId, Side};
use crate::participating::internal::{InternalMessage, Origin};
use crate::participating::served_user::Carrier;
use crate::participating::service::Service;
use crate::store::request::ConversationKey;

/// What a chat knows of its caller's machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grant {
    /// It is on this shard, and asked for every message.
    Here,
    /// There is none: the caller is no user of ours.
    Nobody,
    /// It is on that shard, and has not answered yet: messages are kept.
    Asked(u16),
    /// It is on that shard, and this is what it said last.
    Given(u16, bool),
}

/// What this shard has told others about its users; as many as there are chats to them.
#[derive(Debug, Default)]
pub(super) struct Grants {
    given: HashMap<Identity, BTreeMap<Origin, Given>, foldhash::fast::RandomState>,
}

impl Grants {
    /// Users of whom other shards' chats are told.
    pub(super) fn len(&self) -> usize {
        self.given.len()
    }
}

#[derive(Debug)]
struct Given {
    key: ConversationKey,
    may_pass: bool,
}

impl Service {
    /// A chat begins: its caller's machine is asked before the first device answers.
    pub(super) fn ask_grant(&mut self, id: ChatId, chat: &Chat) -> Grant {
        if !self.is_local(&chat.caller) {
            return Grant::Nobody;
        }
        let shard = shard_of(&chat.caller, self.settings.shards);
        if shard == self.settings.shard {
            return Grant::Here;
        }
        let question = InternalMessage::MayPass {
            user: chat.caller.clone(),
            key: chat.conversation_of(Side::Callee),
            chat: self.origin_of(id),
        };
        self.forwards.push_back((shard, Box::new(question)));
        Grant::Asked(shard)
    }

    fn origin_of(&self, id: ChatId) -> Origin {
        Origin {
            shard: self.settings.shard,
            number: id.0,
        }
    }

    /// The chat is over: nothing more need be told of it.
    pub(super) fn return_grant(&mut self, id: ChatId, chat: &Chat) {
        if let Grant::Asked(shard) | Grant::Given(shard, _) = chat.grant {
            let over = InternalMessage::PassOver {
                user: chat.caller.clone(),
                chat: self.origin_of(id),
            };
            self.forwards.push_back((shard, Box::new(over)));
        }
    }

    /// Whether the callee's messages may go to the caller at once.
    pub(super) fn may_pass_to_caller(&self, chat: &Chat) -> bool {
        match chat.grant {
            Grant::Nobody => true,
            Grant::Asked(_) => false,
            Grant::Given(_, may_pass) => may_pass,
            Grant::Here => {
                self.machine_lets_pass(&chat.caller, &chat.conversation_of(Side::Callee))
            }
        }
    }

    fn machine_lets_pass(&self, user: &Identity, key: &ConversationKey) -> bool {
        self.lets_pass(user, key, Carrier::Session)
    }

    /// Another shard asks for a chat of its own.
    pub(super) fn give_grant(&mut self, user: Identity, key: ConversationKey, chat: Origin) {
        let may_pass = self.machine_lets_pass(&user, &key);
        let given = self.grants.given.entry(user).or_default();
        given.insert(chat, Given { key, may_pass });
        self.tell_grant(chat, may_pass);
    }

    fn tell_grant(&mut self, Origin { shard, number }: Origin, may_pass: bool) {
        let answer = InternalMessage::Pass { number, may_pass };
        self.forwards.push_back((shard, Box::new(answer)));
    }

    /// Another shard's chat is over.
    pub(super) fn take_grant_back(&mut self, user: &Identity, chat: Origin) {
        if let Some(given) = self.grants.given.get_mut(user) {
            given.remove(&chat);
            if given.is_empty() {
                self.grants.given.remove(user);
            }
        }
    }

    /// The user's machine has changed its mind, perhaps. Told before anything that follows from it, so
    /// that no shard hears of a kept message before it hears that nothing may pass it.
    pub(super) fn review_grants(&mut self, user: &Identity) {
        let (machine, in_line) = (self.users.get(user), self.stands_in_line(user));
        let Some(given) = self.grants.given.get_mut(user) else {
            return;
        };
        let mut changed = Vec::new();
        for (chat, given) in given.iter_mut() {
            let may_pass = match machine {
                Some(machine) => machine.may_pass(&given.key, Carrier::Session),
                None => !in_line,
            };
            if std::mem::replace(&mut given.may_pass, may_pass) != may_pass {
                changed.push((*chat, may_pass));
            }
        }
        for (chat, may_pass) in changed {
            self.tell_grant(chat, may_pass);
        }
    }

    /// The caller's machine has spoken.
    pub(super) fn handle_pass(&mut self, number: u64, may_pass: bool) {
        if let Some(chat) = self.chats.get_mut(&ChatId(number))
            && let Grant::Asked(shard) | Grant::Given(shard, _) = chat.grant
        {
            chat.grant = Grant::Given(shard, may_pass);
        }
    }
}
