//! Session timers (RFC 4028): how long a session lives without a refresh, and which side sends it.
//!
//! A [`SessionTimer`] is a value that belongs to one dialog. It reads and writes the header fields of
//! session refresh requests and of their answers, and says when a refresh or the end is due; what a
//! refresh looks like is its user's matter.

use std::time::Duration;

use crate::clock::Instant;
use crate::sip::header::Parameters;
use crate::sip::message::{HeaderName, Message};

/// No session interval is shorter (RFC 4028 §4), and what Min-SE is where it is not written.
pub const FLOOR: Duration = Duration::from_secs(90);
/// A session ends this long before it expires, or a third of its interval (RFC 4028 §10).
const MARGIN: Duration = Duration::from_secs(32);

/// What we want of the sessions we take part in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The session interval we ask for.
    pub expires: Duration,
    /// The shortest one we take; never under [`FLOOR`].
    pub min_se: Duration,
}

impl Default for Policy {
    /// RFC 4028 §4 advises 1800 s.
    fn default() -> Self {
        Self {
            expires: Duration::from_secs(1_800),
            min_se: FLOOR,
        }
    }
}

/// Who refreshes the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refresher {
    /// We do.
    Local,
    /// The peer does.
    Peer,
}

/// The interval that was asked for is too short: 422 with this Min-SE (RFC 4028 §9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooSmall(pub Duration);

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Half the interval is over and the refresh is ours.
    Refresh,
    /// Nobody has refreshed the session: BYE.
    Expired,
}

/// A header field to be written.
pub type Field = (&'static str, String);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Running {
    interval: Duration,
    refresher: Refresher,
    refresh_at: Option<Instant>,
    ends_at: Instant,
}

/// See the module's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionTimer {
    policy: Policy,
    /// The largest Min-SE that came in this dialog (RFC 4028 §7.4).
    min_se: Duration,
    running: Option<Running>,
}

impl SessionTimer {
    /// No session interval is agreed on yet.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            min_se: FLOOR,
            running: None,
        }
    }

    /// The fields of an INVITE that begins a session (RFC 4028 §7.1). The refresher is left open.
    pub fn offer(&self) -> Vec<Field> {
        let interval = self.policy.expires.max(self.min_se);
        self.with_min_se(vec![("Session-Expires", interval.as_secs().to_string())])
    }

    /// The fields of a session refresh request inside the dialog (RFC 4028 §7.4): the interval and the
    /// roles stay as they are.
    pub fn offer_again(&self) -> Vec<Field> {
        let Some(running) = self.running else {
            return self.with_min_se(Vec::new());
        };
        let interval = running.interval.max(self.min_se).as_secs();
        let refresher = match running.refresher {
            Refresher::Local => "uac",
            Refresher::Peer => "uas",
        };
        let value = format!("{interval};refresher={refresher}");
        self.with_min_se(vec![("Session-Expires", value)])
    }

    fn with_min_se(&self, mut fields: Vec<Field>) -> Vec<Field> {
        if self.min_se > FLOOR {
            fields.push(("Min-SE", self.min_se.as_secs().to_string()));
        }
        fields
    }

    /// A session refresh request came: the fields of our 2xx, from which the interval runs anew
    /// (RFC 4028 §9 with table 2).
    pub fn answer(&mut self, request: &Message, now: Instant) -> Result<Vec<Field>, TooSmall> {
        let knows_timers = lists(request, HeaderName::Supported, "timer")
            || lists(request, HeaderName::Require, "timer");
        self.learn_min_se(request);
        let asked = SessionExpires::of(request);
        let (interval, refresher) = match asked {
            Some(asked) if asked.interval < self.policy.min_se => {
                if knows_timers {
                    return Err(TooSmall(self.policy.min_se));
                }
                // It may not be refused, nor made longer: the session runs without a timer.
                self.running = None;
                return Ok(Vec::new());
            }
            Some(asked) => {
                let refresher = match asked.refresher {
                    Some(Side::Uac) => Refresher::Peer,
                    Some(Side::Uas) => Refresher::Local,
                    None if knows_timers => Refresher::Peer,
                    None => Refresher::Local,
                };
                (asked.interval, refresher)
            }
            None => match self.running.filter(|_| knows_timers) {
                Some(running) => (running.interval, running.refresher),
                None => {
                    self.running = None;
                    return Ok(Vec::new());
                }
            },
        };
        self.run(interval, refresher, now);
        let word = match refresher {
            Refresher::Peer => "uac",
            Refresher::Local => "uas",
        };
        let value = format!("{};refresher={word}", interval.as_secs());
        let mut fields = vec![("Session-Expires", value)];
        if knows_timers {
            fields.insert(0, ("Require", "timer".to_owned()));
        }
        Ok(fields)
    }

    /// A 2xx to a session refresh request of ours came (RFC 4028 §7.2). Without Session-Expires there
    /// is no timer, or none any more: we do not refresh for our own sake.
    pub fn accepted(&mut self, response: &Message, now: Instant) {
        let Some(agreed) = SessionExpires::of(response) else {
            self.running = None;
            return;
        };
        let refresher = match agreed.refresher {
            Some(Side::Uas) => Refresher::Peer,
            Some(Side::Uac) | None => Refresher::Local,
        };
        // RFC 4028 §11.1: a peer may not make us refresh as often as it likes.
        self.run(agreed.interval.max(FLOOR), refresher, now);
    }

    /// 422 to a session refresh request of ours: whether asking again with a longer interval may help
    /// (RFC 4028 §7.3).
    pub fn refused(&mut self, response: &Message) -> bool {
        let before = self.min_se;
        self.learn_min_se(response);
        self.min_se > before
    }

    fn learn_min_se(&mut self, message: &Message) {
        let value = message.header(HeaderName::MinSe).and_then(seconds);
        self.min_se = self.min_se.max(value.unwrap_or(FLOOR));
    }

    fn run(&mut self, interval: Duration, refresher: Refresher, now: Instant) {
        self.running = Some(Running {
            interval,
            refresher,
            refresh_at: (refresher == Refresher::Local).then(|| now + interval / 2),
            ends_at: now + (interval - MARGIN.min(interval / 3)),
        });
    }

    /// Who refreshes, if anybody.
    pub fn refresher(&self) -> Option<Refresher> {
        self.running.map(|running| running.refresher)
    }

    /// Which of the two ends of a session has something to do by now; a refresh is due once.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<Due> {
        let running = self.running.as_mut()?;
        if running.ends_at <= now {
            return Some(Due::Expired);
        }
        running.refresh_at.take_if(|at| *at <= now)?;
        Some(Due::Refresh)
    }

    /// The next point in time at which something is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        let running = self.running?;
        Some(running.refresh_at.unwrap_or(running.ends_at))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Uac,
    Uas,
}

