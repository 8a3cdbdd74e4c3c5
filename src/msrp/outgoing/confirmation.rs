//! How messages that were sent fare: responses, REPORTs and silence (RFC 4975 §5.3, §7.3.2, §10).

use std::collections::VecDeque;

use super::{InFlight, Outgoing, REMEMBERED, RESPONSE_TIMEOUT};
use crate::clock::Instant;
use crate::msrp::event::{EndReason, OutboundId, SessionEvent};
use crate::msrp::frame::{FailureReport, ReportFields};
use crate::msrp::outbox::Outbox;

/// Separate ranges of one message that success REPORTs may leave; more are not looked at.
const MAX_PIECES: usize = 256;

impl Outgoing {
    /// The last octet of a request has left.
    pub(in crate::msrp) fn left(&mut self, serial: u64, now: Instant, out: &mut Outbox) {
        let mut in_flight = self.in_flight.iter_mut();
        let Some(at) = in_flight.position(|request| request.serial == serial) else {
            return;
        };
        let Some(request) = self.in_flight.get_mut(at) else {
            return;
        };
        match (request.failure_report, request.message) {
            (FailureReport::Yes, _) => request.deadline = Some(now + RESPONSE_TIMEOUT),
            (quiet, message) => {
                let request = self.in_flight.remove(at);
                if let (FailureReport::Partial, Some(request), Some(id)) = (quiet, request, message)
                {
                    bounded_push(&mut self.quiet, (request.transaction, id));
                }
                if let Some(id) = message {
                    self.confirm(id, out);
                }
            }
        }
    }

    /// A response came. Tells whether it was to one of our requests, and why the session is over, if
    /// it is.
    pub(in crate::msrp) fn response(
        &mut self,
        transaction: &str,
        status: u16,
        out: &mut Outbox,
    ) -> (bool, Option<EndReason>) {
        let mut in_flight = self.in_flight.iter();
        let place = in_flight.position(|request| *request.transaction == *transaction);
        let message = match place.and_then(|at| self.in_flight.remove(at)) {
            Some(request) => request.message,
            None => {
                let mut quiet = self.quiet.iter();
                return match quiet.find(|(quiet, _)| **quiet == *transaction) {
                    Some((_, id)) if !is_success(status) => {
                        let id = *id;
                        (true, self.fail(Some(id), status, out))
                    }
                    Some(_) => (true, None),
                    None => (false, None),
                };
            }
        };
        if !is_success(status) {
            return (true, self.fail(message, status, out));
        }
        if let Some(id) = message {
            self.confirm(id, out);
        }
        (true, None)
    }

    /// One chunk needs no more waiting for.
    fn confirm(&mut self, id: OutboundId, out: &mut Outbox) {
        let Some(message) = self.messages.get_mut(&id) else {
            // It was given up: what waits behind it has room now.
            let confirmed = 0;
            return out.tell(SessionEvent::Progress {
                message: id,
                confirmed,
            });
        };
        message.in_flight = message.in_flight.saturating_sub(1);
        let quiet = message.failure_report != FailureReport::Yes && message.success_report;
        if message.ended && message.in_flight == 0 {
            if !quiet {
                self.deliver(id, out);
            }
            return;
        }
        let waiting = self
            .in_flight
            .iter()
            .filter(|part| part.message == Some(id));
        let confirmed = waiting.map(|part| part.start).min();
        let confirmed = confirmed.unwrap_or(message.chunked);
        if confirmed > message.confirmed {
            message.confirmed = confirmed;
            out.tell(SessionEvent::Progress {
                message: id,
                confirmed,
            });
        }
    }

    /// The peer has all of it; only a REPORT may be outstanding.
    fn deliver(&mut self, id: OutboundId, out: &mut Outbox) {
        let Some(message) = self.messages.get_mut(&id) else {
            return;
        };
        if !message.delivered {
            message.delivered = true;
            out.tell(SessionEvent::Delivered { message: id });
        }
        let reported = message.reported.covers(message.chunked);
        if !message.success_report || (reported && message.chunked > 0) {
            self.remove(id);
        }
        self.forget_oldest_delivered();
    }

