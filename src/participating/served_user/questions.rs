//! What others ask of the machine; nothing changes.

use crate::identity::Identity;
use crate::participating::conversation::{Conversation, State, choose_carrier};
use crate::store::request::{ConversationKey, Held, Seq};

use super::{Loading, RunId, ServedUser, Standing};

impl ServedUser {
    /// Whether it does nothing and asks for nothing, until something happens.
    pub fn is_at_leisure(&self) -> bool {
        self.runs.is_empty() && self.actions.is_empty() && !matches!(self.loading, Loading::Asked)
    }

    /// Whether the whole queue has been read, so that what is not known here is not held.
    pub fn has_all(&self) -> bool {
        self.loading == Loading::Complete
    }

    /// The held message of this author with this `imdn.Message-ID`.
    pub fn find_held(&self, author: &Identity, message_id: &str) -> Option<(ConversationKey, Seq)> {
        let of_author = self
            .conversations
            .iter()
            .filter(|(key, _)| key.author == *author);
        let mut held = of_author
            .flat_map(|(key, conversation)| conversation.held.iter().map(move |held| (key, held)));
        let (key, held) = held.find(|(_, held)| *held.message_id == *message_id)?;
        Some((key.clone(), held.seq))
    }

    /// Whether the user has a device, as far as this machine was told.
    pub fn is_reachable(&self) -> bool {
        self.reach.is_some()
    }

    /// Whether some stored message is still out with devices that have not answered.
    pub fn is_trying(&self) -> bool {
        self.conversations
            .values()
            .any(|conversation| !conversation.trying.is_empty())
    }

    /// Whether a run of this conversation is under way.
    pub fn is_running(&self, key: &ConversationKey) -> bool {
        self.runs.values().any(|run| run.key == *key)
    }

    /// Whether a run goes on without a message: the user has to fetch it, it waits aside, or no device takes it.
    pub fn steps_over(&self, run: RunId, held: &Held) -> bool {
        let run = self.runs.get(&run);
        let conversation = self.conversations.get(&held.conversation);
        run.is_some_and(|run| !run.carries(held))
            || conversation.is_some_and(|conversation| conversation.is_beyond(held.seq))
    }

    /// Whether a message is out with a running delivery.
    pub fn is_in_flight(&self, key: &ConversationKey, seq: Seq) -> bool {
        let Some(conversation) = self.conversations.get(key) else {
            return false;
        };
        let is_pull = matches!(conversation.state, State::Running(run)
            if self.runs.get(&run).is_some_and(|run| run.is_pull));
        let mut handed = conversation.held.iter().take(conversation.handed);
        is_pull || handed.any(|held| held.seq == seq && self.is_carried(conversation, held))
    }

    /// Whether the run of a conversation does not step over this message.
    fn is_carried(&self, conversation: &Conversation, held: &Held) -> bool {
        let State::Running(run) = conversation.state else {
            return true;
        };
        let run = self.runs.get(&run);
        run.is_none_or(|run| run.carries(held)) && !conversation.is_beyond(held.seq)
    }

    /// The message of this author and `imdn.Message-ID` that waits and is not out with a delivery.
    pub fn waiting_message(
        &self,
        author: &Identity,
        message_id: &str,
    ) -> Option<(ConversationKey, Seq)> {
        let own = self
            .conversations
            .iter()
            .filter(|(key, _)| key.author == *author);
        own.flat_map(|(key, conversation)| {
            let all = conversation.held.iter().enumerate();
            let waiting = all.filter(|(place, held)| {
                *place >= conversation.handed || !self.is_carried(conversation, held)
            });
            waiting.map(move |(_, held)| (key, held))
        })
        .find(|(_, held)| *held.message_id == *message_id)
        .map(|(key, held)| (key.clone(), held.seq))
    }

    /// The message of a conversation that leaves next.
    pub fn first_of(&self, key: &ConversationKey) -> Option<Seq> {
        let conversation = self.conversations.get(key)?;
        self.first_to_leave(conversation).map(|held| held.seq)
    }

    /// Where a message stands.
    pub fn standing(&self, key: &ConversationKey, seq: Seq) -> Standing {
        let Some(conversation) = self.conversations.get(key) else {
            return Standing::Unheard;
        };
        let position = conversation.held.iter().position(|held| held.seq == seq);
        let held = position.and_then(|position| conversation.held.get(position));
        let (Some(position), Some(held)) = (position, held) else {
            return Standing::Unheard;
        };
        let incapable = |reach| choose_carrier(held, reach, conversation.session_refused).is_none();
        match conversation.state {
            State::Running(_)
                if position < conversation.handed && self.is_carried(conversation, held) =>
            {
                Standing::Running
            }
            _ if self.reach.is_some_and(incapable) => Standing::Incapable,
            State::Parked(pause) => Standing::Parked(pause.until),
            State::Ready if conversation.is_aside(held) => {
                Standing::Parked(conversation.waits_until())
            }
            State::Short { .. } | State::Ready | State::Running(_) => Standing::InLine,
        }
    }

    /// How often a conversation was offered in vain since it was last delivered or registered for.
    pub fn attempts(&self, key: &ConversationKey) -> usize {
        let conversation = self.conversations.get(key);
        conversation.map_or(0, |conversation| conversation.attempt)
    }

    /// Whether a message is out with a delivery, or with a device that was tried before it was kept.
    pub fn is_out(&self, key: &ConversationKey, seq: Seq) -> bool {
        let conversation = self.conversations.get(key);
        self.is_in_flight(key, seq) || conversation.is_some_and(|c| c.trying.contains(&seq))
    }
}
