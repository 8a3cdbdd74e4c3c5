//! Deliver, defer or refuse: the terminating table of cpm-facts §6 as code.
//!
//! The rows here are those that follow from how the devices answered; who may send at all is settled
//! before, and what the recipient wants is asked by the machine of the served user.

/// What the author's request becomes after the devices have been tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deferral {
    /// Take the message into custody.
    Keep,
    /// Give the device's answer to the author; nothing is kept.
    Relay,
}

/// The last word of the devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There was no contact to try, or none that could take it (rows 1 and 2).
    NoContact,
    /// No final answer: Timer B or F, the ring timer, or the transport failed (row 3).
    NoAnswer,
    /// The best final answer that was not a 2xx.
    Status(u16),
}

/// A MESSAGE in pager mode.
pub fn of_message(outcome: Outcome) -> Deferral {
    match outcome {
        Outcome::NoContact | Outcome::NoAnswer => Deferral::Keep,
        Outcome::Status(status) if is_unavailable(status) => Deferral::Keep,
        Outcome::Status(486) => Deferral::Keep,
        Outcome::Status(status) if is_unable(status) => Deferral::Keep,
        Outcome::Status(_) => Deferral::Relay,
    }
}

/// An INVITE for a one-to-one session without a message inside (rows 3b and 4).
pub fn of_chat(outcome: Outcome) -> Deferral {
    match outcome {
        Outcome::NoContact | Outcome::NoAnswer => Deferral::Keep,
        Outcome::Status(status) if is_unavailable(status) => Deferral::Keep,
        Outcome::Status(status) if is_unable(status) => Deferral::Keep,
        Outcome::Status(_) => Deferral::Relay,
    }
}

/// Row 3: registered, but not reachable.
fn is_unavailable(status: u16) -> bool {
    matches!(status, 408 | 430 | 480 | 500 | 503 | 504)
}

/// Row 7: these devices cannot take it; another kind of device may come.
fn is_unable(status: u16) -> bool {
    matches!(status, 405 | 415 | 420 | 421 | 488 | 606)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_for_nobody_at_home_is_kept() {
        assert_eq!(of_message(Outcome::NoContact), Deferral::Keep);
        assert_eq!(of_message(Outcome::NoAnswer), Deferral::Keep);
        for status in [408, 430, 480, 486, 500, 503, 504] {
            assert_eq!(
                of_message(Outcome::Status(status)),
                Deferral::Keep,
                "{status}"
            );
        }
    }

    #[test]
    fn a_refusal_by_the_user_or_an_unknown_target_is_relayed() {
        for status in [400, 403, 404, 410, 484, 485, 600, 603, 604] {
            assert_eq!(
                of_message(Outcome::Status(status)),
                Deferral::Relay,
                "{status}"
            );
            assert_eq!(
                of_chat(Outcome::Status(status)),
                Deferral::Relay,
                "{status}"
            );
        }
    }

    #[test]
    fn a_busy_device_gets_the_message_later_but_no_session() {
        assert_eq!(of_message(Outcome::Status(486)), Deferral::Keep);
        assert_eq!(of_chat(Outcome::Status(486)), Deferral::Relay);
    }

    #[test]
    fn what_these_devices_cannot_take_waits_for_another_kind() {
        for status in [405, 415, 420, 421, 488, 606] {
            assert_eq!(
                of_message(Outcome::Status(status)),
                Deferral::Keep,
                "{status}"
            );
            assert_eq!(of_chat(Outcome::Status(status)), Deferral::Keep, "{status}");
        }
    }
}
