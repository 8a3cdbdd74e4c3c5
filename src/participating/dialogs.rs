//! Which of our sessions a request inside a dialog belongs to.

use std::collections::HashMap;

use crate::participating::chat::{ChatId, Side};
use crate::participating::delivery::DeliveryId;
use crate::participating::large::SessionService;
use crate::participating::service::Service;
use crate::sip::dialog::Dialog;

/// A dialog of ours: its Call-ID and our own tag (RFC 3261 §12).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DialogKey {
    /// `Call-ID`
    pub call_id: String,
    /// The tag we gave.
    pub local_tag: String,
}

impl DialogKey {
    /// What finds this dialog.
    pub fn of(dialog: &Dialog) -> Self {
        Self {
            call_id: dialog.id.call_id.clone(),
            local_tag: dialog.id.local_tag.clone(),
        }
    }
}

/// What the dialog carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DialogUse {
    /// One side of a chat.
    Chat(ChatId, Side),
    /// A replay.
    Replay(DeliveryId),
}

impl Service {
    /// What the session of this dialog is for; a replay is one of chat to its device.
    pub(super) fn session_service(&self, usage: DialogUse) -> SessionService {
        match usage {
            DialogUse::Chat(id, _) => self
                .chats
                .get(&id)
                .map_or(SessionService::Chat, |chat| chat.service),
            DialogUse::Replay(_) => SessionService::Chat,
        }
    }
}

/// All dialogs of a shard in which we are the user agent.
#[derive(Debug, Default)]
pub struct Dialogs(HashMap<DialogKey, DialogUse, foldhash::fast::RandomState>);

impl Dialogs {
    /// Remembers a dialog.
    pub fn insert(&mut self, key: DialogKey, usage: DialogUse) {
        self.0.insert(key, usage);
    }

    /// Finds the dialog of a request by its Call-ID and To tag.
    pub fn find(&self, call_id: &str, local_tag: &str) -> Option<DialogUse> {
        let key = DialogKey {
            call_id: call_id.to_owned(),
            local_tag: local_tag.to_owned(),
        };
        self.0.get(&key).copied()
    }

    /// Forgets a dialog.
    pub fn remove(&mut self, key: &DialogKey) {
        self.0.remove(key);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