/// The value of Session-Expires; a malformed one counts as none.
struct SessionExpires {
    interval: Duration,
    refresher: Option<Side>,
}

impl SessionExpires {
    fn of(message: &Message) -> Option<Self> {
        let value = message.header(HeaderName::SessionExpires)?;
        let end = value.find(';').unwrap_or(value.len());
        let (number, parameters) = value.split_at(end);
        let refresher = Parameters::new(parameters).find("refresher").flatten();
        let refresher = refresher.and_then(|word| match word.to_ascii_lowercase().as_str() {
            "uac" => Some(Side::Uac),
            "uas" => Some(Side::Uas),
            _ => None,
        });
        Some(Self {
            interval: seconds(number)?,
            refresher,
        })
    }
}

/// `delta-seconds`, of at most 32 bits; parameters behind it do not count.
fn seconds(value: &str) -> Option<Duration> {
    let number = value.split(';').next()?.trim();
    number
        .parse()
        .ok()
        .map(|seconds: u32| Duration::from_secs(seconds.into()))
}

/// Whether an option tag stands in a field.
pub fn lists(message: &Message, field: HeaderName, tag: &str) -> bool {
    message
        .values(field)
        .any(|own| own.eq_ignore_ascii_case(tag))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::wire;

    const START: Instant = Instant::from_micros(1_000_000);

    fn message(first: &str, fields: &str) -> Message {
        let text = format!(
            "{first}\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\n\
             To: <sip:c@d>\r\nCall-ID: x\r\nCSeq: 1 INVITE\r\n{fields}Content-Length: 0\r\n\r\n"
        );
        wire::parse(text.into()).expect("legal")
    }

    fn request(fields: &str) -> Message {
        message("INVITE sip:b@h SIP/2.0", fields)
    }

    fn ok(fields: &str) -> Message {
        message("SIP/2.0 200 OK", fields)
    }

    fn timer() -> SessionTimer {
        SessionTimer::new(Policy::default())
    }

    fn after(seconds: u64) -> Instant {
        START + Duration::from_secs(seconds)
    }

    fn written(fields: Vec<Field>) -> String {
        let lines = fields
            .iter()
            .map(|(name, value)| format!("{name}: {value}\n"));
        lines.collect()
    }

    #[test]
    fn each_row_of_table_2_names_its_refresher() {
        let supported = "Supported: timer\r\n";
        for (fields, answer, refresher) in [
            (
                "Session-Expires: 1800\r\n".to_owned(),
                "Session-Expires: 1800;refresher=uas\n",
                Refresher::Local,
            ),
            (
                format!("{supported}Session-Expires: 1800\r\n"),
                "Require: timer\nSession-Expires: 1800;refresher=uac\n",
                Refresher::Peer,
            ),
            (
                format!("{supported}Session-Expires: 1800;refresher=uac\r\n"),
                "Require: timer\nSession-Expires: 1800;refresher=uac\n",
                Refresher::Peer,
            ),
            (
                format!("{supported}x: 1800 ; Refresher=UAS\r\n"),
                "Require: timer\nSession-Expires: 1800;refresher=uas\n",
                Refresher::Local,
            ),
        ] {
            let mut timer = timer();
            let fields = timer.answer(&request(&fields), START).expect("long enough");
            assert_eq!(written(fields), answer);
            assert_eq!(timer.refresher(), Some(refresher));
        }
    }

    #[test]
    fn who_does_not_ask_for_a_timer_gets_none() {
        let mut timer = timer();
        let fields = timer.answer(&request("Supported: timer\r\n"), START);
        assert_eq!(fields, Ok(Vec::new()));
        assert_eq!(timer.next_deadline(), None);
    }

    #[test]
    fn an_interval_below_ours_is_refused_to_those_who_can_ask_again() {
        let policy = Policy {
            min_se: Duration::from_secs(120),
            ..Policy::default()
        };
        let mut timer = SessionTimer::new(policy);
        let short = "Supported: timer\r\nSession-Expires: 119\r\n";
        let outcome = timer.answer(&request(short), START);
        assert_eq!(outcome, Err(TooSmall(Duration::from_secs(120))));
        let exact = "Supported: timer\r\nSession-Expires: 120\r\n";
        assert!(timer.answer(&request(exact), START).is_ok());
        let old = timer.answer(&request("Session-Expires: 20\r\n"), START);
        assert_eq!(old, Ok(Vec::new()), "it could not read a 422");
        assert_eq!(timer.refresher(), None);
    }

    #[test]
    fn a_refresher_refreshes_at_half_time_and_then_waits_for_the_end() {
        let mut timer = timer();
        timer.accepted(&ok("Session-Expires: 600;refresher=uac\r\n"), START);
        assert_eq!(timer.next_deadline(), Some(after(300)));
        assert_eq!(timer.handle_timeout(after(299)), None);
        assert_eq!(timer.handle_timeout(after(300)), Some(Due::Refresh));
        assert_eq!(timer.handle_timeout(after(301)), None);
        assert_eq!(timer.next_deadline(), Some(after(568)));
        assert_eq!(timer.handle_timeout(after(568)), Some(Due::Expired));
        timer.accepted(&ok("Session-Expires: 600;refresher=uac\r\n"), after(310));
        assert_eq!(timer.next_deadline(), Some(after(610)));
    }

    #[test]
    fn a_session_that_its_peer_does_not_refresh_ends_by_the_margin() {
        let mut timer = timer();
        timer.accepted(&ok("Session-Expires: 1800;refresher=uas\r\n"), START);
        assert_eq!(timer.next_deadline(), Some(after(1_768)));
        assert_eq!(timer.handle_timeout(after(1_767)), None);
        assert_eq!(timer.handle_timeout(after(1_768)), Some(Due::Expired));
        timer.accepted(&ok("Session-Expires: 90;refresher=uas\r\n"), START);
        assert_eq!(timer.next_deadline(), Some(after(60)), "a third is less");
    }

    #[test]
    fn a_422_is_met_with_the_larger_interval_and_once_only() {
        let mut timer = timer();
        assert_eq!(written(timer.offer()), "Session-Expires: 1800\n");
        let refusal = message("SIP/2.0 422 Session Interval Too Small", "Min-SE: 3600\r\n");
        assert!(timer.refused(&refusal));
        assert_eq!(
            written(timer.offer()),
            "Session-Expires: 3600\nMin-SE: 3600\n"
        );
        assert!(!timer.refused(&refusal), "it has been met");
    }

    #[test]
    fn a_refresh_keeps_interval_and_roles() {
        let mut timer = timer();
        timer.accepted(&ok("Session-Expires: 600;refresher=uas\r\n"), START);
        assert_eq!(
            written(timer.offer_again()),
            "Session-Expires: 600;refresher=uas\n"
        );
        let request = request("Supported: timer\r\nMin-SE: 700\r\nSession-Expires: 700\r\n");
        timer.answer(&request, START).expect("long enough");
        assert_eq!(
            written(timer.offer_again()),
            "Session-Expires: 700;refresher=uas\nMin-SE: 700\n"
        );
    }

    #[test]
    fn an_answer_without_an_interval_turns_the_timer_off() {
        let mut timer = timer();
        timer.accepted(&ok("Session-Expires: 600;refresher=uas\r\n"), START);
        timer.accepted(&ok(""), after(10));
        assert_eq!(timer.handle_timeout(after(100_000)), None);
    }

    #[test]
    fn nobody_makes_us_refresh_more_often_than_every_45_seconds() {
        let mut timer = timer();
        timer.accepted(&ok("Session-Expires: 1;refresher=uac\r\n"), START);
        assert_eq!(timer.next_deadline(), Some(after(45)));
        timer.accepted(&ok("Session-Expires: 99999999999\r\n"), START);
        assert_eq!(timer.refresher(), None, "not a number of 32 bits");
    }
}
