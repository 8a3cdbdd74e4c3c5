//! Who takes part in a world: the users, what they want, their devices, and what the operator has set.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use restante::clock::UnixMillis;
use restante::config::{
    Account, Authentication, Blocked, Config, CopyTo, Delivery, IncomingRule, Period, Secret,
    SenderRule, SettingsOverrides, Tagless, WhenFull,
};
use restante::limits::logins::{self, Logins};
use restante::registrar::Directory;
use restante::sip::digest::{Digest, DigestSettings};

use super::agent::{Agent, Dialect, uri_of};
use super::ledger::Wishes;

/// See the module's text.
pub struct Scene {
    pub config: Config,
    pub agents: Vec<Agent>,
    pub wishes: Vec<Wishes>,
    pub has_digest: bool,
}

impl Scene {
    /// One device a user, and nothing set.
    pub fn plain(rng: &mut StdRng, users: usize) -> Self {
        let agents = (0..users)
            .map(|index| Agent::new(index, rng.random_bool(0.3), rng.random_bool(0.7)))
            .collect();
        Self {
            config: Config::default(),
            agents,
            wishes: vec![Wishes::default(); users],
            has_digest: false,
        }
    }

    /// Several devices of all kinds a user, and users who want things.
    pub fn wild(rng: &mut StdRng, users: usize) -> Self {
        let mut config = Config::default();
        let has_digest = rng.random_bool(0.2);
        let tagless = rng.random_bool(0.2);
        if tagless {
            config.registrar.tagless = Tagless::Msrp;
        }
        config.deferral.lifetime = Period::seconds(1_200);
        config.deferral.max_lifetime = Period::seconds(1_500);
        config.deferral.receipt_window = Period::seconds(600);
        config.deferral.retry = vec![Period::seconds(10), Period::seconds(60)];
        if rng.random_bool(0.1) {
            config.limits.sessions = rng.random_range(4..12);
        }
        if rng.random_bool(0.1) {
            config.limits.receipts = rng.random_range(5..30);
        }
        let mut wishes = Vec::new();
        for user in 0..users {
            let (settings, wish) = wants(rng, user, users);
            config.account.push(Account {
                user: format!("user{user}"),
                password: Some(Secret::new(password(user))),
                ha1: None,
                password_file: None,
                tel: None,
                settings,
            });
            wishes.push(wish);
        }
        if has_digest {
            config.registrar.authentication = Authentication::Digest;
        }
        let mut agents = Vec::new();
        for user in 0..users {
            for _ in 0..rng.random_range(1..=3) {
                agents.push(device(rng, agents.len(), user, tagless));
                if has_digest {
                    let last = agents.last_mut().expect("just made");
                    last.password = Some(password(user));
                }
            }
        }
        Self {
            config,
            agents,
            wishes,
            has_digest,
        }
    }
}

/// What checks credentials in a server started at `wall`.
pub fn digest_of(config: &Config, directory: &Directory, wall: UnixMillis) -> Arc<Digest> {
    Arc::new(Digest::new(DigestSettings {
        realm: config.realm().to_owned(),
        key: [9; 32],
        lifetime: config.registrar.nonce_lifetime.duration(),
        algorithms: directory.algorithms(),
        hosts: vec!["127.0.0.1".to_owned(), config.domain.clone()],
        started_at: wall,
        logins: Arc::new(Logins::new(logins::Settings {
            failures: 5,
            failures_per_user: 100,
            lockout: Duration::from_secs(60),
            most: 1_000,
        })),
    }))
}

fn password(user: usize) -> String {
    format!("user{user}-secret")
}

fn wants(rng: &mut StdRng, user: usize, users: usize) -> (SettingsOverrides, Wishes) {
    let mut settings = SettingsOverrides::default();
    let mut wish = Wishes::default();
    if rng.random_bool(0.3) {
        settings.copy_to = Some(CopyTo::Every);
        wish.every = true;
    }
    if rng.random_bool(0.2) {
        settings.delivery = Some(Delivery::Pull);
        settings.announce_waiting = Some(rng.random_bool(0.5));
        wish.pull = true;
    }
    if rng.random_bool(0.25) {
        settings.max_messages = Some(rng.random_range(2..12));
        wish.short = true;
        if rng.random_bool(0.5) {
            settings.when_full = Some(WhenFull::DropOldest);
            wish.drops_oldest = true;
        }
    }
    if rng.random_bool(0.2) {
        let other = (user + rng.random_range(1..users)) % users;
        let action = match rng.random_range(0..4) {
            0 => IncomingRule::Unavailable,
            1 => IncomingRule::UnavailableNotify,
            _ => IncomingRule::Block,
        };
        settings.blocked = Some(match rng.random_bool(0.5) {
            true => Blocked::Silent,
            false => Blocked::Forbidden,
        });
        settings.rules = vec![SenderRule {
            from: uri_of(other),
            action,
        }];
        wish.keeps_away = BTreeSet::from([other]);
    }
    (settings, wish)
}

fn device(rng: &mut StdRng, index: usize, user: usize, tagless: bool) -> Agent {
    let takes_sessions = rng.random_bool(0.75);
    let mut agent = Agent::new(index, rng.random_bool(0.3), takes_sessions);
    agent.user = user;
    agent.name = format!("user{user}");
    agent.dialect = match rng.random_range(0..10) {
        _ if !takes_sessions => Dialect::Quiet,
        0..4 => Dialect::Rcs,
        4..7 => Dialect::RcsLarge,
        7..9 => Dialect::RcsE,
        _ if tagless => Dialect::Quiet,
        _ => Dialect::Rcs,
    };
    if rng.random_bool(0.7) {
        agent.instance = Some(format!("urn:uuid:00000000-0000-4000-8000-{index:012}"));
    }
    agent.tells = rng.random_bool(0.6);
    agent
}
