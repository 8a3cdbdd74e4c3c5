//! The registrar of one shard: its users' bindings, their deadlines and the connections they hang on.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use foldhash::fast::RandomState;

use crate::clock::{Instant, Now};
use crate::config::{Config, Tagless};
use crate::date::PresentDate;
use crate::identity::Identity;
use crate::registrar::binding::{Binding, BindingKey, Circumstances};
use crate::registrar::bindings::{Bindings, Effect, Wanted};
use crate::registrar::common::Common;
use crate::registrar::record::DecodeError;
use crate::sip::rejection::Rejection;
use crate::sip::transport::flow::{ConnectionId, Flow};
use crate::store::request::StoreRequest;

/// Users whose bindings one call of [`Registrar::handle_timeout`] looks at.
const MOST_DUE: usize = 256;

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
    /// Each user by a deadline no later than his earliest one: who registers again stays where he is filed until that
    /// comes up.
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
        let (before, octets) = (bindings.all.len(), bindings.footprint());
        bindings.all.retain(|other| other.key != binding.key);
        bindings.add(binding);
        self.contacts = self.contacts + bindings.all.len() - before;
        self.octets = self.octets + bindings.footprint() - octets;
        bindings
            .all
            .sort_by_key(|binding| binding.facts.registered_at);
        self.reschedule(user);
        Ok(None)
    }

    /// A TCP connection is lost: bindings that hang on it are suspended. Tells whose, and which.
    pub fn suspend(&mut self, connection: ConnectionId) -> Vec<(Identity, BindingKey)> {
        let mut suspended = Vec::new();
        for user in self.connections.remove(&connection).unwrap_or_default() {
            let Some(bindings) = self.users.get_mut(&user) else {
                continue;
            };
            for binding in &mut bindings.all {
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
        let at = bindings
            .all
            .iter()
            .position(|binding| binding.key == *key)?;
        let before = Before::of(bindings);
        let effect = Effect {
            gone: vec![bindings.all.remove(at).key],
            ..Effect::default()
        };
        Some(self.settle(user, before, effect))
    }

    /// When to call [`Registrar::handle_timeout`]; nothing ends before.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Lets bindings expire, a bounded number at a time: call again while the deadline is due.
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<Registered> {
        let mut expired = Vec::new();
        for _ in 0..MOST_DUE {
            if self.next_deadline().is_none_or(|due| due > now) {
                break;
            }
            let Some((_, user)) = self.deadlines.pop_first() else {
                break;
            };
            let Some(bindings) = self.users.get_mut(&user) else {
                continue;
            };
            bindings.filed = Instant::default();
            if bindings.next_deadline().is_some_and(|due| due > now) {
                self.reschedule(&user);
                continue;
            }
            let before = Before::of(bindings);
            let effect = bindings.expire(now);
            expired.push(self.settle(&user, before, effect));
        }
        expired
    }

    pub(super) fn update(
        &mut self,
        user: &Identity,
        wanted: Wanted<'_>,
        around: &Circumstances<'_>,
    ) -> Result<Registered, Rejection> {
        let most = self.policy.max_contacts;
        let bindings = self.users.get_mut(user);
        if let Some(key) = bindings.and_then(|it| it.renew(&wanted, most, around)) {
            return Ok(self.renewed(user, key));
        }
        let adds = wanted.iter().any(|granted| !granted.lifetime.is_zero());
        let known = self.users.contains_key(user);
        if adds && !known && self.users.len() >= self.policy.max_users {
            return Err(Rejection::new(503, "Too Many Registered Users"));
        }
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
            for binding in &mut bindings.all {
                binding.share(&mut self.common);
            }
        } else if bindings.all.is_empty() {
            self.users.remove(user);
        }
        Ok(self.settle(user, before, effect?))
    }

    /// What the tables say of a user whose binding only lasts longer is right as it is.
    fn renewed(&mut self, user: &Identity, key: BindingKey) -> Registered {
        self.reschedule(user);
        Registered {
            user: user.clone(),
            came: Vec::new(),
            refreshed: vec![key],
            tag_set_changed: Vec::new(),
            gone: Vec::new(),
            left: false,
            store: Vec::new(),
        }
    }

    /// Brings the tables in line with a user's bindings and says what has to be written.
    fn settle(&mut self, user: &Identity, before: Before, effect: Effect) -> Registered {
        let on_connections = |bindings: &Bindings| -> Vec<ConnectionId> {
            let flows = bindings.all.iter().map(Binding::flow);
            flows.filter_map(|flow: Flow| flow.connection).collect()
        };
        let contacts = self
            .users
            .get(user)
            .map_or(0, |bindings| bindings.all.len());
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
        self.reschedule(user);
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

    /// Files the user under his earliest deadline, unless he is filed under one before that.
    fn reschedule(&mut self, user: &Identity) {
        let Some(bindings) = self.users.get_mut(user) else {
            return;
        };
        let (filed, due) = (bindings.filed, bindings.next_deadline());
        let is_filed = filed != Instant::default();
        if is_filed && due.is_some_and(|due| filed <= due) {
            return;
        }
        if is_filed {
            self.deadlines.remove(&(filed, user.clone()));
        }
        match due {
            Some(due) => {
                bindings.filed = due;
                self.deadlines.insert((due, user.clone()));
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
    connections: Vec<ConnectionId>,
}

impl Before {
    fn of(bindings: &Bindings) -> Self {
        let connections = bindings.all.iter().filter_map(|b| b.flow().connection);
        Self {
            contacts: bindings.all.len(),
            octets: bindings.footprint(),
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
