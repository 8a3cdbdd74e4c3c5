//! The operator's switches for delivery: what comes for users who may not receive is kept, nothing is
//! delivered live, replayed or fetched, until they may again.

use crate::clock::Now;
use crate::config::Traffic;
use crate::identity::Identity;
use crate::participating::service::Service;

/// Users offered what waits for them at each sweep, once delivery is on again for everybody.
const OFFERED_AT_ONCE: usize = 256;

impl Service {
    /// Whether messages may leave for this user.
    pub(super) fn may_receive(&self, user: &Identity) -> bool {
        self.traffic.delivery && self.settings_of(user).settings.may_receive
    }

    /// The operator lets this through from here on.
    pub(super) fn set_traffic(&mut self, traffic: Traffic, now: Now) {
        let before = std::mem::replace(&mut self.traffic, traffic);
        if before.delivery == self.traffic.delivery {
            return;
        }
        let of_machines = self.users.keys();
        let mut users: Vec<Identity> = match self.traffic.delivery {
            false => of_machines.cloned().collect(),
            true => of_machines.chain(&self.waiting).cloned().collect(),
        };
        users.sort();
        users.dedup();
        match self.traffic.delivery {
            // Nobody is to be offered anything more from this moment on.
            false => {
                self.reoffers.clear();
                for user in users {
                    self.handle_registration(&user, now);
                }
            }
            true => self.reoffers = users.into(),
        }
    }

    /// Offers to some users what waits for them.
    pub(super) fn offer_again(&mut self, now: Now) {
        for _ in 0..OFFERED_AT_ONCE.min(self.reoffers.len()) {
            if let Some(user) = self.reoffers.pop_front() {
                self.handle_registration(&user, now);
            }
        }
    }
}
