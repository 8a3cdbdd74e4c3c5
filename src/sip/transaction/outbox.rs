//! Where both halves of the table put what they want done: timers and events.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::ops::Bound::Included;
use std::time::Duration;

use bytes::Bytes;

use super::slab::SlotId;
use super::table::TransactionEvent;
use super::timer::{Timer, TimerConfig, Timers};
use crate::clock::{Instant, Now};
use crate::sip::transport::flow::{ConnectionId, Flow, Transport};

/// What became of a timer that was to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Started {
    /// It will come up, or does not exist on this transport.
    Waits,
    /// Its length is zero: it fires when the other actions are done.
    FiresAtOnce,
}

/// Deadlines and events that wait for the shell.
#[derive(Debug)]
pub(super) struct Pending {
    config: TimerConfig,
    pub timers: Timers<SlotId>,
    pub events: VecDeque<TransactionEvent>,
}

impl Pending {
    pub fn new(config: TimerConfig) -> Self {
        Self {
            config,
            timers: Timers::new(),
            events: VecDeque::new(),
        }
    }

    pub fn outbox(&mut self, now: Now) -> Outbox<'_> {
        Outbox {
            config: self.config,
            timers: &mut self.timers,
            events: &mut self.events,
            now: now.instant,
        }
    }
}

/// Borrowed from the table for one call.
#[derive(Debug)]
pub(super) struct Outbox<'a> {
    pub config: TimerConfig,
    pub timers: &'a mut Timers<SlotId>,
    pub events: &'a mut VecDeque<TransactionEvent>,
    pub now: Instant,
}

impl Outbox<'_> {
    pub fn transmit(&mut self, flow: Flow, octets: Bytes) {
        self.events
            .push_back(TransactionEvent::Transmit { flow, octets });
    }

    /// Starts `timer`; `interval` is the last retransmission interval and becomes the next.
    pub fn start(
        &mut self,
        owner: SlotId,
        timer: Timer,
        interval: &mut Duration,
        reliable: bool,
    ) -> Started {
        let Some(duration) = self.config.duration(timer, *interval, reliable) else {
            return Started::Waits;
        };
        if duration.is_zero() {
            return Started::FiresAtOnce;
        }
        if timer.retransmits() {
            *interval = duration;
        }
        self.timers.start(owner, timer, duration, self.now);
        Started::Waits
    }
}

/// How a flow is found when it is lost: by its connection, or by the address to connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum FlowKey {
    Connection(ConnectionId),
    Address(SocketAddr, u16),
}

/// Which transactions use which connection. Datagram flows are not held: losing one is no event.
#[derive(Debug, Default)]
pub(super) struct FlowIndex(BTreeSet<(FlowKey, SlotId)>);

impl FlowIndex {
    pub fn insert(&mut self, flow: Flow, id: SlotId) {
        if let Some(key) = flow_key(flow) {
            self.0.insert((key, id));
        }
    }

    pub fn remove(&mut self, flow: Flow, id: SlotId) {
        if let Some(key) = flow_key(flow) {
            self.0.remove(&(key, id));
        }
    }

    /// The transactions on `flow`, oldest first.
    pub fn on(&self, flow: Flow) -> Vec<SlotId> {
        let Some(key) = flow_key(flow) else {
            return Vec::new();
        };
        let range = (Included((key, SlotId::MIN)), Included((key, SlotId::MAX)));
        self.0.range(range).map(|(_, id)| *id).collect()
    }
}

fn flow_key(flow: Flow) -> Option<FlowKey> {
    match (flow.transport, flow.connection) {
        (Transport::Udp, _) => None,
        (Transport::Tcp, Some(connection)) => Some(FlowKey::Connection(connection)),
        (Transport::Tcp, None) => Some(FlowKey::Address(flow.remote, flow.listener)),
    }
}
