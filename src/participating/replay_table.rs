//! What a device's answer means for a replay: the table of cpm-facts §7.3 point 2 as code. An answer is
//! a row; the step that follows from it depends on what was tried before.

use crate::participating::served_user::RunEnd;

/// How often one INVITE is repeated after 491 before the conversation waits for its next turn.
const MOST_GLARES: u8 = 2;

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayAnswer {
    /// 1xx: it rings, for longer than a minute if need be.
    Wait,
    /// 2xx: acknowledged, then MSRP.
    Take,
    /// 480: nothing from this author now; the others go on, and he is not told.
    NotNow,
    /// 486: refused, blocked or rung out: later, and later still.
    BackOff,
    /// 600, 603: not before the next registration.
    Decline,
    /// 408, 430, 500, 503, 504, silence, a broken transport: the next device may be there.
    NextDevice,
    /// 404, 410: the contact is gone, and its binding with it; then the next device.
    Gone,
    /// 415, 488, 606: an offer of another form, then the other carrier.
    AlterOffer,
    /// 422: the same once more with the interval it wants (RFC 4028 §7.3).
    LongerInterval,
    /// 491: the same once more after a while (RFC 3261 §14.1).
    Glare,
    /// 400, 401, 407, 482, 483: our fault, a device that challenges us, or a circle of servers: nothing that
    /// trying again mends.
    Keep,
}

impl ReplayAnswer {
    /// The row of a status; what the table does not name is refused for now.
    pub const fn of(status: u16) -> Self {
        match status {
            ..200 => Self::Wait,
            200..300 => Self::Take,
            400 | 401 | 407 | 482 | 483 => Self::Keep,
            404 | 410 => Self::Gone,
            408 | 430 | 500 | 503 | 504 => Self::NextDevice,
            415 | 488 | 606 => Self::AlterOffer,
            422 => Self::LongerInterval,
            480 => Self::NotNow,
            491 => Self::Glare,
            600 | 603 => Self::Decline,
            _ => Self::BackOff,
        }
    }
}

/// Whether a device that answers a MESSAGE so will never take that message (cpm-facts §4, §6 row 7): its content,
/// its size, its form or the method is nothing for it (RFC 3261 §21.4, §21.5). All else means "not now".
pub const fn refuses_message_for_good(status: u16) -> bool {
    matches!(
        status,
        403 | 405 | 406 | 413..=416 | 420 | 421 | 488 | 493 | 501 | 505 | 513 | 606
    )
}

/// The same of the answer to a SEND (RFC 4975 §10, cpm-facts §6 row 13).
pub const fn refuses_send_for_good(status: u16) -> bool {
    matches!(status, 403 | 413 | 415)
}

/// What has been tried in this run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tried {
    /// This device got the altered offer.
    pub altered: bool,
    /// This device got a longer session interval.
    pub lengthened: bool,
    /// Answers 491 of this device.
    pub glares: u8,
    /// Some device took no form of the offer.
    pub unfit: bool,
}

impl Tried {
    /// The same run at another device.
    pub const fn at_next_device(self) -> Self {
        Self {
            altered: false,
            lengthened: false,
            glares: 0,
            unfit: self.unfit,
        }
    }
}

/// What follows from an answer that is no 2xx.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It rings.
    Wait,
    /// The INVITE goes to the next device.
    NextDevice(Tried),
    /// It goes to the same one again, as [`Tried`] says.
    Again(Tried),
    /// It goes to the same one again after a pause.
    Pause(Tried),
    /// The run is over.
    End(RunEnd),
}

