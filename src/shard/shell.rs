//! The loop of a shard: take what happened, let the core decide, do what it wants.
//!
//! A turn takes a bounded batch from every source, so that a flood at one of them starves neither
//! the others nor the timers, and then performs everything the core asked for (`perform`). Messages
//! that came over TCP arrive through the inbox; only datagrams are read here, many at once.

use bytes::BytesMut;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, watch};

use super::alarm::Alarm;
use super::core_trait::ShardCore;
use super::deliver::Deliverer;
use super::inbox::{Inbox, Lanes};
use super::operator_desk::Desk;
use super::outbox::Outbox;
use super::port::Input;
use super::store_queue::{StoreGate, StoreQueue};
use super::taken::Taken;
use super::waiting_room::{BATCH, Next, WaitingRoom};
use crate::clock::{self, Instant, Now};
use crate::limits::load::Entry;
use crate::limits::memory::{Account, Held};
use crate::limits::source::Way;
use crate::limits::sources::{Judgement, Offence, Sources, Standing};
use crate::metrics::ShardMetrics;
use crate::msrp::listener::MsrpTransport;
use crate::net::sys::Datagram;
use crate::resolve::Resolver;
use crate::sip::transport::flow::{Flow, Transport};
use crate::sip::transport::refusal;
use crate::sip::transport::tcp::TcpTransport;
use crate::sip::transport::udp::UdpTransport;
use crate::sip::wire;

/// Messages waiting for other shards or the store, above which no work of peers is taken.
const PRESSURE: usize = 1024;
/// Octets waiting for the store, above which no more are taken from MSRP peers.
const OCTETS: usize = 2 * 1024 * 1024;
/// How soon requests that found no credit are offered to the store again.
const STORE_RETRY: Duration = Duration::from_millis(5);

/// Batches of datagrams that one listener gives in a turn: the kernel's buffer is emptied faster than
/// it fills, whatever is done about what was in it.
const RECEIVES: usize = 8;
/// How often memory and load are looked at.
const LOOK: Duration = Duration::from_millis(10);

/// One shard's part of the world.
pub struct Shell<C, G> {
    pub(super) shard: u16,
    pub(super) core: Rc<RefCell<C>>,
    pub(super) inbox: Inbox,
    pub(super) lanes: Arc<[Lanes]>,
    pub(super) outboxes: Vec<Outbox<Input>>,
    /// By listener; `None` where it is not UDP.
    pub(super) udp: Vec<Option<UdpTransport>>,
    pub(super) sip: TcpTransport<Deliverer<C>>,
    pub(super) msrp: MsrpTransport<Deliverer<C>>,
    pub(super) store: StoreQueue<G>,
    pub(super) resolver: Resolver,
    /// Where look-ups run.
    pub(super) helper: tokio::runtime::Handle,
    /// Look-ups this shard may have under way.
    pub(super) look_ups: Arc<Semaphore>,
    /// Outcomes known at once, to be taken like any other input.
    pub(super) local: VecDeque<Input>,
    /// Who hears the answers to the operator's questions.
    pub(super) operator: Arc<Desk>,
    /// Who waits for the end of the drain.
    pub(super) drained: mpsc::UnboundedSender<u16>,
    /// Becomes `true` when the shard has to end.
    pub(super) stop: watch::Receiver<bool>,
    pub(super) metrics: Arc<ShardMetrics>,
    /// How busy and how harmful each source is.
    pub(super) sources: Arc<Sources>,
    pub(super) alarm: Alarm,
    /// SIP of peers that waits for its turn.
    pub(super) waiting: WaitingRoom,
    /// Requests that were let in a moment ago.
    pub(super) taken: Taken,
    /// When the last turn began and how much it served, if this one follows right after it.
    pub(super) last_turn: Option<(Instant, u32)>,
    pub(super) memory: Account,
    /// What the shell itself holds.
    pub(super) held: Held,
    pub(super) held_for_store: Held,
    pub(super) held_for_taken: Held,
    pub(super) next_look: Instant,
    pub(super) datagrams: Vec<Datagram>,
    /// Where a refusal is written.
    pub(super) refusal: String,
    /// Where refusals wait for the kernel.
    pub(super) refusals: BytesMut,
    pub(super) inputs: Vec<Input>,
}

