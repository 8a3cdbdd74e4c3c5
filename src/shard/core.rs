//! The pure core of a shard: it takes what happened and says what is to be done. All decisions are
//! made by the [`Router`] and the [`Service`] it holds.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use crate::clock::{Instant, Now, UnixMillis};
use crate::config::{Config, EnvelopeFrom, MsrpOffer, TrafficOverrides};
use crate::limits::load::Load;
use crate::participating::arrival::Lifetimes;
use crate::participating::census::Census;
use crate::participating::custody::Custody;
use crate::participating::media::{AttemptId, Media, MediaAction, MediaListener, MediaSettings};
use crate::participating::operator::Question;
use crate::participating::served_user::{ReplayPolicy, RetrySchedule};
use crate::participating::service::{Parts, Service, Settings};
use crate::registrar::{Policy, Registrar};
use crate::router::Router;
use crate::server::CoreContext;
use crate::shard::core_trait::ShardCore;
use crate::shard::port::{Action, Attempt, Input};
use crate::sip::endpoint::{Endpoint, Listener};
use crate::sip::message::Message;
use crate::sip::session_timer;
use crate::sip::transaction::{TimerConfig, TransactionTable};
use crate::store::request::Seq;
use crate::token::Tokens;

/// Attempts from here on are look-ups of next hops, those below belong to MSRP.
const HOP: u64 = 1 << 63;

/// See the module's text.
pub struct Core {
    router: Router,
    service: Service,
    actions: VecDeque<Action>,
    drained: bool,
    /// The time of the event being handled.
    now: Now,
}

impl Core {
    /// The core of one shard, with what its users had before a restart.
    pub fn new(context: CoreContext, tokens: Tokens, now: Now) -> Self {
        let config = &context.config;
        let mut registrar = Registrar::new(Policy::new(config, usize::from(context.shards)));
        let mut outdated = Vec::new();
        for binding in &context.bindings {
            match registrar.restore(&binding.user, &binding.key, &binding.value, now) {
                Ok(outcome) => outdated.extend(outcome),
                Err(error) => tracing::error!(user = %binding.user, %error, "a binding was lost"),
            }
        }
        let parts = Parts {
            settings: settings(&context),
            metrics: Arc::clone(&context.metrics),
            sources: Arc::clone(&context.knowledge.sources),
            memory: context.memory.clone(),
            sip: endpoint(&context),
            media: media(&context),
            registrar,
            directory: Arc::clone(&context.knowledge.directory),
            custody: custody(&context, now.wall),
            traffic: TrafficOverrides::of(&context.documents).over(&config.traffic),
            meters: Arc::clone(&context.knowledge.meters),
            waiting: context.waiting.clone(),
            recent: context
                .duplicate_keys
                .iter()
                .map(|key| (key.key, Seq(0)))
                .collect(),
            tokens,
        };
        let mut service = Service::new(parts, now);
        for request in outdated {
            service.tell_store(request);
        }
        service.resume(now);
        let mut core = Self {
            router: Router::new(context.knowledge.clone()),
            service,
            actions: VecDeque::new(),
            drained: false,
            now,
        };
        core.collect();
        core
    }

    /// Counts what is under way.
    #[must_use]
    pub fn census(&self) -> Census {
        self.service.census()
    }

    /// Moves everything the service wants done into the queue.
    fn collect(&mut self) {
        let now = self.now;
        loop {
            self.service.run_media(now);
            let before = self.actions.len();
            // First to the other shards: what one of them must know of a message before its recipient
            // can answer it.
            while let Some((shard, message)) = self.service.poll_forward(now) {
                self.actions.push_back(Action::Forward { shard, message });
            }
            while let Some((flow, octets)) = self.service.poll_transmit(now) {
                self.service.metrics.count_response(&octets);
                self.actions.push_back(Action::SendSip { flow, octets });
            }
            while let Some((number, host, port)) = self.service.poll_question() {
                let attempt = Attempt(HOP + number);
                self.actions.push_back(Action::Resolve {
                    attempt,
                    host,
                    port,
                });
            }
            while let Some(action) = self.service.poll_media() {
                self.actions.push_back(media_action(action));
            }
            while let Some((ticket, answer)) = self.service.poll_answer() {
                self.actions.push_back(Action::Answer { ticket, answer });
            }
            while let Some(request) = self.service.poll_store() {
                self.actions.push_back(Action::Store(request));
            }
            if self.actions.len() == before {
                break;
            }
        }
        if !self.drained && self.service.is_drained() {
            self.drained = true;
            self.service.take_nothing_more();
            self.actions.push_back(Action::Drained);
        }
    }
}

impl ShardCore for Core {
    fn handle_input(&mut self, input: Input, now: Now) {
        self.now = now;
        let service = &mut self.service;
        match input {
            Input::Sip { flow, message, .. } => self.router.handle(service, message, flow, now),
            Input::FlowLost { flow } => service.handle_flow_lost(flow, now),
            Input::Msrp { connection, events } => {
                for event in events {
                    service.media.handle_frame(connection, event);
                }
            }
            Input::MsrpSecured {
                connection,
                certificate,
            } => service.media.handle_secured(connection, certificate),
            Input::MsrpConnected {
                attempt,
                connection,
            } => service.media_connected(AttemptId(attempt.0), connection),
            Input::MsrpUnreachable { attempt } => {
                service.media.handle_unreachable(AttemptId(attempt.0))
            }
            Input::MsrpLost { connection } => service.media.handle_lost(connection),
            Input::MsrpWritten { connection, octets } => {
                service.media_written(connection, octets, now)
            }
            Input::Store(event) => service.handle_store(event, now),
            Input::Resolved { attempt, addresses } => match attempt.0.checked_sub(HOP) {
                Some(number) => service.handle_resolved(number, &addresses, now),
                None => service
                    .media
                    .handle_resolved(AttemptId(attempt.0), &addresses),
            },
            Input::Internal(message) => service.handle_internal(*message, now),
            Input::Operator { ticket, question } => {
                if let Question::Directory(directory) = &*question {
                    self.router.set_directory(Arc::clone(directory));
                }
                service.handle_question(ticket, *question, now);
            }
            Input::Drain => service.drain(now),
        }
        self.collect();
    }

    fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.service.next_deadline()
    }

    fn handle_timeout(&mut self, now: Now) {
        self.now = now;
        self.service.handle_timeout(now);
        self.collect();
    }

    fn load(&mut self) -> &mut Load {
        &mut self.service.load
    }

    fn is_answer(&self, credentials: &str, address: IpAddr, now: Now) -> bool {
        (self.router.knowledge()).is_answer(credentials, address, now.wall)
    }

    fn account(&mut self) {
        self.service.account();
    }

    fn owner_of(&self, message: &Message) -> u16 {
        self.router.knowledge().owner_of(message)
    }
}

fn media_action(action: MediaAction) -> Action {
    match action {
        MediaAction::Send(connection, octets) => Action::SendMsrp { connection, octets },
        MediaAction::Connect(attempt, remote, secure) => Action::ConnectMsrp {
            attempt: Attempt(attempt.0),
            remote,
            secure,
        },
        MediaAction::Resolve(attempt, host, port) => Action::Resolve {
            attempt: Attempt(attempt.0),
            host,
            port,
        },
        MediaAction::Close(connection) => Action::CloseMsrp { connection },
        MediaAction::End(connection) => Action::EndMsrp { connection },
        MediaAction::Stray(connection) => Action::StrayMsrp { connection },
    }
}

fn settings(context: &CoreContext) -> Settings {
    let config: &Config = &context.config;
    let deferral = &config.deferral;
    let retry: Vec<_> = deferral.retry.iter().map(|wait| wait.duration()).collect();
    Settings {
        shard: context.shard,
        shards: context.shards,
        domain: config.domain.to_ascii_lowercase(),
        deferral: deferral.enabled,
        lifetimes: Lifetimes {
            default: deferral.lifetime.duration(),
            maximum: deferral.max_lifetime.duration(),
            receipts: deferral.receipt_window.duration(),
        },
        replays: ReplayPolicy {
            retry: RetrySchedule::new(&retry),
            per_device: usize::from(deferral.replays_per_device),
            per_user: usize::from(deferral.replays_per_user),
        },
        answer_within: deferral.answer_within.duration(),
        ring: deferral.ring_timeout.duration(),
        custody_after: deferral.custody_after.duration(),
        idle: config.msrp.idle_timeout.duration(),
        timer: session_timer::Policy {
            expires: config.sip.session_expires.duration(),
            min_se: config.sip.min_se.duration(),
        },
        t1: config.sip.t1.duration(),
        largest_message: config.sip.max_message_size.get(),
        switch_over: config.deferral.switchover_size.get(),
        most_under_way: config.limits.sessions as usize,
        most_receipts: config.limits.receipts as usize,
        spools: config
            .limits
            .spools
            .get()
            .min(config.limits.memory.get() / 4),
        queue_delay: config.limits.queue_delay.duration(),
        checks_names: config.registrar.envelope_from == EnvelopeFrom::Own,
        replays_at_once: deferral.replays_at_once as usize,
        replays_per_second: deferral.replays_per_second,
    }
}

fn endpoint(context: &CoreContext) -> Endpoint<crate::participating::service::Usage> {
    let sip = &context.config.sip;
    let listeners = context.addresses.sip.iter().enumerate();
    let listeners = listeners.map(|(index, (transport, bound))| Listener {
        transport: *transport,
        bound: *bound,
        advertise: context.addresses.advertised_sip(&context.config, index),
    });
    let timers = TimerConfig {
        t1: sip.t1.duration(),
        t2: sip.t2.duration(),
        t4: sip.t4.duration(),
    };
    let table = TransactionTable::new(timers, sip.max_transactions as usize, context.shard);
    Endpoint::new(context.shard, listeners.collect(), table)
}

fn media(context: &CoreContext) -> Media {
    let config = &context.config;
    let settings = MediaSettings {
        chunk: config.msrp.chunk_size.as_usize(),
        message: config.msrp.max_message_size.get(),
        sessions: config.limits.sessions as usize,
        bind_within: config.msrp.binding_timeout.duration(),
        fingerprint: context.addresses.fingerprint.as_deref().map(Arc::from),
        offers_tls: config.msrp.offer == MsrpOffer::Tls,
        cema: config.msrp.cema,
    };
    let listeners = context.addresses.msrp.iter().enumerate();
    let listeners = listeners.map(|(index, bound)| {
        let (host, port) = context.addresses.advertised_msrp(config, index);
        MediaListener {
            bound: *bound,
            host,
            port,
            secure: config.msrp.is_secure(index),
        }
    });
    Media::new(context.shard, settings, listeners.collect())
}

/// Spools are numbered from the time of the start, so that a number is not used again after a restart.
fn custody(
    context: &CoreContext,
    started: UnixMillis,
) -> Custody<crate::participating::service::Waiter> {
    let store = &context.config.store;
    let first_spool = (started.0 << 6) & 0xffff_ffff_ffff;
    Custody::new(
        context.shard,
        store.credits as usize,
        store.timeout.duration(),
        first_spool,
    )
}
