//! The measures that all shards share: what the whole server passes on, and what each limited user sends.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Instant;
use crate::config::Config;
use crate::limits::chats::Chats;
use crate::limits::ledger::Ledger;
use crate::limits::peers::Peers;
use crate::limits::rate::Rate;
use crate::limits::shared::SharedBucket;

/// So much a second for the whole server; 0 means as much as comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Messages.
    pub messages: u32,
    /// Octets of their bodies.
    pub octets: u64,
}

/// See the module's text.
#[derive(Debug)]
pub struct Meters {
    messages: SharedBucket,
    octets: SharedBucket,
    failures: SharedBucket,
    /// What limited users send.
    pub senders: Ledger,
    /// How many chats each user has open.
    pub chats: Arc<Chats>,
    /// Who may send requests.
    pub peers: Peers,
}

impl Meters {
    /// As configured.
    pub fn new(config: &Config) -> Self {
        Self {
            peers: Peers::new(config),
            messages: SharedBucket::default(),
            octets: SharedBucket::default(),
            failures: SharedBucket::default(),
            senders: Ledger::new(config.traffic.senders),
            chats: Arc::new(Chats::new(config.limits.chats_per_user)),
        }
    }

    /// So many more messages with so many octets through the server, or how long to wait. A second's worth
    /// may come at once.
    pub fn take(
        &self,
        flow: Flow,
        messages: u32,
        octets: u64,
        now: Instant,
    ) -> Result<(), Duration> {
        let of_octets = Rate::new(clamped(flow.octets), clamped(flow.octets));
        let is_measured = flow.octets > 0 && octets > 0;
        // What is refused for its octets takes no message's place.
        if is_measured {
            self.octets.try_take(of_octets, clamped(octets), now)?;
        }
        if flow.messages > 0 && messages > 0 {
            let rate = Rate::new(flow.messages, flow.messages);
            self.messages.take(rate, messages, now)?;
        }
        if is_measured {
            self.octets.take(of_octets, clamped(octets), now)?;
        }
        Ok(())
    }

    /// One more notification that a message failed; false if this second has had its share.
    pub fn take_failure(&self, per_second: u32, now: Instant) -> bool {
        let rate = Rate::new(per_second, per_second);
        per_second == 0 || self.failures.take(rate, 1, now).is_ok()
    }
}

fn clamped(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_octets_are_limited_each_for_itself() {
        let meters = Meters::new(&Config::default());
        let now = Instant::default();
        let flow = Flow {
            messages: 2,
            octets: 1_000,
        };
        assert_eq!(meters.take(flow, 1, 400, now), Ok(()));
        assert_eq!(meters.take(flow, 1, 400, now), Ok(()));
        assert!(meters.take(flow, 1, 100, now).is_err());
        let second = Duration::from_secs(1);
        assert_eq!(meters.take(flow, 1, 900, now + second), Ok(()));
        assert!(meters.take(flow, 1, 900, now + second).is_err());
        assert_eq!(meters.take(Flow::default(), 9, 9_999, now), Ok(()));
    }

    #[test]
    fn failures_are_capped_only_if_a_cap_is_set() {
        let meters = Meters::new(&Config::default());
        let now = Instant::default();
        assert!(meters.take_failure(1, now));
        assert!(!meters.take_failure(1, now));
        assert!(meters.take_failure(0, now));
    }
}
