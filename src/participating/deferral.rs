//! Deliver, defer or refuse: the terminating table of cpm-facts §6 as a table.
//!
//! [`TABLE`] says for each condition what is stored and what the author is answered, in one column for
//! each form a message comes in. Rows 1 to 7 and 11 to 13 follow from the recipient's devices and are
//! asked for by `pager`, `chat` and `bridge`; rows 8, 9, 10 and 14 are the recipient's say and row 15
//! the server's bounds: they are decided before a device is tried.

use std::time::Duration;

use crate::registrar::Profile;
use crate::sip::message::Message;
use crate::sip::retry_after::retry_after;

/// In which form the message comes: a column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A MESSAGE in pager mode.
    Pager,
    /// The INVITE of a large message (`oma.cpm.largemsg`).
    Large,
    /// The INVITE of a one-to-one session.
    Chat,
    /// The same with its first message inside.
    ChatWithText,
}

/// What has happened: a row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The recipient has no contact.
    NoContact,
    /// Contacts, but none that takes this service.
    NoCapableContact,
    /// No final answer of the devices, or one that says they cannot be reached.
    Unreachable,
    /// A device is busy, or its user refused without a word.
    Busy,
    /// The user said no, everywhere.
    Declined,
    /// The network knows no such target.
    UnknownTarget,
    /// All devices refuse messages of this form, and another kind of device may come.
    Unable,
    /// All devices refuse messages of this form, and every kind of device was among them.
    UnableOfEveryKind,
    /// The recipient wants nothing from this author now.
    UnavailableByRule,
    /// The recipient has what comes kept until he asks.
    DeferredByRule,
    /// The recipient has what comes handed to another service.
    HandedOver,
    /// The author took the INVITE back before it was answered.
    Cancelled,
    /// The recipient's leg of an established session is lost, or closed with messages queued.
    LegLost,
    /// The recipient's device refused a SEND.
    SendRefused,
    /// The recipient blocks the author.
    Blocked,
    /// The recipient's quota is used up, or the message is too large to be stored.
    Full,
    /// Any other final answer of the devices: the table is silent.
    Other,
}

/// What goes into custody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Nothing.
    Nothing,
    /// The message.
    Message,
    /// The text inside the INVITE; its session does not come about.
    Text,
    /// The text inside the INVITE, if any, and all that is sent in the session, which we take in the
    /// recipient's place.
    Session,
    /// All that the recipient's device has not confirmed; the author's leg goes on.
    Unconfirmed,
}

/// What the author hears, once it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A SIP status of ours.
    Status(u16),
    /// The best answer of the devices.
    OfDevice,
    /// What the recipient's rule or the server's bounds say.
    OfRule,
    /// The answer to a SEND: 200 for what is stored, else the device's own.
    InSession,
    /// The form knows no such condition.
    Never,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What goes into custody.
    pub stored: Stored,
    /// What the author hears.
    pub answer: Answer,
}

const fn verdict_of(stored: Stored, answer: Answer) -> Verdict {
    Verdict { stored, answer }
}

const KEEP: Verdict = verdict_of(Stored::Message, Answer::Status(202));
const TAKE: Verdict = verdict_of(Stored::Session, Answer::Status(200));
const TEXT_486: Verdict = verdict_of(Stored::Text, Answer::Status(486));
const TEXT_487: Verdict = verdict_of(Stored::Text, Answer::Status(487));
const DROP_487: Verdict = verdict_of(Stored::Nothing, Answer::Status(487));
const RELAY: Verdict = verdict_of(Stored::Nothing, Answer::OfDevice);
const RULE: Verdict = verdict_of(Stored::Nothing, Answer::OfRule);
const REST: Verdict = verdict_of(Stored::Unconfirmed, Answer::InSession);
const REPORT: Verdict = verdict_of(Stored::Nothing, Answer::InSession);
const NEVER: Verdict = verdict_of(Stored::Nothing, Answer::Never);

