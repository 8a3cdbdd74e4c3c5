//! A map for what nearly always has one entry: that one costs no more memory than itself, where a tree begins with
//! room for eleven.

use std::collections::BTreeMap;

/// Entries by key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum OneOrMore<K, V> {
    /// A single one.
    One(K, V),
    /// As many as there were, also when fewer are left; or none yet.
    More(BTreeMap<K, V>),
}

impl<K, V> Default for OneOrMore<K, V> {
    fn default() -> Self {
        Self::More(BTreeMap::new())
    }
}

impl<K: Ord + Clone, V: Default> OneOrMore<K, V> {
    pub fn get(&self, key: &K) -> Option<&V> {
        match self {
            Self::One(one, value) => (one == key).then_some(value),
            Self::More(map) => map.get(key),
        }
    }

    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        match self {
            Self::One(one, value) => (one == key).then_some(value),
            Self::More(map) => map.get_mut(key),
        }
    }

    /// The value of a key, made if there was none.
    pub fn get_or_default(&mut self, key: &K) -> &mut V {
        *self = match std::mem::take(self) {
            Self::One(one, value) if one != *key => Self::More(BTreeMap::from([(one, value)])),
            Self::More(map) if map.is_empty() => Self::One(key.clone(), V::default()),
            other => other,
        };
        match self {
            Self::One(_, value) => value,
            Self::More(map) => map.entry(key.clone()).or_default(),
        }
    }

    pub fn remove(&mut self, key: &K) {
        match self {
            Self::One(one, _) if one == key => *self = Self::default(),
            Self::One(..) => {}
            Self::More(map) => drop(map.remove(key)),
        }
    }

    pub fn is_empty(&self) -> bool {
        matches!(self, Self::More(map) if map.is_empty())
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        let (one, more) = match self {
            Self::One(_, value) => (Some(value), None),
            Self::More(map) => (None, Some(map.values())),
        };
        one.into_iter().chain(more.into_iter().flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_none_one_or_more() {
        let mut map = OneOrMore::<u8, u32>::default();
        assert!(map.is_empty() && map.get(&1).is_none() && map.values().next().is_none());
        *map.get_or_default(&1) += 10;
        *map.get_or_default(&1) += 1;
        assert_eq!((map.get(&1), map.get(&2)), (Some(&11), None));
        *map.get_or_default(&2) = 22;
        *map.get_or_default(&3) = 33;
        *map.get_mut(&1).expect("there") = 12;
        assert_eq!(map.values().collect::<Vec<_>>(), [&12, &22, &33]);
        map.remove(&1);
        map.remove(&3);
        map.remove(&4);
        assert_eq!((map.get(&1), map.get(&2)), (None, Some(&22)));
        map.remove(&2);
        assert!(map.is_empty() && map.get_mut(&2).is_none());
        assert_eq!(*map.get_or_default(&3), 0);
    }

    #[test]
    fn the_only_one_leaves_nothing_behind() {
        let mut map = OneOrMore::<u8, u32>::default();
        map.get_or_default(&1);
        map.remove(&2);
        assert!(map.get(&1).is_some() && map.get_mut(&2).is_none());
        map.remove(&1);
        assert_eq!(map, OneOrMore::default());
    }
}