    fn forget_oldest_delivered(&mut self) {
        let delivered = self.messages.iter().filter(|(_, m)| m.delivered);
        let mut ids = delivered.map(|(id, _)| *id);
        if let (Some(oldest), true) = (ids.next(), ids.count() >= REMEMBERED) {
            self.remove(oldest);
        }
    }

    /// A request of `message` was refused (RFC 4975 §10).
    fn fail(
        &mut self,
        message: Option<OutboundId>,
        status: u16,
        out: &mut Outbox,
    ) -> Option<EndReason> {
        match (status, message) {
            (481, _) => return Some(EndReason::Unknown),
            (506, _) => return Some(EndReason::Elsewhere),
            // A binding SEND refused in any other way has still reached the peer's session.
            (_, None) => return None,
            (status, Some(id)) => {
                let known = self.drop_message(id, out);
                let quiet = self.quiet.iter().any(|(_, quiet)| *quiet == id);
                if known || quiet {
                    self.quiet.retain(|(_, quiet)| *quiet != id);
                    out.tell(match status {
                        408 => SessionEvent::TimedOut { message: id },
                        status => SessionEvent::Refused {
                            message: id,
                            status,
                        },
                    });
                }
            }
        }
        None
    }

    /// No more of the message goes out. False if it was gone already.
    fn drop_message(&mut self, id: OutboundId, out: &mut Outbox) -> bool {
        let known = self.remove(id).is_some_and(|m| !m.delivered);
        out.withdraw(id);
        self.in_flight.retain(|request| request.message != Some(id));
        known
    }

    /// A REPORT came (RFC 4975 §7.3.2). One for an unknown message, or with a namespace other than
    /// 000, is ignored.
    pub(in crate::msrp) fn report(
        &mut self,
        fields: &ReportFields<'_>,
        out: &mut Outbox,
    ) -> Option<EndReason> {
        let mut messages = self.messages.iter_mut();
        let (id, message) = messages.find(|(_, m)| *m.message_id == *fields.message_id)?;
        if fields.namespace != 0 {
            return None;
        }
        let id = *id;
        out.tell(SessionEvent::Report {
            message: id,
            status: fields.status,
            range: fields.byte_range,
        });
        if fields.status != 200 {
            return self.fail(Some(id), fields.status, out);
        }
        if !message.success_report {
            return None;
        }
        let (start, end) = match fields.byte_range {
            None => (0, message.chunked),
            Some(range) => (range.start - 1, range.end.unwrap_or(message.chunked)),
        };
        if message.reported.pieces() < MAX_PIECES {
            message.reported.insert(start, end.min(message.chunked));
        }
        if message.ended && message.reported.covers(message.chunked) {
            self.deliver(id, out);
            self.remove(id);
        }
        None
    }

    pub(in crate::msrp) fn next_deadline(&self) -> Option<Instant> {
        self.in_flight.iter().filter_map(|r| r.deadline).min()
    }

    pub(in crate::msrp) fn handle_timeout(
        &mut self,
        now: Instant,
        out: &mut Outbox,
    ) -> Option<EndReason> {
        let due = |request: &&InFlight| request.deadline.is_some_and(|at| at <= now);
        while let Some(request) = self.in_flight.iter().find(due) {
            let (serial, message) = (request.serial, request.message);
            self.in_flight.retain(|request| request.serial != serial);
            match message {
                None => return Some(EndReason::Silent),
                Some(id) => {
                    if self.drop_message(id, out) {
                        out.tell(SessionEvent::TimedOut { message: id });
                    }
                }
            }
        }
        None
    }
}

fn is_success(status: u16) -> bool {
    (200..300).contains(&status)
}

fn bounded_push<T>(queue: &mut VecDeque<T>, item: T) {
    if queue.len() == REMEMBERED {
        queue.pop_front();
    }
    queue.push_back(item);
}
