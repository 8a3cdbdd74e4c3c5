//! Questions to the registrar: what a user has registered, and what of it can be reached.

use crate::clock::Instant;
use crate::identity::Identity;
use crate::registrar::binding::{Binding, BindingKey};
use crate::registrar::table::Registrar;

impl Registrar {
    /// The users that have a binding, in no order.
    pub fn users(&self) -> impl Iterator<Item = &Identity> {
        self.users.keys()
    }

    /// All bindings of a user, suspended ones too, the one registered last at the end.
    pub fn bindings(&self, user: &Identity) -> &[Binding] {
        self.users.get(user).map_or(&[], |bindings| &bindings.all)
    }

    /// One binding of a user.
    pub fn binding(&self, user: &Identity, key: &BindingKey) -> Option<&Binding> {
        self.bindings(user)
            .iter()
            .find(|binding| binding.key == *key)
    }

    /// The bindings a request can be sent to, the one registered last first. Of several flows to
    /// one instance only the newest, because a request goes to a device once (RFC 5626 §7).
    pub fn reachable(&self, user: &Identity, now: Instant) -> Vec<&Binding> {
        let mut reachable: Vec<&Binding> = Vec::new();
        for binding in self.bindings(user).iter().rev() {
            let same_device = |other: &&Binding| match (other.instance(), binding.instance()) {
                (Some(one), Some(other)) => one.eq_ignore_ascii_case(other),
                _ => false,
            };
            let alive = !binding.suspended && binding.deadline > now;
            if alive && !reachable.iter().any(same_device) {
                reachable.push(binding);
            }
        }
        reachable
    }

    /// The reachable binding a public GRUU means (RFC 5627 §6.1): `gr` is the value of the URI
    /// parameter, unescaped.
    pub fn reachable_by_gruu(&self, user: &Identity, gr: &str, now: Instant) -> Option<&Binding> {
        self.reachable(user, now).into_iter().find(|binding| {
            let instance = binding.instance().map(strip_brackets);
            instance.is_some_and(|own| own.eq_ignore_ascii_case(gr))
        })
    }
}

/// An instance without its angle brackets.
pub(super) fn strip_brackets(instance: &str) -> &str {
    let inner = instance.strip_prefix('<').and_then(|t| t.strip_suffix('>'));
    inner.unwrap_or(instance)
}
