//! From a shard's connections to the inbox of the shard concerned.

use bytes::Bytes;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use super::core_trait::ShardCore;
use super::inbox::Lanes;
use super::port::Input;
use crate::metrics::ShardMetrics;
use crate::msrp;
use crate::msrp::frame::FrameEvent;
use crate::net::ConnectionId;
use crate::sip;
use crate::sip::message::Message;
use crate::sip::transport::flow::Flow;

/// Puts what a connection received into the inbox it belongs to. Messages and frames wait for room,
/// and with them the connection that they came on.
#[derive(Debug)]
pub struct Deliverer<C> {
    /// Says to whom a message belongs.
    pub core: Rc<RefCell<C>>,
    /// This shard.
    pub shard: u16,
    /// The inboxes of all shards.
    pub lanes: Arc<[Lanes]>,
    /// What is counted.
    pub metrics: Arc<ShardMetrics>,
}

impl<C> Clone for Deliverer<C> {
    fn clone(&self) -> Self {
        Self {
            core: Rc::clone(&self.core),
            shard: self.shard,
            lanes: Arc::clone(&self.lanes),
            metrics: Arc::clone(&self.metrics),
        }
    }
}

impl<C> Deliverer<C> {
    async fn work(&self, shard: u16, input: Input) {
        if let Some(lanes) = self.lanes.get(usize::from(shard)) {
            // An inbox that is closed belongs to a shard that has ended.
            let _ = lanes.work.send(input).await;
        }
    }

    async fn media(&self, shard: u16, input: Input) {
        if let Some(lanes) = self.lanes.get(usize::from(shard)) {
            lanes.send_media(input).await;
        }
    }
}

impl<C: ShardCore + 'static> sip::transport::tcp::Deliver for Deliverer<C> {
    async fn message(&self, flow: Flow, message: Message) -> u16 {
        let shard = self.core.borrow().owner_of(&message);
        if shard != self.shard {
            self.metrics.sip_handed_over.count();
        }
        self.work(
            shard,
            Input::Sip {
                flow,
                message,
                is_again: false,
            },
        )
        .await;
        shard
    }

    async fn lost(&self, shard: u16, flow: Flow) {
        self.work(shard, Input::FlowLost { flow }).await;
    }
}

impl<C: ShardCore + 'static> msrp::listener::Deliver for Deliverer<C> {
    async fn events(&self, shard: u16, connection: ConnectionId, events: Vec<FrameEvent>) {
        self.media(shard, Input::Msrp { connection, events }).await;
    }

    async fn written(&self, shard: u16, connection: ConnectionId, octets: usize) {
        if let Some(lanes) = self.lanes.get(usize::from(shard)) {
            let written = Input::MsrpWritten { connection, octets };
            let _ = lanes.notices.send(written).await;
        }
    }

    async fn secured(&self, shard: u16, connection: ConnectionId, certificate: Option<Bytes>) {
        let secured = Input::MsrpSecured {
            connection,
            certificate,
        };
        self.media(shard, secured).await;
    }

    async fn lost(&self, shard: u16, connection: ConnectionId) {
        self.media(shard, Input::MsrpLost { connection }).await;
    }
}
