//! A shard's thread: built from parts that can travel, run until told to stop.

use bytes::BytesMut;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::LocalSet;

use super::alarm::Alarm;
use super::core_trait::ShardCore;
use super::deliver::Deliverer;
use super::door;
use super::inbox::{Inbox, Lanes};
use super::operator_desk::Desk;
use super::outbox::Outbox;
use super::shell::Shell;
use super::store_queue::{StoreGate, StoreQueue};
use super::taken::Taken;
use super::waiting_room::WaitingRoom;
use crate::clock::Instant;
use crate::limits::memory::{Account, Kind};
use crate::metrics::ShardMetrics;
use crate::msrp::listener::{self as msrp, MsrpTransport};
use crate::net::accept::Gate;
use crate::net::buffers::ReadBuffers;
use crate::net::registry::Registry;
use crate::net::tls::Tls;
use crate::resolve::Resolver;
use crate::sip::transport::tcp::{self, Remote, TcpTransport};
use crate::sip::transport::udp::UdpTransport;

/// Look-ups one shard may have under way.
const LOOK_UPS: usize = 1024;
/// How long the connections may take to write what is queued when the shard ends.
const FAREWELL: Duration = Duration::from_millis(500);

/// A listener's socket for one shard.
#[derive(Debug)]
pub enum SipSocket {
    /// Datagrams.
    Udp(UdpSocket),
    /// Connections, and the address to open connections from.
    Tcp(TcpListener, Option<IpAddr>),
}

/// What all shards share.
#[derive(Clone, Debug)]
pub struct Common {
    /// Every shard's inbox.
    pub lanes: Arc<[Lanes]>,
    /// The SIP connections of all shards.
    pub sip: Arc<Registry<Remote>>,
    /// The MSRP connections of all shards.
    pub msrp: Arc<Registry<msrp::Key>>,
    /// Our certificate for MSRP over TLS.
    pub tls: Option<Tls>,
    /// The number of all connections.
    pub gate: Gate,
    /// Bounds of SIP connections.
    pub sip_settings: tcp::Settings,
    /// Bounds of MSRP connections.
    pub msrp_settings: msrp::Settings,
    /// Looks up host names.
    pub resolver: Resolver,
    /// Where look-ups run.
    pub helper: tokio::runtime::Handle,
    /// Hears the answers to the operator's questions.
    pub operator: Arc<Desk>,
    /// Hears when a shard has drained.
    pub drained: mpsc::UnboundedSender<u16>,
    /// Becomes `true` when the shards have to end.
    pub stop: watch::Receiver<bool>,
}

/// What one shard has for itself.
#[derive(Debug)]
pub struct Own<G> {
    /// Which shard.
    pub shard: u16,
    /// Its inbox.
    pub inbox: Inbox,
    /// By SIP listener.
    pub sip: Vec<SipSocket>,
    /// By MSRP listener.
    pub msrp: Vec<(TcpListener, bool)>,
    /// Its access to the store.
    pub store: G,
    /// What it counts into.
    pub metrics: Arc<ShardMetrics>,
    /// Where it writes down what memory it uses.
    pub memory: Account,
}

/// Starts the thread; `core` is called on it. The receiver hears when the shard accepts traffic, or
/// why it cannot.
pub fn start<C, G>(
    common: Common,
    own: Own<G>,
    core: impl FnOnce() -> C + Send + 'static,
) -> io::Result<(JoinHandle<()>, oneshot::Receiver<io::Result<()>>)>
where
    C: ShardCore + 'static,
    G: StoreGate + Send + 'static,
{
    let (ready, outcome) = oneshot::channel();
    let name = format!("shard-{}", own.shard);
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => return drop(ready.send(Err(error))),
        };
        // One task among those of its connections: what these have for it, and it for them, is done before the
        // system is asked for more.
        let tasks = LocalSet::new();
        let shell = tasks.spawn_local(serve(common, own, core(), ready));
        if let Err(error) = tasks.block_on(&runtime, shell)
            && let Ok(panic) = error.try_into_panic()
        {
            std::panic::resume_unwind(panic);
        }
    })?;
    Ok((thread, outcome))
}

async fn serve<C: ShardCore + 'static, G: StoreGate + 'static>(
    common: Common,
    own: Own<G>,
    core: C,
    ready: oneshot::Sender<io::Result<()>>,
) {
    let shard = own.shard;
    let (sip, msrp) = (Arc::clone(&common.sip), Arc::clone(&common.msrp));
    let mut shell = match build(common, own, core) {
        Ok(shell) => shell,
        Err(error) => return drop(ready.send(Err(error))),
    };
    let _ = ready.send(Ok(()));
    shell.run().await;
    let ended = async {
        while sip.close_all(shard) + msrp.close_all(shard) > 0 {
            tokio::time::sleep(FAREWELL / 50).await;
        }
    };
    let _ = tokio::time::timeout(FAREWELL, ended).await;
}

