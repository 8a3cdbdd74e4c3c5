//! Host names looked up off the shards: bounded in number and time, remembered for a while.
//!
//! The system's resolver tells no lifetime, so answers are kept for a fixed time; failures for a
//! shorter one. Simultaneous questions for one name are one look-up.
//!
//! In a static binary the system's resolver is what glibc has inside: `/etc/hosts` and DNS, and no other
//! module of `nsswitch.conf`. `deploy/test.sh` finds its server by name with that.

use foldhash::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{OnceCell, Semaphore};

use crate::clock::{Instant, now};

/// Bounds of the resolver.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Look-ups under way at once.
    pub parallel: usize,
    /// Names remembered.
    pub names: usize,
    /// How long addresses are remembered.
    pub lifetime: Duration,
    /// How long a failure is remembered.
    pub failure_lifetime: Duration,
    /// When a look-up counts as failed.
    pub timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            parallel: 16,
            names: 4096,
            lifetime: Duration::from_secs(60),
            failure_lifetime: Duration::from_secs(5),
            timeout: Duration::from_secs(5),
        }
    }
}

/// Looks host names up; cheap to clone, shared by all shards.
#[derive(Clone, Debug)]
pub struct Resolver {
    settings: Settings,
    room: Arc<Semaphore>,
    cache: Arc<Mutex<Cache>>,
}

type Answer = Arc<OnceCell<Vec<IpAddr>>>;

#[derive(Debug, Default)]
struct Cache {
    names: HashMap<String, Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    answer: Answer,
    asked: Instant,
}

impl Resolver {
    /// With nothing remembered.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            room: Arc::new(Semaphore::new(settings.parallel)),
            cache: Arc::default(),
        }
    }

    /// The addresses of `host`, best first, each with `port`; empty if it has none or the look-up
    /// failed. A numeric address, with or without brackets, is answered at once.
    pub async fn look_up(&self, host: &str, port: u16) -> Vec<SocketAddr> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = bare.parse::<IpAddr>() {
            return vec![SocketAddr::new(address, port)];
        }
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        let answer = self.remembered(&name, now().instant);
        let addresses = answer.get_or_init(|| self.ask(&name)).await;
        let addresses = addresses.iter();
        addresses.map(|ip| SocketAddr::new(*ip, port)).collect()
    }

    async fn ask(&self, name: &str) -> Vec<IpAddr> {
        let asking = async {
            let _place = self.room.acquire().await.ok()?;
            let found = tokio::net::lookup_host((name, 0)).await;
            let found = found.map_err(|error| tracing::debug!(name, %error, "no address"));
            Some(found.ok()?.map(|address| address.ip()).collect())
        };
        let asked = tokio::time::timeout(self.settings.timeout, asking).await;
        asked.ok().flatten().unwrap_or_default()
    }

    fn remembered(&self, name: &str, now: Instant) -> Answer {
        let mut cache = self
            .cache
            .lock()
            .expect("no code that holds this lock panics");
        cache.answer(name, now, &self.settings)
    }
}

impl Cache {
    /// The fresh answer for `name`, which may still be asked for, or a new one to fill in.
    fn answer(&mut self, name: &str, now: Instant, settings: &Settings) -> Answer {
        if let Some(entry) = self.names.get(name)
            && entry.is_fresh(now, settings)
        {
            return Arc::clone(&entry.answer);
        }
        if self.names.len() >= settings.names {
            self.names.retain(|_, entry| entry.is_fresh(now, settings));
        }
        let answer = Answer::default();
        if self.names.len() < settings.names {
            let entry = Entry {
                answer: Arc::clone(&answer),
                asked: now,
            };
            self.names.insert(name.to_owned(), entry);
        }
        answer
    }
}

impl Entry {
    fn is_fresh(&self, now: Instant, settings: &Settings) -> bool {
        let lifetime = match self.answer.get() {
            Some(addresses) if addresses.is_empty() => settings.failure_lifetime,
            _ => settings.lifetime,
        };
        now.since(self.asked) < lifetime
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn numeric_addresses_need_no_look_up() {
        let resolver = Resolver::new(Settings {
            parallel: 0,
            ..Settings::default()
        });
        let found = resolver.look_up("192.0.2.1", 5060).await;
        assert_eq!(found, ["192.0.2.1:5060".parse().expect("an address")]);
        let found = resolver.look_up("[2001:db8::1]", 5060).await;
        assert_eq!(found, ["[2001:db8::1]:5060".parse().expect("an address")]);
    }

    #[tokio::test]
    async fn localhost_is_found_and_remembered() {
        let resolver = Resolver::new(Settings::default());
        let found = resolver.look_up("LocalHost.", 7).await;
        assert!(
            found
                .iter()
                .all(|address| address.ip().is_loopback() && address.port() == 7)
        );
        assert!(!found.is_empty());
        assert!(
            resolver
                .remembered("localhost", now().instant)
                .initialized()
        );
    }

    #[tokio::test]
    async fn without_room_a_look_up_fails_in_time() {
        let resolver = Resolver::new(Settings {
            parallel: 0,
            timeout: Duration::from_millis(10),
            ..Settings::default()
        });
        assert!(resolver.look_up("localhost", 7).await.is_empty());
    }

    #[test]
    fn answers_age_failures_sooner_and_the_number_of_names_is_bounded() {
        let settings = Settings {
            names: 2,
            ..Settings::default()
        };
        let mut cache = Cache::default();
        let start = Instant::default();
        let good = cache.answer("good.test", start, &settings);
        let bad = cache.answer("bad.test", start, &settings);
        good.set(vec![IpAddr::from([192, 0, 2, 1])]).expect("first");
        bad.set(Vec::new()).expect("first");
        cache.answer("third.test", start, &settings);
        assert!(!cache.names.contains_key("third.test"), "there is no room");
        let later = start + Duration::from_secs(6);
        cache.answer("third.test", later, &settings);
        assert!(
            cache.names.contains_key("third.test"),
            "the failure made room"
        );
        assert!(cache.answer("good.test", later, &settings).initialized());
        let late = start + Duration::from_secs(61);
        assert!(!cache.answer("good.test", late, &settings).initialized());
    }
}