/// A row: its number in cpm-facts §6, its condition, and its verdict for each form.
#[derive(Clone, Copy, Debug)]
pub struct Row(pub &'static str, pub Condition, pub [Verdict; 4]);

/// The table.
#[rustfmt::skip]
pub const TABLE: [Row; 17] = [
    //  row   condition                      pager  large     chat      chat with text
    Row("1",  Condition::NoContact,         [KEEP,  TAKE,     TAKE,     TAKE]),
    Row("2",  Condition::NoCapableContact,  [KEEP,  TAKE,     TAKE,     TAKE]),
    Row("3",  Condition::Unreachable,       [KEEP,  TAKE,     TAKE,     TEXT_486]),
    Row("4",  Condition::Busy,              [KEEP,  TAKE,     RELAY,    TEXT_486]),
    Row("5",  Condition::Declined,          [RELAY, RELAY,    RELAY,    RELAY]),
    Row("6",  Condition::UnknownTarget,     [RELAY, RELAY,    RELAY,    RELAY]),
    Row("7",  Condition::Unable,            [KEEP,  TAKE,     TAKE,     TEXT_486]),
    Row("7",  Condition::UnableOfEveryKind, [RELAY, RELAY,    RELAY,    RELAY]),
    Row("8",  Condition::UnavailableByRule, [RULE,  RULE,     RULE,     RULE]),
    Row("9",  Condition::DeferredByRule,    [KEEP,  TAKE,     TAKE,     TAKE]),
    Row("10", Condition::HandedOver,        [RULE,  RULE,     RULE,     RULE]),
    Row("11", Condition::Cancelled,         [NEVER, DROP_487, DROP_487, TEXT_487]),
    Row("12", Condition::LegLost,           [NEVER, REST,     REST,     REST]),
    Row("13", Condition::SendRefused,       [NEVER, REPORT,   REPORT,   REPORT]),
    Row("14", Condition::Blocked,           [RULE,  RULE,     RULE,     RULE]),
    Row("15", Condition::Full,              [RULE,  RULE,     RULE,     RULE]),
    Row("-",  Condition::Other,             [RELAY, RELAY,    RELAY,    RELAY]),
];

/// Looks up what to do.
pub fn verdict(condition: Condition, form: Form) -> Verdict {
    let column = match form {
        Form::Pager => 0,
        Form::Large => 1,
        Form::Chat => 2,
        Form::ChatWithText => 3,
    };
    let mut rows = TABLE.iter();
    let row = rows.find(|Row(_, own, _)| *own == condition);
    row.and_then(|Row(_, _, verdicts)| verdicts.get(column).copied())
        .unwrap_or(RELAY)
}

impl Condition {
    /// What a final answer other than 2xx means.
    pub fn of_status(status: u16) -> Self {
        match status {
            404 | 410 | 484 | 485 | 604 => Self::UnknownTarget,
            // Where a device says its user is now is not followed: this device does not take it.
            300..400 | 408 | 430 | 480 | 500 | 503 | 504 => Self::Unreachable,
            486 => Self::Busy,
            403 | 405 | 415 | 420 | 421 | 488 | 606 => Self::Unable,
            600.. => Self::Declined,
            _ => Self::Other,
        }
    }

    /// Of several devices the one counts that says most about the person; a device that may come back
    /// counts more than one that never takes it, and that more than one that is gone.
    fn weight(self) -> u8 {
        match self {
            Self::Declined => 5,
            Self::Busy => 4,
            Self::Unreachable => 3,
            Self::Unable => 2,
            Self::UnknownTarget => 1,
            _ => 0,
        }
    }
}

/// What the recipient's devices have said so far.
#[derive(Debug, Default)]
pub struct DeviceAnswers {
    heaviest: Option<Condition>,
    best: Option<Message>,
    kinds: Vec<Profile>,
    asked: Option<Duration>,
}

impl DeviceAnswers {
    /// A device of this kind is tried.
    pub fn tried(&mut self, kind: Profile) {
        if !self.kinds.contains(&kind) {
            self.kinds.push(kind);
        }
    }

    /// Whether any device was tried.
    pub fn is_tried(&self) -> bool {
        !self.kinds.is_empty()
    }

    /// Whether any device has answered.
    pub fn is_answered(&self) -> bool {
        self.best.is_some()
    }

    /// A final answer that is not a 2xx.
    pub fn refused(&mut self, response: Message) {
        let order = |status| (Condition::of_status(status).weight(), u16::MAX - status);
        let status = response.status();
        self.count(Condition::of_status(status));
        self.may_be_tried_after(retry_after(&response).unwrap_or_default());
        let best = self.best.as_ref().map(Message::status);
        if best.is_none_or(|best| order(status) > order(best)) {
            self.best = Some(response);
        }
    }

    /// How long all devices that were tried want to be left alone.
    pub fn asked(&self) -> Duration {
        self.asked.unwrap_or_default()
    }

    fn may_be_tried_after(&mut self, asked: Duration) {
        self.asked = Some(self.asked.map_or(asked, |before| before.min(asked)));
    }

    /// A device gave no answer, or none that is of use.
    pub fn silent(&mut self) {
        self.may_be_tried_after(Duration::ZERO);
        self.count(Condition::Unreachable);
    }

    /// A device answered what no session can come of.
    pub fn unusable(&mut self) {
        self.count(Condition::Unable);
    }

    fn count(&mut self, condition: Condition) {
        if self
            .heaviest
            .is_none_or(|heaviest| condition.weight() > heaviest.weight())
        {
            self.heaviest = Some(condition);
        }
    }

    /// The answer that goes to the author if nothing is kept.
    pub fn best(&self) -> Option<&Message> {
        self.best.as_ref()
    }

    /// The row, once all devices that were tried have had their say.
    pub fn condition(&self, form: Form) -> Condition {
        match self.heaviest {
            Some(Condition::Unable) if !self.another_kind_may_come(form) => {
                Condition::UnableOfEveryKind
            }
            Some(heaviest) => heaviest,
            None => Condition::Unreachable,
        }
    }

    /// Row 7: a kind of device that could take it is not among those that refused.
    fn another_kind_may_come(&self, form: Form) -> bool {
        let sessions = [Profile::Rcs, Profile::RcsE, Profile::Cpm];
        let message = (form == Form::Pager).then_some(Profile::MessageOnly);
        let mut kinds = sessions.into_iter().chain(message);
        kinds.any(|kind| !self.kinds.contains(&kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INVITES: [Form; 3] = [Form::Large, Form::Chat, Form::ChatWithText];
    const ALL: [Form; 4] = [Form::Pager, Form::Large, Form::Chat, Form::ChatWithText];

    fn after(statuses: &[u16], form: Form) -> Verdict {
        let mut answers = DeviceAnswers::default();
        answers.tried(Profile::Rcs);
        for status in statuses {
            answers.refused(response(*status));
        }
        verdict(answers.condition(form), form)
    }

    fn response(status: u16) -> Message {
        let text = format!(
            "SIP/2.0 {status} X\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\n\
             To: <sip:c@d>;tag=2\r\nCall-ID: 1\r\nCSeq: 1 MESSAGE\r\nContent-Length: 0\r\n\r\n"
        );
        crate::sip::wire::parse(text.into()).unwrap()
    }

    #[test]
    fn what_all_devices_ask_for_is_the_least_that_one_of_them_does() {
        let asking = |seconds: &str| {
            let text = String::from_utf8_lossy(response(503).bytes()).into_owned();
            let line = format!("Retry-After: {seconds}\r\nContent-Length");
            crate::sip::wire::parse(text.replace("Content-Length", &line).into()).unwrap()
        };
        let mut answers = DeviceAnswers::default();
        assert_eq!(answers.asked(), Duration::ZERO);
        answers.refused(asking("600"));
        assert_eq!(answers.asked(), Duration::from_secs(600));
        answers.refused(asking("20;duration=5"));
        answers.refused(asking("3600 (busy)"));
        assert_eq!(answers.asked(), Duration::from_secs(20));
        answers.silent();
        assert_eq!(answers.asked(), Duration::ZERO);
    }

    #[test]
    fn row_1_for_nobody_at_home_everything_is_kept_and_taken_in_his_place() {
        assert_eq!(verdict(Condition::NoContact, Form::Pager), KEEP);
        for form in INVITES {
            assert_eq!(verdict(Condition::NoContact, form), TAKE, "{form:?}");
        }
    }

    #[test]
    fn row_2_a_recipient_without_a_capable_device_is_not_at_home() {
        for form in ALL {
            let (none, unable) = (Condition::NoContact, Condition::NoCapableContact);
            assert_eq!(verdict(unable, form), verdict(none, form), "{form:?}");
        }
    }

    #[test]
    fn row_3_what_cannot_be_reached_is_kept_and_only_a_text_in_an_invite_is_answered_486() {
        for status in [408, 430, 480, 500, 503, 504] {
            assert_eq!(after(&[status], Form::Pager), KEEP, "{status}");
            assert_eq!(after(&[status], Form::Large), TAKE, "{status}");
            assert_eq!(after(&[status], Form::Chat), TAKE, "{status}");
            assert_eq!(after(&[status], Form::ChatWithText), TEXT_486, "{status}");
        }
        let mut silence = DeviceAnswers::default();
        silence.silent();
        assert_eq!(silence.condition(Form::Pager), Condition::Unreachable);
    }

    #[test]
    fn row_4_a_busy_device_gets_message_and_text_later_but_no_session() {
        assert_eq!(after(&[486], Form::Pager), KEEP);
        assert_eq!(after(&[486], Form::Large), TAKE);
        assert_eq!(after(&[486], Form::Chat), RELAY);
        assert_eq!(after(&[486], Form::ChatWithText), TEXT_486);
    }

    #[test]
    fn row_5_a_persons_no_is_believed() {
        for (status, form) in [600, 603, 607].iter().flat_map(|s| ALL.map(|f| (*s, f))) {
            assert_eq!(after(&[status], form), RELAY, "{status} {form:?}");
        }
    }

    #[test]
    fn row_6_an_unknown_target_is_relayed() {
        let statuses = [404, 410, 484, 485, 604];
        for (status, form) in statuses.iter().flat_map(|s| ALL.map(|f| (*s, f))) {
            assert_eq!(after(&[status], form), RELAY, "{status} {form:?}");
        }
    }

    #[test]
    fn row_7_what_these_devices_cannot_take_waits_for_another_kind() {
        for status in [403, 405, 415, 420, 421, 488, 606] {
            assert_eq!(after(&[status, status], Form::Pager), KEEP, "{status}");
            assert_eq!(after(&[status], Form::Large), TAKE, "{status}");
            assert_eq!(after(&[status], Form::Chat), TAKE, "{status}");
            assert_eq!(after(&[status], Form::ChatWithText), TEXT_486, "{status}");
        }
    }

    #[test]
    fn row_7_what_every_kind_of_device_refused_is_refused() {
        let mut answers = DeviceAnswers::default();
        for kind in [Profile::Rcs, Profile::RcsE, Profile::Cpm] {
            answers.tried(kind);
            answers.refused(response(415));
        }
        let may_come = |form| verdict(answers.condition(form), form);
        assert_eq!(may_come(Form::Chat), RELAY);
        assert_eq!(may_come(Form::Pager), KEEP, "a phone without MSRP may come");
        answers.tried(Profile::MessageOnly);
        let condition = answers.condition(Form::Pager);
        assert_eq!(verdict(condition, Form::Pager), RELAY);
    }

    #[test]
    fn rows_8_10_14_and_15_are_answered_as_the_rule_says_and_nothing_is_kept() {
        for condition in [
            Condition::UnavailableByRule,
            Condition::HandedOver,
            Condition::Blocked,
            Condition::Full,
        ] {
            for form in ALL {
                assert_eq!(verdict(condition, form), RULE, "{condition:?} {form:?}");
            }
        }
    }

    #[test]
    fn row_9_who_wants_to_be_asked_is_treated_as_not_at_home() {
        for form in ALL {
            let (none, later) = (Condition::NoContact, Condition::DeferredByRule);
            assert_eq!(verdict(later, form), verdict(none, form), "{form:?}");
        }
    }

    #[test]
    fn row_11_a_cancelled_invite_leaves_nothing_but_its_text() {
        assert_eq!(verdict(Condition::Cancelled, Form::Large), DROP_487);
        assert_eq!(verdict(Condition::Cancelled, Form::Chat), DROP_487);
        assert_eq!(verdict(Condition::Cancelled, Form::ChatWithText), TEXT_487);
    }

    #[test]
    fn row_12_what_a_lost_leg_has_not_confirmed_is_stored() {
        for form in INVITES {
            assert_eq!(verdict(Condition::LegLost, form), REST, "{form:?}");
        }
    }

    #[test]
    fn row_13_what_the_device_refused_is_reported_and_not_stored() {
        for form in INVITES {
            assert_eq!(verdict(Condition::SendRefused, form), REPORT, "{form:?}");
        }
    }

    #[test]
    fn of_several_devices_the_answer_counts_that_says_most_about_the_person() {
        let counts = |statuses: &[u16]| {
            let mut answers = DeviceAnswers::default();
            for status in statuses {
                answers.refused(response(*status));
            }
            let best = answers.best().map_or(0, Message::status);
            (answers.condition(Form::Pager), best)
        };
        assert_eq!(counts(&[415, 480]), (Condition::Unreachable, 480));
        assert_eq!(counts(&[404, 480]), (Condition::Unreachable, 480));
        assert_eq!(counts(&[480, 603, 486]), (Condition::Declined, 603));
        assert_eq!(counts(&[404, 415]), (Condition::Unable, 415));
        assert_eq!(counts(&[484, 404]), (Condition::UnknownTarget, 404));
        assert_eq!(counts(&[413, 400]), (Condition::Other, 400));
    }

    #[test]
    fn every_row_of_cpm_facts_is_there_once() {
        let mut numbers: Vec<&str> = TABLE.iter().map(|row| row.0).collect();
        numbers.dedup();
        let wanted: Vec<String> = (1..=15).map(|n| n.to_string()).collect();
        assert_eq!(numbers.split_last().unwrap().1, wanted);
    }
}