fn build<C: ShardCore + 'static, G: StoreGate>(
    common: Common,
    own: Own<G>,
    core: C,
) -> io::Result<Shell<C, G>> {
    let core = Rc::new(RefCell::new(core));
    let deliver = Deliverer {
        core: Rc::clone(&core),
        shard: own.shard,
        lanes: Arc::clone(&common.lanes),
        metrics: Arc::clone(&own.metrics),
    };
    let (udp, sip) = build_sip(&common, own.sip, &own.memory, &deliver)?;
    let msrp = build_msrp(&common, own.msrp, &own.memory, deliver)?;
    let outboxes = common.lanes.iter();
    let shards = common.lanes.len();
    Ok(Shell {
        shard: own.shard,
        core,
        inbox: own.inbox,
        outboxes: outboxes
            .map(|lanes| Outbox::new(lanes.internal.clone()))
            .collect(),
        lanes: common.lanes,
        udp,
        sip,
        msrp,
        store: StoreQueue::new(own.store),
        resolver: common.resolver,
        helper: common.helper,
        look_ups: Arc::new(Semaphore::new(LOOK_UPS)),
        local: VecDeque::new(),
        operator: common.operator,
        drained: common.drained,
        stop: common.stop,
        metrics: own.metrics,
        sources: common.gate.shared_sources(),
        alarm: Alarm::default(),
        waiting: WaitingRoom::default(),
        taken: Taken::new(own.memory.ledger().limit(), shards),
        last_turn: None,
        held: own.memory.hold(Kind::Inboxes, 0),
        held_for_taken: own.memory.hold(Kind::Duplicates, 0),
        held_for_store: own.memory.hold(Kind::StoreQueues, 0),
        memory: own.memory,
        next_look: Instant::default(),
        datagrams: Vec::new(),
        refusal: String::new(),
        refusals: BytesMut::with_capacity(door::REFUSALS),
        inputs: Vec::new(),
    })
}

type SipTransports<C> = (Vec<Option<UdpTransport>>, TcpTransport<Deliverer<C>>);

fn build_sip<C: ShardCore + 'static>(
    common: &Common,
    sockets: Vec<SipSocket>,
    memory: &Account,
    deliver: &Deliverer<C>,
) -> io::Result<SipTransports<C>> {
    let source = |socket: &SipSocket| match socket {
        SipSocket::Tcp(_, source) => *source,
        SipSocket::Udp(_) => None,
    };
    let tcp = TcpTransport::new(tcp::Shared {
        shard: deliver.shard,
        memory: memory.clone(),
        settings: common.sip_settings,
        registry: Arc::clone(&common.sip),
        gate: common.gate.clone(),
        sources: sockets.iter().map(source).collect(),
        deliver: deliver.clone(),
        metrics: Arc::clone(&deliver.metrics),
    });
    let mut udp = Vec::with_capacity(sockets.len());
    for (listener, socket) in (0..).zip(sockets) {
        udp.push(match socket {
            SipSocket::Udp(socket) => {
                Some(UdpTransport::new(socket, Arc::clone(&deliver.metrics))?)
            }
            SipSocket::Tcp(socket, _) => {
                tcp.listen(listener, socket)?;
                None
            }
        });
    }
    Ok((udp, tcp))
}

fn build_msrp<C: ShardCore + 'static>(
    common: &Common,
    sockets: Vec<(TcpListener, bool)>,
    memory: &Account,
    deliver: Deliverer<C>,
) -> io::Result<MsrpTransport<Deliverer<C>>> {
    let transport = MsrpTransport::new(msrp::Shared {
        shard: deliver.shard,
        memory: memory.clone(),
        shards: u16::try_from(common.lanes.len()).unwrap_or(u16::MAX),
        settings: common.msrp_settings,
        tls: common.tls.clone(),
        handshakes: Semaphore::new(msrp::HANDSHAKES),
        registry: Arc::clone(&common.msrp),
        gate: common.gate.clone(),
        metrics: Arc::clone(&deliver.metrics),
        buffers: ReadBuffers::default(),
        deliver,
    });
    for (socket, secure) in sockets {
        transport.listen(socket, secure)?;
    }
    Ok(transport)
}
