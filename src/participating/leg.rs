//! One dialog of ours with the MSRP session it set up: a side of a chat, or a replay.

use bytes::Bytes;

use crate::clock::Instant;
use crate::participating::chat::Side;
use crate::participating::dialogs::{DialogKey, DialogUse};
use crate::participating::media::MediaId;
use crate::participating::service::Service;
use crate::sip::dialog::Dialog;
use crate::sip::message::{HeaderName, Message};
use crate::sip::session_timer::{SessionTimer, lists};
use crate::sip::transaction::table::ServerId;
use crate::sip::transport::flow::Flow;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Leg {
    pub(super) dialog: Dialog,
    pub(super) key: DialogKey,
    pub(super) flow: Flow,
    pub(super) media: MediaId,
    pub(super) timer: SessionTimer,
    /// The peer said that it takes UPDATE (RFC 3311 §4).
    pub(super) takes_update: bool,
    /// Our request that changes or refreshes the session and has no final answer yet.
    pub(super) asked: Option<Asked>,
    /// When to ask again after a refusal for the moment.
    pub(super) ask_again: Option<Instant>,
    /// Our 2xx to an INVITE of the peer, whose ACK has not come.
    pub(super) unacknowledged: Option<Unacknowledged>,
    /// The ACK of our latest re-INVITE, sent again with each repetition of its 2xx.
    pub(super) ack: Option<(u32, Bytes)>,
}

/// See [`Leg::asked`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// An INVITE with an offer, else an UPDATE without.
    pub(super) invites: bool,
    pub(super) cseq: u32,
}

/// See [`Leg::unacknowledged`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Unacknowledged {
    pub(super) server: ServerId,
    pub(super) cseq: u32,
    /// The 2xx held an offer of ours; the answer comes in the ACK.
    pub(super) offered: bool,
}

impl Leg {
    /// The leg of a dialog that stands.
    pub(super) fn new(dialog: Dialog, flow: Flow, media: MediaId, timer: SessionTimer) -> Self {
        Self {
            key: DialogKey::of(&dialog),
            dialog,
            flow,
            media,
            timer,
            takes_update: false,
            asked: None,
            ask_again: None,
            unacknowledged: None,
            ack: None,
        }
    }

    /// Notes what the peer says it takes.
    pub(super) fn learn_methods(&mut self, message: &Message) {
        if message.header(HeaderName::Allow).is_some() {
            self.takes_update = lists(message, HeaderName::Allow, "UPDATE");
        }
    }

    /// When something of it is due.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let timer = self.timer.next_deadline();
        timer.into_iter().chain(self.ask_again).min()
    }
}

impl Service {
    /// The leg that a dialog belongs to, if it stands.
    pub(super) fn leg(&mut self, usage: DialogUse) -> Option<&mut Leg> {
        match usage {
            DialogUse::Chat(id, side) => {
                let chat = self.chats.get_mut(&id)?;
                match side {
                    Side::Caller => chat.caller_leg.as_mut(),
                    Side::Callee => chat.callee_leg.as_mut(),
                }
            }
            DialogUse::Replay(id) => self.session_run(id)?.leg.as_mut(),
        }
    }
}
