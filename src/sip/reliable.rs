//! Reliable provisional responses (RFC 3262): sent until their PRACK comes, and taken in order.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use crate::clock::Instant;
use crate::sip::message::{HeaderName, Message};
use crate::sip::session_timer::lists;

/// Responses that may wait for the PRACK of the one before them; more are dropped, as each says what
/// the next says again.
const WAITING: usize = 8;

/// What is to be done about a response that nobody has acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// Send it again (RFC 3262 §3).
    Repeat(u16, Bytes),
    /// 64 times T1 have passed: the INVITE is refused with 5xx.
    GiveUp,
}

#[derive(Debug)]
struct Sent {
    status: u16,
    octets: Bytes,
    again_at: Instant,
    interval: Duration,
    give_up_at: Instant,
}

/// The responses of one INVITE that we answer.
#[derive(Debug)]
pub struct ReliableSender {
    t1: Duration,
    /// The CSeq number of the INVITE.
    cseq: u32,
    /// RSeq of the latest response.
    rseq: u32,
    sent: Option<Sent>,
    waiting: VecDeque<(u16, Bytes)>,
}

impl ReliableSender {
    /// For an INVITE with this CSeq number; `first` is a random number.
    pub fn new(t1: Duration, cseq: u32, first: u64) -> Self {
        // RFC 3262 §3: from 1 to 2³¹ - 1.
        let rseq = u32::try_from(first % (1 << 31)).unwrap_or_default();
        Self {
            t1,
            cseq,
            rseq,
            sent: None,
            waiting: VecDeque::new(),
        }
    }

    /// The RSeq of the next response.
    pub fn next_rseq(&self) -> u32 {
        let waiting = u32::try_from(self.waiting.len()).unwrap_or_default();
        self.rseq.saturating_add(waiting).saturating_add(1)
    }

    /// Takes a response that bears [`Self::next_rseq`]; it comes back if it is to be sent at once: only
    /// one may wait for its PRACK (RFC 3262 §3).
    pub fn send(&mut self, status: u16, octets: Bytes, now: Instant) -> Option<(u16, Bytes)> {
        if self.sent.is_some() {
            if self.waiting.len() < WAITING {
                self.waiting.push_back((status, octets));
            }
            return None;
        }
        self.launch(status, octets, now)
    }

    fn launch(&mut self, status: u16, octets: Bytes, now: Instant) -> Option<(u16, Bytes)> {
        self.rseq = self.rseq.saturating_add(1);
        self.sent = Some(Sent {
            status,
            octets: octets.clone(),
            again_at: now + self.t1,
            interval: self.t1,
            give_up_at: now + self.t1 * 64,
        });
        Some((status, octets))
    }

    /// A PRACK came: `None` if it matches nothing that is unacknowledged (481), else the response that
    /// is to be sent next.
    pub fn handle_prack(&mut self, prack: &Message, now: Instant) -> Option<Option<(u16, Bytes)>> {
        let (rseq, cseq) = rack(prack)?;
        if self.sent.is_none() || rseq != self.rseq || cseq != self.cseq {
            return None;
        }
        self.sent = None;
        let next = self.waiting.pop_front();
        Some(next.and_then(|(status, octets)| self.launch(status, octets, now)))
    }

    /// The final response has left: nothing is sent again (RFC 3262 §3).
    pub fn stop(&mut self) {
        self.waiting.clear();
        if let Some(sent) = &mut self.sent {
            sent.again_at = Instant::from_micros(u64::MAX);
            sent.give_up_at = Instant::from_micros(u64::MAX);
        }
    }

    /// What is due by now.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<Due> {
        let sent = self.sent.as_mut()?;
        if sent.give_up_at <= now {
            return Some(Due::GiveUp);
        }
        if sent.again_at > now {
            return None;
        }
        sent.interval *= 2;
        sent.again_at = now + sent.interval;
        Some(Due::Repeat(sent.status, sent.octets.clone()))
    }

    /// When something is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        let sent = self.sent.as_ref()?;
        Some(sent.again_at.min(sent.give_up_at))
    }
}

/// RAck: RSeq and CSeq number of an INVITE (RFC 3262 §7.2).
fn rack(prack: &Message) -> Option<(u32, u32)> {
    let mut words = prack.header(HeaderName::RAck)?.split_ascii_whitespace();
    let (rseq, cseq) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    (words.next()? == "INVITE").then_some((rseq, cseq))
}

/// The responses to an INVITE of ours, in one early dialog.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReliableReceiver {
    latest: Option<u32>,
}

