//! The registrar of one shard: its users' bindings, their deadlines and the connections they hang on.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use foldhash::fast::RandomState;

use crate::clock::{Instant, Now};
use crate::config::{Config, Tagless};
use crate::date::PresentDate;
use crate::identity::Identity;
use crate::registrar::binding::{Binding, BindingKey, Circumstances};
use crate::registrar::bindings::{Bindings, Effect, Granted};
use crate::registrar::common::Common;
use crate::registrar::record::DecodeError;
use crate::sip::rejection::Rejection;
use crate::sip::transport::flow::{ConnectionId, Flow};
use crate::store::request::StoreRequest;

/// Users whose bindings one call of [`Registrar::handle_timeout`] lets expire.
const MOST_EXPIRED: usize = 256;

/// What the registrar grants.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Shortest registration.
    pub min_expires: Duration,
    /// Longest registration.
    pub max_expires: Duration,
    /// Where the client does not say.
    pub default_expires: Duration,
    /// Contacts of one user.
    pub max_contacts: usize,
    /// Registered users of this registrar.
    pub max_users: usize,
    /// What a contact without feature tags takes.
    pub tagless: Tagless,
}

impl Policy {
    /// From the configuration; `shards` registrars share the bound on users.
    pub fn new(config: &Config, shards: usize) -> Self {
        let registrar = &config.registrar;
        let users = usize::try_from(registrar.max_users).unwrap_or(usize::MAX);
        Self {
            min_expires: registrar.min_expires.duration(),
            max_expires: registrar.max_expires.duration(),
            default_expires: registrar.default_expires.duration(),
            max_contacts: usize::from(registrar.max_contacts),
            max_users: users.div_ceil(shards.max(1)),
            tagless: registrar.tagless,
        }
    }
}

/// What changed for a user, and what the store must be told.
#[derive(Clone, Debug)]
pub struct Registered {
    /// Who.
    pub user: Identity,
    /// Bindings that can be reached since this: new ones, and suspended ones that registered again.
    pub came: Vec<BindingKey>,
    /// Bindings that could be reached before and still can.
    pub refreshed: Vec<BindingKey>,
    /// Of the refreshed ones, those that accept something else than before.
    pub tag_set_changed: Vec<BindingKey>,
    /// Bindings that no longer exist: removed, replaced or expired.
    pub gone: Vec<BindingKey>,
    /// Whether somewhere the user could be reached he no longer can: a binding went, or is elsewhere now.
    pub left: bool,
    /// New and removed bindings at once, plain refreshes at most once per half lifetime.
    pub store: Vec<StoreRequest>,
}

/// The bindings of the users one shard owns.
#[derive(Debug)]
pub struct Registrar {
    policy: Policy,
    pub(super) users: HashMap<Identity, Bindings, RandomState>,
    /// The earliest deadline of each user.
    deadlines: BTreeSet<(Instant, Identity)>,
    /// Which users have a binding that hangs on which connection.
    connections: HashMap<ConnectionId, BTreeSet<Identity>, RandomState>,
    /// Bindings of all users.
    contacts: usize,
    /// Octets of their texts.
    octets: usize,
    /// What they share.
    common: Common,
    /// For answers.
    pub(super) date: PresentDate,
}

/// What a user with bindings costs in memory: the name, and its places in three tables.
const USER: usize = 384;

