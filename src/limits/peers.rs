//! Which peers are let in, and how many requests each may send: networks by where requests come from,
//! domains by whose they are. A peer's rate is one for all shards.

use std::net::IpAddr;
use std::time::Duration;

use crate::clock::Instant;
use crate::config::{Access, Config, PeerRule};
use crate::limits::rate::Rate;
use crate::limits::shared::SharedBucket;

/// Why a request is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Barred {
    /// Its peer is denied.
    Denied,
    /// Its peer has sent too many; after this there is room again.
    TooMany(Duration),
}

#[derive(Debug)]
struct Peer {
    rule: PeerRule,
    bucket: SharedBucket,
}

/// The peers of the configuration.
#[derive(Debug)]
pub struct Peers {
    peers: Box<[Peer]>,
    unlisted_networks: Access,
    unlisted_domains: Access,
}

impl Peers {
    /// As configured.
    pub fn new(config: &Config) -> Self {
        let peer = |rule: &PeerRule| Peer {
            rule: rule.clone(),
            bucket: SharedBucket::default(),
        };
        Self {
            peers: config.peer.iter().map(peer).collect(),
            unlisted_networks: config.traffic.unlisted_networks,
            unlisted_domains: config.traffic.unlisted_domains,
        }
    }

    /// Whether a request may come from this address at all.
    pub fn admits_address(&self, address: IpAddr) -> bool {
        let action = self.of_address(address).map(|peer| peer.rule.action);
        action.unwrap_or(self.unlisted_networks) == Access::Allow
    }

    /// One more request from this address.
    pub fn take_address(&self, address: IpAddr, now: Instant) -> Result<(), Barred> {
        self.of_address(address)
            .map_or(Ok(()), |peer| peer.take(now))
    }

    /// One more request by a sender of this domain.
    pub fn take_domain(&self, domain: &str, now: Instant) -> Result<(), Barred> {
        let is_it = |peer: &&Peer| {
            let own = peer.rule.domain.as_deref();
            own.is_some_and(|own| own.eq_ignore_ascii_case(domain))
        };
        match self.peers.iter().find(is_it) {
            Some(peer) => peer.take(now),
            None if self.unlisted_domains == Access::Deny => Err(Barred::Denied),
            None => Ok(()),
        }
    }

    /// Whether domains count for anything.
    pub fn knows_domains(&self) -> bool {
        self.unlisted_domains == Access::Deny
            || self.peers.iter().any(|peer| peer.rule.domain.is_some())
    }

    fn of_address(&self, address: IpAddr) -> Option<&Peer> {
        let holds = |peer: &&Peer| {
            let network = peer.rule.network;
            network.is_some_and(|network| network.contains(address))
        };
        self.peers.iter().find(holds)
    }
}

impl Peer {
    fn take(&self, now: Instant) -> Result<(), Barred> {
        let PeerRule { rate, burst, .. } = self.rule;
        if self.rule.action == Access::Deny {
            return Err(Barred::Denied);
        }
        if rate == 0 {
            return Ok(());
        }
        let burst = if burst == 0 { rate } else { burst };
        let rate = Rate::new(rate, burst);
        self.bucket.take(rate, 1, now).map_err(Barred::TooMany)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(text: &str) -> Peers {
        Peers::new(&toml::from_str(text).unwrap())
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_first_network_that_fits_holds() {
        let peers = peers(
            "[[peer]]\nnetwork = \"10.1.0.0/16\"\n\
             [[peer]]\nnetwork = \"10.0.0.0/8\"\naction = \"deny\"\n",
        );
        assert!(peers.admits_address(address("10.1.2.3")));
        assert!(!peers.admits_address(address("10.2.2.3")));
        assert!(peers.admits_address(address("192.0.2.1")));
        assert!(!peers.knows_domains());
    }

    #[test]
    fn who_is_not_listed_can_be_kept_out() {
        let peers = peers(
            "[traffic]\nunlisted_networks = \"deny\"\nunlisted_domains = \"deny\"\n\
             [[peer]]\nnetwork = \"::1\"\n[[peer]]\ndomain = \"im.test\"\n",
        );
        assert!(peers.admits_address(address("::1")));
        assert!(!peers.admits_address(address("::2")));
        let now = Instant::default();
        assert_eq!(peers.take_domain("IM.test", now), Ok(()));
        assert_eq!(peers.take_domain("other.test", now), Err(Barred::Denied));
    }

    #[test]
    fn a_rate_is_for_all_of_a_peer_together_and_for_nobody_else() {
        let peers = peers(
            "[[peer]]\nnetwork = \"10.0.0.0/8\"\nrate = 1\nburst = 2\n\
             [[peer]]\ndomain = \"other.test\"\nrate = 1\n",
        );
        let now = Instant::default();
        assert_eq!(peers.take_address(address("10.0.0.1"), now), Ok(()));
        assert_eq!(peers.take_address(address("10.0.0.2"), now), Ok(()));
        let second = Duration::from_secs(1);
        let over = Err(Barred::TooMany(second));
        assert_eq!(peers.take_address(address("10.0.0.3"), now), over);
        assert_eq!(peers.take_address(address("192.0.2.1"), now), Ok(()));
        assert_eq!(peers.take_domain("other.test", now), Ok(()));
        assert_eq!(peers.take_domain("other.test", now), over);
        assert_eq!(peers.take_domain("im.test", now), Ok(()));
        assert_eq!(peers.take_domain("other.test", now + second), Ok(()));
    }
}