impl ReliableReceiver {
    /// The RAck of the PRACK that a response is owed; `None` for one that is not reliable, comes again,
    /// or before its turn (RFC 3262 §4).
    pub fn handle_response(&mut self, response: &Message) -> Option<String> {
        if !(101..200).contains(&response.status())
            || !lists(response, HeaderName::Require, "100rel")
        {
            return None;
        }
        let rseq: u32 = response.header(HeaderName::RSeq)?.trim().parse().ok()?;
        let in_turn = match self.latest {
            None => rseq > 0,
            Some(latest) => latest.checked_add(1) == Some(rseq),
        };
        if !in_turn {
            return None;
        }
        self.latest = Some(rseq);
        let cseq = response.cseq().ok()?.number;
        Some(format!("{rseq} {cseq} INVITE"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::wire;

    const T1: Duration = Duration::from_millis(500);
    const START: Instant = Instant::from_micros(1_000_000);

    fn prack(rack: &str) -> Message {
        let text = format!(
            "PRACK sip:b@h SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\n\
             From: <sip:a@b>;tag=1\r\nTo: <sip:c@d>;tag=2\r\nCall-ID: x\r\nCSeq: 8 PRACK\r\n\
             RAck: {rack}\r\nContent-Length: 0\r\n\r\n"
        );
        wire::parse(text.into()).expect("legal")
    }

    fn ringing(fields: &str) -> Message {
        let text = format!(
            "SIP/2.0 180 Ringing\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\n\
             From: <sip:a@b>;tag=1\r\nTo: <sip:c@d>;tag=2\r\nCall-ID: x\r\nCSeq: 7 INVITE\r\n\
             {fields}Content-Length: 0\r\n\r\n"
        );
        wire::parse(text.into()).expect("legal")
    }

    fn after(millis: u64) -> Instant {
        START + Duration::from_millis(millis)
    }

    fn text(octets: &'static str) -> Bytes {
        Bytes::from_static(octets.as_bytes())
    }

    #[test]
    fn a_response_is_repeated_at_doubling_intervals_until_its_prack() {
        let mut sender = ReliableSender::new(T1, 7, 40);
        assert_eq!(sender.next_rseq(), 41);
        assert_eq!(sender.send(180, text("a"), START), Some((180, text("a"))));
        assert_eq!(sender.handle_timeout(after(499)), None);
        let repeat = Some(Due::Repeat(180, text("a")));
        assert_eq!(sender.handle_timeout(after(500)), repeat);
        assert_eq!(sender.handle_timeout(after(1_499)), None);
        assert_eq!(sender.handle_timeout(after(1_500)), repeat);
        assert_eq!(sender.next_deadline(), Some(after(3_500)));
        assert_eq!(
            sender.handle_prack(&prack("41 7 INVITE"), after(2_000)),
            Some(None)
        );
        assert_eq!(sender.next_deadline(), None);
    }

    #[test]
    fn a_prack_that_matches_nothing_is_known() {
        let mut sender = ReliableSender::new(T1, 7, 40);
        assert_eq!(sender.handle_prack(&prack("40 7 INVITE"), START), None);
        sender.send(180, text("a"), START);
        for wrong in [
            "40 7 INVITE",
            "41 8 INVITE",
            "41 7 UPDATE",
            "41",
            "x y INVITE",
        ] {
            assert_eq!(sender.handle_prack(&prack(wrong), START), None, "{wrong}");
        }
        assert!(sender.handle_prack(&prack("41 7 INVITE"), START).is_some());
        assert_eq!(sender.handle_prack(&prack("41 7 INVITE"), START), None);
    }

    #[test]
    fn the_second_response_waits_for_the_prack_of_the_first() {
        let mut sender = ReliableSender::new(T1, 7, 40);
        sender.send(180, text("a"), START);
        assert_eq!(sender.next_rseq(), 42);
        assert_eq!(sender.send(183, text("b"), START), None);
        let next = sender.handle_prack(&prack("41 7 INVITE"), after(100));
        assert_eq!(next, Some(Some((183, text("b")))));
        assert_eq!(sender.next_deadline(), Some(after(600)));
    }

    #[test]
    fn without_a_prack_the_call_is_given_up_after_64_t1() {
        let mut sender = ReliableSender::new(T1, 7, 40);
        sender.send(180, text("a"), START);
        assert_eq!(sender.handle_timeout(after(32_000)), Some(Due::GiveUp));
        sender.stop();
        assert_eq!(sender.handle_timeout(after(1_000_000)), None);
        let late = sender.handle_prack(&prack("41 7 INVITE"), after(1_000_000));
        assert_eq!(
            late,
            Some(None),
            "a PRACK after the final response is taken"
        );
    }

    #[test]
    fn reliable_responses_are_acknowledged_in_turn_and_once() {
        let reliable = |rseq: u32| ringing(&format!("Require: 100rel\r\nRSeq: {rseq}\r\n"));
        let mut receiver = ReliableReceiver::default();
        assert_eq!(receiver.handle_response(&ringing("")), None);
        assert_eq!(receiver.handle_response(&ringing("RSeq: 1\r\n")), None);
        let first = receiver.handle_response(&reliable(988));
        assert_eq!(first.as_deref(), Some("988 7 INVITE"));
        assert_eq!(receiver.handle_response(&reliable(988)), None, "repeated");
        assert_eq!(receiver.handle_response(&reliable(990)), None, "too early");
        let second = receiver.handle_response(&reliable(989));
        assert_eq!(second.as_deref(), Some("989 7 INVITE"));
    }
}
