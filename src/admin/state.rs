//! What all handlers share: how far the server is, and the ways to its parts.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};

use super::account_book::AccountBook;
use super::problem::Problem;
use super::token::Token;
use crate::clock::{self, Now};
use crate::config::Config;
use crate::identity::{Identity, shard_of};
use crate::limits::memory::Ledger;
use crate::limits::meters::Meters;
use crate::metrics::Metrics;
use crate::participating::operator::{Answer, Question};
use crate::shard::operator_desk::Desk;
use crate::store::StoreWatch;

/// A shard that takes longer for an answer has a problem.
const ANSWER: Duration = Duration::from_secs(5);

/// How far the server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The store is being opened.
    Starting,
    /// It accepts traffic.
    Ready,
    /// It takes no new work.
    Draining,
}

/// What exists once the server accepts traffic.
pub struct Parts {
    /// Who may ask.
    pub token: Token,
    /// The way to the shards.
    pub desk: Arc<Desk>,
    /// The store from outside.
    pub store: StoreWatch,
    /// What the shards count.
    pub metrics: Arc<Metrics>,
    /// What memory they use.
    pub memory: Arc<Ledger>,
    /// The accounts.
    pub accounts: AccountBook,
    /// What limited users send.
    pub meters: Arc<Meters>,
    /// Begins the drain.
    pub drain: Box<dyn Fn() + Send + Sync>,
}

/// The state of the interface.
pub struct Admin {
    pub(super) config: Arc<Config>,
    pub(super) started: Now,
    pub(super) requests: AtomicU64,
    pub(super) refused_connections: AtomicU64,
    /// Who streams the whole store: one at a time.
    pub(super) streams: Arc<Semaphore>,
    phase: AtomicU8,
    parts: OnceLock<Parts>,
    /// Rings once the parts are there.
    pub(super) ready: Notify,
}

impl Admin {
    /// Of a server that is starting.
    pub fn new(config: Arc<Config>) -> Self {
        Self {
            config,
            started: clock::now(),
            requests: AtomicU64::new(0),
            refused_connections: AtomicU64::new(0),
            streams: Arc::new(Semaphore::new(1)),
            phase: AtomicU8::new(0),
            parts: OnceLock::new(),
            ready: Notify::new(),
        }
    }

    /// The server accepts traffic.
    pub fn set_ready(&self, parts: Parts) {
        if self.parts.set(parts).is_ok() {
            self.phase.store(1, Ordering::Release);
            self.ready.notify_one();
        }
    }

    /// The server takes no new work.
    pub fn set_draining(&self) {
        self.phase.store(2, Ordering::Release);
    }

    /// How far the server is.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Starting,
            1 => Phase::Ready,
            _ => Phase::Draining,
        }
    }

    /// The parts, once they are there.
    pub(super) fn parts(&self) -> Result<&Parts, Problem> {
        let starting = || {
            let detail = "the server is starting; ask /readyz";
            Problem::unavailable("starting", "The server is starting", detail)
        };
        self.parts.get().ok_or_else(starting)
    }

    /// The identity that a path names: `bob` or `bob@DOMAIN`.
    pub(super) fn identity(&self, user: &str) -> Result<Identity, Problem> {
        let domain = &self.config.domain;
        let user = match user.rsplit_once('@') {
            Some((user, host)) if host.eq_ignore_ascii_case(domain) => user,
            Some(_) => {
                return Err(Problem::not_found(format!(
                    "{user} is not a user of {domain}"
                )));
            }
            None => user,
        };
        match user {
            "" => Err(Problem::invalid("user", "the user part is empty")),
            user => Ok(Identity::new(user, domain)),
        }
    }

    /// A user that has an account, or is one because everybody is.
    pub(super) fn known(&self, user: &str) -> Result<Identity, Problem> {
        let identity = self.identity(user)?;
        let parts = self.parts()?;
        // What waits for a user whose account is gone can be seen, too.
        let waits = || parts.store.usage_of(&identity).messages > 0;
        match parts.accounts.knows(&identity) || waits() {
            true => Ok(identity),
            false => Err(Problem::not_found(format!("there is no user {identity}"))),
        }
    }

    /// Asks the shard that owns a user.
    pub(super) async fn ask_user(
        &self,
        user: &Identity,
        question: Question,
    ) -> Result<Answer, Problem> {
        let desk = &self.parts()?.desk;
        self.ask(shard_of(user, desk.shards()), question).await
    }

    /// Asks one shard.
    pub(super) async fn ask(&self, shard: u16, question: Question) -> Result<Answer, Problem> {
        Ok(self.parts()?.desk.ask(shard, question, ANSWER).await?)
    }

    /// Asks every shard the same; the answers are in order.
    pub(super) async fn ask_all(&self, question: &Question) -> Result<Vec<Answer>, Problem> {
        let desk = &self.parts()?.desk;
        let mut answers = Vec::with_capacity(usize::from(desk.shards()));
        for shard in 0..desk.shards() {
            answers.push(desk.ask(shard, question.clone(), ANSWER).await?);
        }
        Ok(answers)
    }
}
