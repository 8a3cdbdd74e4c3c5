//! How many chats a user has open: what one more is answered.

use crate::identity::Identity;
use crate::limits::chats::Place;
use crate::participating::service::Service;
use crate::sip::rejection::Rejection;
use crate::sip::warning;

/// The caller's place, and the callee's where the chat counts for him.
pub(super) type Places = (Place, Option<Place>);

impl Service {
    /// A place for one more chat with the caller and the callee, or what the caller hears. `has_message`: his
    /// INVITE brings one.
    pub(super) fn take_places(
        &self,
        caller: &Identity,
        callee: Option<&Identity>,
        has_message: bool,
    ) -> Result<Places, Rejection> {
        let chats = &self.meters.chats;
        let places = chats.take(caller).ok_or(false).and_then(|own| {
            let other = callee.map(|callee| chats.take_called(callee, caller).ok_or(true));
            Ok((own, other.transpose()?))
        });
        places.map_err(|is_callee| {
            self.metrics.refused_user_chats.count();
            // RFC 3261 §21.4.24: it is the callee who takes no more calls. After a message in the INVITE 486 says
            // that it is kept (cpm-facts §6 row 3), which this one is not.
            let refused = match is_callee && !has_message {
                true => Rejection::new(486, "Busy Here"),
                false => Rejection::new(503, "Service Unavailable"),
            };
            refused.with_warning(warning::TOO_MANY)
        })
    }
}
