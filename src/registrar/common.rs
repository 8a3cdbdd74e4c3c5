//! What the bindings of many users have in common is kept once: most devices are of few kinds.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use foldhash::fast::RandomState;

use crate::registrar::feature::FeatureSet;

/// Values of each kind that are shared; what is rarer is kept with its binding.
const MOST: usize = 1_024;
/// What one takes with its place in the table; estimated.
const VALUE: usize = 1_024;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Common {
    features: Table<FeatureSet>,
    agents: Table<str>,
}

impl Common {
    /// Memory in use, about.
    pub(super) fn footprint(&self) -> usize {
        (self.features.values.len() + self.agents.values.len()) * VALUE
    }

    /// Puts the value in place that all share; whether it is shared now.
    pub(super) fn share_features(&mut self, features: &mut Arc<FeatureSet>) -> bool {
        self.features.share(features)
    }

    /// The same for a User-Agent.
    pub(super) fn share_agent(&mut self, agent: &mut Arc<str>) -> bool {
        self.agents.share(agent)
    }
}

/// Values by their hash. Of two with the same hash the first is shared.
#[derive(Debug)]
struct Table<T: ?Sized> {
    values: HashMap<u64, Arc<T>, RandomState>,
    /// Values that found no room since the table was last looked through.
    turned_away: usize,
    hasher: RandomState,
}

impl<T: ?Sized> Default for Table<T> {
    fn default() -> Self {
        Self {
            values: HashMap::default(),
            turned_away: 0,
            hasher: RandomState::default(),
        }
    }
}

impl<T: Hash + PartialEq + ?Sized> Table<T> {
    fn share(&mut self, value: &mut Arc<T>) -> bool {
        let hash = self.hasher.hash_one(&**value);
        if let Some(known) = self.values.get(&hash) {
            let is_alike = known == value;
            if is_alike {
                *value = Arc::clone(known);
            }
            return is_alike;
        }
        let has_room = self.values.len() < MOST || self.sweep();
        if has_room {
            self.values.insert(hash, Arc::clone(value));
        }
        has_room
    }

    /// Makes room by what nobody has any more; a full table is looked through only once in a while, so that rare
    /// values cost no more than common ones.
    fn sweep(&mut self) -> bool {
        self.turned_away += 1;
        if self.turned_away >= MOST {
            self.turned_away = 0;
            self.values.retain(|_, value| Arc::strong_count(value) > 1);
        }
        self.values.len() < MOST
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::header::Parameters;

    #[test]
    fn what_is_alike_is_kept_once() {
        let mut common = Common::default();
        let mut of = |text: &str| {
            let mut features = Arc::new(FeatureSet::of(&Parameters::new(text)));
            assert!(common.share_features(&mut features));
            features
        };
        let one = of(";+g.oma.sip-im;methods=\"MESSAGE,INVITE\";priority=\"#>=2\"");
        let alike = of(";+G.oma.sip-im;methods=\"MESSAGE,INVITE\";priority=\"#>=2\"");
        let other = of(";+g.oma.sip-im;methods=\"MESSAGE\";priority=\"#>=2\"");
        assert!(Arc::ptr_eq(&one, &alike));
        assert_ne!(one, other);
    }

    #[test]
    fn rare_values_go_when_nobody_has_them_and_are_not_shared_beyond_the_bound() {
        let mut common = Common::default();
        let mut agents: Vec<Arc<str>> = (0..MOST).map(|it| format!("Phone/{it}").into()).collect();
        for agent in &mut agents {
            assert!(common.share_agent(agent));
        }
        let mut late: Arc<str> = "Late/1".into();
        assert!(!common.share_agent(&mut late));
        assert!(common.share_agent(&mut agents[0]));
        agents.truncate(10);
        let tries = (0..MOST).take_while(|_| !common.share_agent(&mut late));
        assert_eq!(
            tries.count(),
            MOST - 2,
            "looked through once in so many tries"
        );
        assert_eq!(common.footprint(), 11 * VALUE);
    }
}