/// The step that follows; `is_last` says that no device is left to be tried.
pub fn next_step(answer: ReplayAnswer, tried: Tried, is_last: bool) -> Step {
    let elsewhere = |tried: Tried| match (is_last, tried.unfit) {
        (false, _) => Step::NextDevice(tried.at_next_device()),
        (true, true) => Step::End(RunEnd::OtherWay),
        (true, false) => Step::End(RunEnd::Parked),
    };
    match answer {
        ReplayAnswer::Wait | ReplayAnswer::Take => Step::Wait,
        ReplayAnswer::NotNow | ReplayAnswer::BackOff => Step::End(RunEnd::Busy),
        ReplayAnswer::Decline | ReplayAnswer::Keep => Step::End(RunEnd::Declined),
        ReplayAnswer::NextDevice | ReplayAnswer::Gone => elsewhere(tried),
        ReplayAnswer::AlterOffer if !tried.altered => Step::Again(Tried {
            altered: true,
            ..tried
        }),
        ReplayAnswer::AlterOffer => elsewhere(Tried {
            unfit: true,
            ..tried
        }),
        ReplayAnswer::LongerInterval if !tried.lengthened => Step::Again(Tried {
            lengthened: true,
            ..tried
        }),
        ReplayAnswer::Glare if tried.glares < MOST_GLARES => Step::Pause(Tried {
            glares: tried.glares + 1,
            ..tried
        }),
        ReplayAnswer::LongerInterval | ReplayAnswer::Glare => Step::End(RunEnd::Parked),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Tried = Tried {
        altered: false,
        lengthened: false,
        glares: 0,
        unfit: false,
    };

    fn first(status: u16) -> Step {
        next_step(ReplayAnswer::of(status), NOTHING, false)
    }

    fn last(status: u16) -> Step {
        next_step(ReplayAnswer::of(status), NOTHING, true)
    }

    #[test]
    fn row_180_the_device_may_ring() {
        assert_eq!(first(180), Step::Wait);
        assert_eq!(first(183), Step::Wait);
    }

    #[test]
    fn row_200_is_taken_not_judged() {
        assert_eq!(ReplayAnswer::of(200), ReplayAnswer::Take);
    }

    #[test]
    fn row_480_keeps_for_the_next_trigger_and_asks_no_other_device() {
        assert_eq!(first(480), Step::End(RunEnd::Busy));
    }

    #[test]
    fn row_486_backs_off() {
        assert_eq!(first(486), Step::End(RunEnd::Busy));
    }

    #[test]
    fn row_600_and_603_wait_for_the_next_registration() {
        assert_eq!(first(600), Step::End(RunEnd::Declined));
        assert_eq!(first(603), Step::End(RunEnd::Declined));
    }

    #[test]
    fn row_408_430_503_504_tries_the_next_device_then_keeps() {
        for status in [408, 430, 500, 503, 504] {
            assert_eq!(first(status), Step::NextDevice(NOTHING), "{status}");
            assert_eq!(last(status), Step::End(RunEnd::Parked), "{status}");
        }
    }

    #[test]
    fn row_404_and_410_mean_that_the_contact_is_gone() {
        for status in [404, 410] {
            assert_eq!(ReplayAnswer::of(status), ReplayAnswer::Gone);
            assert_eq!(first(status), Step::NextDevice(NOTHING), "{status}");
        }
    }

    #[test]
    fn row_415_488_606_offers_once_more_then_goes_the_other_way() {
        for status in [415, 488, 606] {
            let answer = ReplayAnswer::of(status);
            let Step::Again(altered) = next_step(answer, NOTHING, true) else {
                panic!("{status} is offered again");
            };
            assert!(altered.altered);
            let end = next_step(answer, altered, true);
            assert_eq!(end, Step::End(RunEnd::OtherWay), "{status}");
            let unfit = Tried {
                unfit: true,
                ..NOTHING
            };
            let next = next_step(answer, altered, false);
            assert_eq!(next, Step::NextDevice(unfit), "{status}");
            let end = next_step(ReplayAnswer::NextDevice, unfit, true);
            assert_eq!(end, Step::End(RunEnd::OtherWay), "{status}");
        }
    }

    #[test]
    fn row_400_401_407_keeps_without_a_loop() {
        for status in [400, 401, 407] {
            assert_eq!(first(status), Step::End(RunEnd::Declined), "{status}");
        }
    }

    #[test]
    fn what_goes_in_a_circle_waits_for_another_registration() {
        for status in [482, 483] {
            assert_eq!(first(status), Step::End(RunEnd::Declined), "{status}");
        }
    }

    #[test]
    fn only_what_is_wrong_with_the_message_itself_is_refused_for_good() {
        let rows = [400, 401, 404, 407, 408, 410, 430, 480, 482, 483, 486, 491];
        for status in rows.into_iter().chain([500, 503, 504, 600, 603]) {
            assert!(!refuses_message_for_good(status), "{status}");
        }
        for status in [
            403, 405, 406, 413, 414, 415, 416, 420, 421, 488, 493, 501, 505, 513, 606,
        ] {
            assert!(refuses_message_for_good(status), "{status}");
        }
        for status in [400, 408, 423, 481, 501, 506] {
            assert!(!refuses_send_for_good(status), "{status}");
        }
    }

    #[test]
    fn row_422_is_asked_once_more_with_a_longer_interval() {
        let Step::Again(lengthened) = first(422) else {
            panic!("422 is asked again");
        };
        assert!(lengthened.lengthened);
        let again = next_step(ReplayAnswer::LongerInterval, lengthened, false);
        assert_eq!(again, Step::End(RunEnd::Parked));
    }

    #[test]
    fn row_491_pauses_a_few_times() {
        let mut tried = NOTHING;
        for _ in 0..MOST_GLARES {
            let Step::Pause(next) = next_step(ReplayAnswer::Glare, tried, false) else {
                panic!("491 pauses");
            };
            tried = next;
        }
        let end = next_step(ReplayAnswer::Glare, tried, false);
        assert_eq!(end, Step::End(RunEnd::Parked));
    }
}