impl Registrar {
    /// Without users.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            users: HashMap::default(),
            deadlines: BTreeSet::new(),
            connections: HashMap::default(),
            contacts: 0,
            octets: 0,
            common: Common::default(),
            date: PresentDate::default(),
        }
    }

    /// Memory in use, about.
    pub fn footprint(&self) -> usize {
        self.users.len() * USER + self.octets + self.common.footprint()
    }

    /// What it grants.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// How many users have a binding.
    pub fn registered_users(&self) -> usize {
        self.users.len()
    }

    /// How many bindings there are.
    pub fn registered_contacts(&self) -> usize {
        self.contacts
    }

    /// How many connections have a binding that hangs on them.
    pub fn connections_in_use(&self) -> usize {
        self.connections.len()
    }

    /// Takes a binding back from the store at start; one whose time is over is dropped from it.
    pub fn restore(
        &mut self,
        user: &Identity,
        key: &str,
        value: &[u8],
        now: Now,
    ) -> Result<Option<StoreRequest>, DecodeError> {
        let Some(mut binding) = Binding::decode(value, self.policy.tagless, now)? else {
            return Ok(Some(remove(user, BindingKey::new(key))));
        };
        binding.share(&mut self.common);
        let bindings = self.users.entry(user.clone()).or_default();
        let old = bindings.next_deadline();
        let (before, octets) = (bindings.0.len(), bindings.footprint());
        bindings.0.retain(|other| other.key != binding.key);
        bindings.add(binding);
        self.contacts = self.contacts + bindings.0.len() - before;
        self.octets = self.octets + bindings.footprint() - octets;
        bindings
            .0
            .sort_by_key(|binding| binding.facts.registered_at);
        self.reschedule(user, old);
        Ok(None)
    }

    /// A TCP connection is lost: bindings that hang on it are suspended. Tells whose, and which.
    pub fn suspend(&mut self, connection: ConnectionId) -> Vec<(Identity, BindingKey)> {
        let mut suspended = Vec::new();
        for user in self.connections.remove(&connection).unwrap_or_default() {
            let Some(bindings) = self.users.get_mut(&user) else {
                continue;
            };
            for binding in &mut bindings.0 {
                let lost = binding.facts.flow.connection == Some(connection);
                if lost {
                    binding.facts.flow.connection = None;
                }
                if lost && binding.hangs_on_connection() {
                    binding.suspended = true;
                    suspended.push((user.clone(), binding.key.clone()));
                }
            }
        }
        suspended
    }

    /// Drops one binding, as when the device answered 404 or 410.
    pub fn forget(&mut self, user: &Identity, key: &BindingKey) -> Option<Registered> {
        let bindings = self.users.get_mut(user)?;
        let at = bindings.0.iter().position(|binding| binding.key == *key)?;
        let before = Before::of(bindings);
        let effect = Effect {
            gone: vec![bindings.0.remove(at).key],
            ..Effect::default()
        };
        Some(self.settle(user, before, effect))
    }

    /// When to call [`Registrar::handle_timeout`].
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Lets bindings expire, a bounded number at a time: call again while the deadline is due.
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<Registered> {
        let mut expired = Vec::new();
        while expired.len() < MOST_EXPIRED {
            let due = self
                .deadlines
                .first()
                .filter(|(deadline, _)| *deadline <= now);
            let Some((deadline, user)) = due.cloned() else {
                break;
            };
            let Some(bindings) = self.users.get_mut(&user) else {
                self.deadlines.remove(&(deadline, user));
                continue;
            };
            let before = Before::of(bindings);
            let effect = bindings.expire(now);
            expired.push(self.settle(&user, before, effect));
        }
        expired
    }

    pub(super) fn update(
        &mut self,
        user: &Identity,
        wanted: Vec<Granted>,
        around: &Circumstances<'_>,
    ) -> Result<Registered, Rejection> {
        let adds = wanted.iter().any(|granted| !granted.lifetime.is_zero());
        let known = self.users.contains_key(user);
        if adds && !known && self.users.len() >= self.policy.max_users {
            return Err(Rejection::new(503, "Too Many Registered Users"));
        }
        let most = self.policy.max_contacts;
        self.change(user, |bindings| bindings.update(wanted, most, around))
    }

    pub(super) fn remove_all(
        &mut self,
        user: &Identity,
        around: &Circumstances<'_>,
    ) -> Result<Registered, Rejection> {
        self.change(user, |bindings| bindings.clear(around))
    }

    fn change(
        &mut self,
        user: &Identity,
        change: impl FnOnce(&mut Bindings) -> Result<Effect, Rejection>,
    ) -> Result<Registered, Rejection> {
        let bindings = self.users.entry(user.clone()).or_default();
        let before = Before::of(bindings);
        let effect = change(bindings);
        if effect.is_ok() {
            for binding in &mut bindings.0 {
                binding.share(&mut self.common);
            }
        } else if bindings.0.is_empty() {
            self.users.remove(user);
        }
        Ok(self.settle(user, before, effect?))
    }

    /// Brings the tables in line with a user's bindings and says what has to be written.
    fn settle(&mut self, user: &Identity, before: Before, effect: Effect) -> Registered {
        let on_connections = |bindings: &Bindings| -> Vec<ConnectionId> {
            let flows = bindings.0.iter().map(Binding::flow);
            flows.filter_map(|flow: Flow| flow.connection).collect()
        };
        let contacts = self.users.get(user).map_or(0, |bindings| bindings.0.len());
        self.contacts = (self.contacts + contacts).saturating_sub(before.contacts);
        let octets = self.users.get(user).map_or(0, Bindings::footprint);
        self.octets = (self.octets + octets).saturating_sub(before.octets);
        let after = self.users.get(user).map(on_connections).unwrap_or_default();
        for connection in before.connections {
            if !after.contains(&connection) {
                self.leave(connection, user);
            }
        }
        for connection in after {
            let users = self.connections.entry(connection).or_default();
            users.insert(user.clone());
        }
        self.reschedule(user, before.deadline);
        let gone = effect.gone.iter().filter(|key| !effect.came.contains(key));
        let removed = gone.map(|key| remove(user, key.clone()));
        let put = effect.write.iter().filter_map(|key| {
            let value = self.binding(user, key)?.encode();
            Some(StoreRequest::PutBinding {
                user: user.clone(),
                key: key.as_str().into(),
                value,
            })
        });
        Registered {
            store: removed.chain(put).collect(),
            user: user.clone(),
            came: effect.came,
            refreshed: effect.refreshed,
            tag_set_changed: effect.tag_set_changed,
            left: effect.moved || !effect.gone.is_empty(),
            gone: effect.gone,
        }
    }

    fn leave(&mut self, connection: ConnectionId, user: &Identity) {
        if let Some(users) = self.connections.get_mut(&connection) {
            users.remove(user);
            if users.is_empty() {
                self.connections.remove(&connection);
            }
        }
    }

    fn reschedule(&mut self, user: &Identity, old: Option<Instant>) {
        let new = self.users.get(user).and_then(Bindings::next_deadline);
        if let Some(old) = old.filter(|_| old != new) {
            self.deadlines.remove(&(old, user.clone()));
        }
        match new {
            Some(new) => {
                self.deadlines.insert((new, user.clone()));
            }
            None => {
                self.users.remove(user);
            }
        }
    }
}

/// What the tables say of a user before a change.
struct Before {
    contacts: usize,
    octets: usize,
    deadline: Option<Instant>,
    connections: Vec<ConnectionId>,
}

impl Before {
    fn of(bindings: &Bindings) -> Self {
        let connections = bindings.0.iter().filter_map(|b| b.flow().connection);
        Self {
            contacts: bindings.0.len(),
            octets: bindings.footprint(),
            deadline: bindings.next_deadline(),
            connections: connections.collect(),
        }
    }
}

fn remove(user: &Identity, key: BindingKey) -> StoreRequest {
    StoreRequest::RemoveBinding {
        user: user.clone(),
        key: key.as_str().into(),
    }
}
