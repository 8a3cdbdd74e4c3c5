//! New work is turned away while the shard is behind or memory is short (RFC 3261 §21.5.4).
//!
//! Most of it was refused as it came in (`crate::shard::door`). Here is what came another way: over TCP,
//! from another shard, or not written plainly. Without a transaction, before any proof of identity. What has
//! begun goes on: responses, ACK, CANCEL, everything inside a dialog of ours, retransmissions of what is being
//! served, MSRP. Other retransmissions of what was let in vanish: they come again, or their sender has his answer.

use crate::clock::{Instant, Now};
use crate::limits::load::{Pressure, Stage, Verdict};
use crate::limits::sources::Standing;
use crate::participating::service::Service;
use crate::sip::digest::MOST_CREDENTIALS;
use crate::sip::glance::is_in_own_dialog;
use crate::sip::message::{HeaderName, Message, Method};
use crate::sip::rejection::Rejection;
use crate::sip::transport::flow::Flow;
use std::time::Duration;

/// The log tells of an overload at most so often.
const TOLD_EVERY: Duration = Duration::from_secs(5);
/// Without a refusal for so long it is over.
const CALM_AFTER: Duration = Duration::from_secs(2);

/// What the log and the metrics say of an overload.
#[derive(Debug, Default)]
pub(super) struct Overload {
    told_at: Option<Instant>,
}

impl Service {
    /// Whether a request is new work that there is no room for; if so it has been answered, or is ignored. It was
    /// `came` octets long before its Via was stamped. `is_answer` says of credentials whether they answer a
    /// challenge of ours.
    pub fn turns_away(
        &mut self,
        request: &Message,
        came: usize,
        flow: Flow,
        is_answer: impl Fn(&str) -> bool,
        now: Now,
    ) -> bool {
        if self.load.is_calm() || !begins_work(request) {
            return false;
        }
        let stage = self.stage(request, flow, is_answer, now);
        let verdict = self.load.verdict(stage, now.instant);
        if verdict == Verdict::Take || self.sip.knows(request) {
            return false;
        }
        if self.load.refused(now.instant) {
            self.metrics.overloaded.rise();
        }
        match verdict {
            // RFC 3261 §17.1.2.2: only over datagrams does its sender send it again.
            Verdict::Ignore if !flow.transport.is_reliable() => {
                self.metrics.ignored.count();
                return true;
            }
            // A 503 would be taken for the answer to the one that was let in.
            _ if self.load.is_again() => {
                self.metrics.ignored.count();
                return true;
            }
            Verdict::Refuse(Pressure::Memory) => self.metrics.refused_memory.count(),
            _ => self.metrics.refused_delay.count(),
        }
        let unavailable = Rejection::new(503, "Service Unavailable");
        self.reject_stateless(request, came, flow, &unavailable);
        true
    }

    /// Whether we have asked its sender to prove who he is and he does, or he has; who goes makes room. Whether one
    /// who sends datagrams sends less than others was looked at where they came in.
    fn stage(
        &self,
        request: &Message,
        flow: Flow,
        is_answer: impl Fn(&str) -> bool,
        now: Now,
    ) -> Stage {
        let proofs = [HeaderName::Authorization, HeaderName::ProxyAuthorization];
        let credentials = proofs.iter().flat_map(|name| request.headers(*name));
        let is_proven = credentials.take(MOST_CREDENTIALS).any(is_answer);
        let goes = request.method() == Method::Register
            && request.header(HeaderName::Expires) == Some("0");
        let (address, way) = (flow.remote.ip(), flow.transport.way());
        match self.sources.standing(address, way, now.instant) {
            Standing::Trusted | Standing::Proven if goes => Stage::Leaves,
            Standing::Unknown if goes && !flow.transport.is_reliable() => Stage::Leaves,
            _ if is_proven || goes => Stage::Proven,
            Standing::Trusted | Standing::Proven => Stage::Known,
            Standing::Unknown => Stage::Fresh,
            Standing::Silent => Stage::Silent,
        }
    }

    /// Tells the log of an overload and of its end.
    pub(super) fn tell_of_overload(&mut self, now: Now) {
        let Some(last) = self.load.refused_at() else {
            return;
        };
        if now.instant.since(last) >= CALM_AFTER {
            self.overload = Overload::default();
            self.load.calmed();
            self.metrics.overloaded.fall();
            return tracing::info!("new work is taken again");
        }
        let told = self.overload.told_at;
        if told.is_none_or(|at| now.instant.since(at) >= TOLD_EVERY) {
            tracing::warn!(
                refused = self.load.take_refused(),
                delay = ?self.load.delay(),
                memory = self.memory.ledger().total(),
                "new work is refused: the shard is behind, or memory is short"
            );
            self.overload.told_at = Some(now.instant);
        }
    }
}

/// Whether a request is the first of something, so that nothing breaks if it is refused.
fn begins_work(request: &Message) -> bool {
    match request.method() {
        Method::Ack | Method::Cancel => false,
        _ => {
            let routes = request.values(HeaderName::Route);
            let has_tag = request.to_tag().is_some();
            !has_tag || !is_in_own_dialog(request.request_uri(), routes)
        }
    }
}
