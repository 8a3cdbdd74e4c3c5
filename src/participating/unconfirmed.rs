//! Messages of a chat that ends: what was on its way is kept, while its confirmation may be on its way too. It is
//! kept first; a confirmation that is read after all takes it out of the queue again, and a chat that we end
//! ourselves waits a moment for it.

use std::time::Duration;

use crate::clock::{Instant, Now};
use crate::msrp::event::OutboundId;
use crate::participating::arrival;
use crate::participating::chat::{Chat, ChatId, Side};
use crate::participating::internal::InternalMessage;
use crate::participating::receipts::MessageRef;
use crate::participating::service::Service;
use crate::store::request::{ConversationKey, DeferredMessage, Seq, Settlement};

/// How long a chat that we end waits for confirmations.
const LINGERS: Duration = Duration::from_millis(200);

/// A message that was kept and that its recipient's side has not confirmed.
#[derive(Debug)]
pub(super) struct Unconfirmed {
    /// The side it went to.
    to: Side,
    /// How it went there.
    sent_as: OutboundId,
    message: MessageRef,
    /// Where it is kept, if on this shard.
    place: Option<(ConversationKey, Seq)>,
    /// The shard that keeps it has been told of the confirmation; until it has heard, we do not end.
    is_told: bool,
}

impl Chat {
    /// Whether a confirmation is still waited for, now that it ends.
    pub(super) fn lingers(&self, now: Now) -> bool {
        self.lingers_until()
            .is_some_and(|until| until > now.instant)
    }

    /// Until when it is.
    pub(super) fn lingers_until(&self) -> Option<Instant> {
        self.ends_at.filter(|_| !self.unconfirmed.is_empty())
    }

    /// We end it: confirmations are waited for a moment from now on.
    pub(super) fn linger(&mut self, now: Now) {
        self.ends_at.get_or_insert(now.instant + LINGERS);
    }
}

impl Service {
    /// A message that went to `to` as `sent_as` is durable, on this shard or on its recipient's.
    pub(super) fn await_confirmation(
        &mut self,
        id: ChatId,
        to: Side,
        sent_as: OutboundId,
        message: &DeferredMessage,
        seq: Option<Seq>,
    ) {
        if self.media_of(id, to).is_none() {
            return;
        }
        let Some(chat) = self.chats.get_mut(&id) else {
            return;
        };
        chat.unconfirmed.push(Unconfirmed {
            to,
            sent_as,
            message: MessageRef::of(message),
            place: seq.map(|seq| (arrival::conversation_key(message), seq)),
            is_told: false,
        });
    }

    /// The other side confirms a message that is being stored, or has been: it shall not come again.
    pub(super) fn note_taken(&mut self, id: ChatId, side: Side, out: OutboundId, now: Now) {
        let Some(chat) = self.chats.get_mut(&id) else {
            return;
        };
        let mut transits = chat.transits.iter_mut();
        let storing = transits
            .find(|((from, _), transit)| *from == side.other() && transit.was_sent_as == Some(out));
        if let Some((_, transit)) = storing {
            transit.is_taken = true;
            return;
        }
        let is_it = |each: &Unconfirmed| (each.to, each.sent_as) == (side, out) && !each.is_told;
        let Some(at) = chat.unconfirmed.iter().position(is_it) else {
            return;
        };
        if let Some(each) = chat.unconfirmed.get_mut(at).filter(|it| it.place.is_none()) {
            each.is_told = true;
            let message = each.message.clone();
            return self.tell_keeper(message);
        }
        let Unconfirmed { message, place, .. } = chat.unconfirmed.swap_remove(at);
        let recipient = message.recipient;
        if let Some((key, seq)) = place
            && !self.is_on_its_way_out(&recipient, seq)
        {
            tracing::debug!(%recipient, seq = seq.0, "a device has it after all");
            self.take_out(&recipient, &key, seq, Settlement::Delivered);
            self.run_user_later(&recipient);
        }
        self.end_if_settled(id, now);
    }

    /// The recipient's shard keeps a message that he has.
    pub(super) fn tell_keeper(&mut self, message: MessageRef) {
        let recipient = message.recipient.clone();
        self.tell_shard_of(&recipient, InternalMessage::Confirmed(Box::new(message)));
    }
}