impl<C: ShardCore + 'static, G: StoreGate> Shell<C, G> {
    /// Runs until told to stop; what the core asked for until then has left, or is queued in a
    /// connection.
    pub async fn run(&mut self) {
        let mut stop = self.stop.clone();
        tokio::select! {
            () = self.turns() => {}
            // The sender is gone: so is the server.
            _ = stop.wait_for(|stop| *stop) => {}
        }
        poll_fn(|context| {
            self.flush(context);
            Poll::Ready(())
        })
        .await;
    }

    async fn turns(&mut self) {
        let mut busy = 0;
        loop {
            poll_fn(|context| self.poll_turn(context, &mut busy)).await;
            // Connections have their turn too.
            tokio::task::yield_now().await;
        }
    }

    /// Turns until one finds nothing to do; ready after a second busy one.
    fn poll_turn(&mut self, context: &mut Context<'_>, busy: &mut u32) -> Poll<()> {
        loop {
            if self.turn(context) {
                *busy += 1;
                if *busy >= 2 {
                    *busy = 0;
                    return Poll::Ready(());
                }
            } else {
                *busy = 0;
                return Poll::Pending;
            }
        }
    }

    /// One turn; `true` if there was anything to do.
    fn turn(&mut self, context: &mut Context<'_>) -> bool {
        self.metrics.turns.count();
        let now = clock::now();
        if let Some((began, count)) = self.last_turn.take() {
            let took = now.instant.since(began);
            self.core.borrow_mut().load().served(count, took);
        }
        let work = !self.is_pressed(self.store.len_of_small());
        let media = !self.is_pressed(self.store.len()) && self.store.octets() <= OCTETS;
        let mut busy = self.take_inputs(context, media, now);
        let mut served = 0;
        if work {
            busy |= self.take_in(context, now);
            served = self.serve(now);
            busy |= served > 0;
        }
        busy |= self.take_timeouts(now);
        self.perform(now);
        self.flush(context);
        self.look(now);
        busy |= self.local_waits() || self.alarm_rings(context, now);
        self.last_turn = (served > 0).then_some((now.instant, served));
        busy
    }

    fn local_waits(&self) -> bool {
        !self.local.is_empty()
    }

    /// Whether too much waits for others, so many of it for the store, to take more from peers.
    fn is_pressed(&self, for_store: usize) -> bool {
        let waiting: usize = self.outboxes.iter().map(Outbox::len).sum();
        waiting + for_store > PRESSURE
    }

    /// Takes what was asked for, what other shards say, and if `media` MSRP of peers.
    fn take_inputs(&mut self, context: &mut Context<'_>, media: bool, now: Now) -> bool {
        let mut inputs = std::mem::take(&mut self.inputs);
        let taken = self.inbox.poll_take(context, media, &mut inputs);
        for input in inputs.drain(..) {
            self.take(input, now);
        }
        self.inputs = inputs;
        taken.is_ready()
    }

    /// Gives an input to the core. What is remembered of a lost flow goes first.
    pub(super) fn take(&mut self, input: Input, now: Now) {
        match &input {
            Input::FlowLost { flow } if flow.transport == Transport::Tcp => self.sip.forget(flow),
            Input::MsrpLost { connection } => self.msrp.forget(*connection),
            _ => {}
        }
        self.core.borrow_mut().handle_input(input, now);
    }

    /// Lets SIP of peers into the waiting room; `true` if a socket may have more, and nobody is woken for it.
    fn take_in(&mut self, context: &mut Context<'_>, now: Now) -> bool {
        let mut inputs = std::mem::take(&mut self.inputs);
        let room = self.waiting.room_for_inputs();
        if self.inbox.poll_work(context, room, &mut inputs).is_ready() {
            for input in inputs.drain(..) {
                self.waiting.take_input(input, now.instant);
            }
        }
        self.inputs = inputs;
        let mut has_more = false;
        for listener in 0..self.udp.len() {
            has_more |= self.take_datagrams(listener, context, now);
        }
        has_more
    }

    /// Empties the socket of a listener; `true` if that was not seen to be empty, so that what comes next wakes
    /// nobody. All that was in it may have been dropped.
    fn take_datagrams(&mut self, listener: usize, context: &mut Context<'_>, now: Now) -> bool {
        let mut has_more = true;
        let mut datagrams = std::mem::take(&mut self.datagrams);
        for _ in 0..RECEIVES {
            let Some(Some(transport)) = self.udp.get_mut(listener) else {
                has_more = false;
                break;
            };
            let received = transport.poll_receive(context, &mut datagrams);
            for datagram in datagrams.drain(..) {
                match self.may_send(&datagram, now) {
                    Some(standing) => self.let_in(listener, datagram, standing, now),
                    None => self.drop_datagram(listener, datagram),
                }
            }
            if received.is_pending() {
                has_more = false;
                break;
            }
        }
        self.datagrams = datagrams;
        has_more
    }

    /// What is known of its source, if that may send more.
    fn may_send(&self, datagram: &Datagram, now: Now) -> Option<Standing> {
        let source = datagram.remote.ip();
        match (self.sources).message(source, Way::Datagrams, now.instant) {
            Judgement::Pass(standing) => return Some(standing),
            Judgement::Wait(_) => self.metrics.dropped_rate.count(),
            Judgement::Banned => self.metrics.dropped_banned.count(),
        }
        None
    }

    /// Serves a batch of what waits; how many that were.
    fn serve(&mut self, now: Now) -> u32 {
        let mut served = 0;
        for turn in 0..BATCH {
            let Some((since, next)) = self.waiting.pop(turn) else {
                break;
            };
            served += 1;
            let delay = now.instant.since(since);
            self.core.borrow_mut().load().waited(delay, next.entry());
            match next {
                Next::Input(input) => self.take(input, now),
                Next::Datagram(listener, datagram, entry) => {
                    self.take_datagram(listener, datagram, entry, now);
                }
            }
        }
        let mut core = self.core.borrow_mut();
        match self.waiting.is_empty() {
            true => core.load().caught_up(now.instant),
            false => core.load().is_behind(now.instant),
        }
        served
    }

    /// Looks at what memory is in use, a hundred times a second.
    fn look(&mut self, now: Now) {
        if now.instant < self.next_look {
            return;
        }
        self.next_look = now.instant + LOOK;
        self.waiting.shrink();
        self.taken.forget(now.instant);
        let waiting = self.waiting.footprint() + self.inbox.footprint();
        self.held.set(waiting);
        self.held_for_taken.set(self.taken.footprint());
        self.held_for_store.set(self.store.footprint());
        self.metrics.waiting.set(self.waiting.len() as u64);
        let mut core = self.core.borrow_mut();
        core.account();
        let room = self.memory.ledger().look();
        let load = core.load();
        load.set_room(room);
        load.sample(self.waiting.is_empty(), now.instant);
        let delay = load.delay().as_micros();
        self.metrics
            .queue_delay
            .set(u64::try_from(delay).unwrap_or(u64::MAX));
    }

    /// Parses a datagram and hands it to its shard; without room there it is dropped, and the sender
    /// repeats it.
    fn take_datagram(&mut self, listener: usize, datagram: Datagram, entry: Entry, now: Now) {
        let flow = Flow {
            transport: Transport::Udp,
            listener: u16::try_from(listener).unwrap_or(u16::MAX),
            remote: datagram.remote,
            connection: None,
        };
        let came = datagram.octets.len();
        let message = match wire::parse(datagram.octets.freeze()) {
            Ok(message) => message,
            Err(error) => return self.refuse(listener, flow, &error, came, now),
        };
        let owner = self.core.borrow().owner_of(&message);
        let is_again = entry == Entry::Again;
        let input = Input::Sip {
            flow,
            message,
            is_again,
        };
        match self.lanes.get(usize::from(owner)) {
            Some(lanes) if owner != self.shard => {
                self.metrics.sip_handed_over.count();
                if lanes.work.try_send(input).is_err() {
                    self.metrics.udp_handover_full.count();
                }
            }
            _ => self.core.borrow_mut().handle_input(input, now),
        }
    }

    fn refuse(
        &mut self,
        listener: usize,
        flow: Flow,
        error: &wire::WireError,
        came: usize,
        now: Now,
    ) {
        self.metrics.sip_malformed.count();
        tracing::debug!(remote = %flow.remote, %error, "malformed datagram");
        let (source, now) = (flow.remote.ip(), now.instant);
        let offence = Offence::Malformed;
        if let Some(ban) = (self.sources).offend(source, Way::Datagrams, offence, now) {
            self.metrics.bans.count();
            ban.tell(now);
        }
        if let Some(Some(transport)) = self.udp.get_mut(listener)
            && let Some(answer) = refusal::answer_datagram(error, flow.remote, came)
            && self.sources.may_answer(source, now)
        {
            transport.send(refusal::return_address(error, flow.remote), answer);
        }
    }

    fn take_timeouts(&mut self, now: Now) -> bool {
        let mut core = self.core.borrow_mut();
        let due = core
            .next_deadline()
            .is_some_and(|deadline| deadline <= now.instant);
        if due {
            core.handle_timeout(now);
        }
        due
    }

    /// Hands over what waits for sockets, other shards and the store.
    fn flush(&mut self, context: &mut Context<'_>) {
        for transport in self.udp.iter_mut().flatten() {
            let _ = transport.poll_flush(context);
        }
        for outbox in &mut self.outboxes {
            let _ = outbox.poll_flush(context);
        }
        self.store.flush();
    }

    fn alarm_rings(&mut self, context: &mut Context<'_>, now: Now) -> bool {
        let mut deadline = self.core.borrow().next_deadline();
        if !self.store.is_empty() {
            let retry = now.instant + STORE_RETRY;
            deadline = Some(deadline.map_or(retry, |deadline| deadline.min(retry)));
        }
        self.alarm.poll(context, deadline, now.instant).is_ready()
    }
}
