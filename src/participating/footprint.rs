//! How much memory a shard uses for what, counted from the sizes of its tables.
//!
//! What one entry costs is estimated from the sizes of what it is made of, or measured with valgrind's dhat
//! (octets in use at the peak by the place that asked for them, over 6,000 entries); octets that vary are
//! added as they are. `tests/scale` holds the sums against what the process has.

use bytes::Bytes;

use crate::limits::memory::{Account, Held, Kind};
use crate::participating::service::Service;

/// A MESSAGE, a relayed request or a delivery under way, beside its octets.
const WORK: usize = 2_048;
/// A chat: two dialogs with their route sets, and what is on its way.
const CHAT: usize = 6_144;
/// A dialog in which we are the user agent.
const DIALOG: usize = 512;
/// An MSRP session with its description and its place in the tables.
const MEDIA: usize = 4_096;
/// A connection that carries sessions.
const MEDIA_CONNECTION: usize = 512;
/// A message on its way through a session, beside its octets: for a lone one half of it is the first nodes of trees.
const TRANSIT: usize = 2_560;
/// A waiting message as a user's machine knows it.
const HELD: usize = 256;
/// A user with waiting messages, by name.
const WAITING: usize = 96;
/// A user who stands in line for a replay.
const IN_LINE: usize = 128;
/// A user's machine, beside the messages it knows of.
const USER: usize = 1_024;
/// A message whose receipts are kept track of: the only one of its author, for whose map's first group it pays.
const RECEIPT: usize = 560;
/// A duplicate key, twice.
const DUPLICATE: usize = 96;
/// A request that the store has not answered.
const STORE_REQUEST: usize = 512;

/// What the tables of one shard were last found to use.
#[derive(Debug)]
pub(super) struct Footprint {
    transactions: Held,
    work: Held,
    media: Held,
    bindings: Held,
    users: Held,
    receipts: Held,
    duplicates: Held,
    store: Held,
    /// What MSRP sessions hold of messages on their way.
    in_transit: Held,
}

impl Footprint {
    pub(super) fn new(account: &Account) -> Self {
        let nothing = |kind| account.hold(kind, 0);
        Self {
            transactions: nothing(Kind::Transactions),
            work: nothing(Kind::Work),
            media: nothing(Kind::Media),
            bindings: nothing(Kind::Bindings),
            users: nothing(Kind::Users),
            receipts: nothing(Kind::Receipts),
            duplicates: nothing(Kind::Duplicates),
            store: nothing(Kind::StoreQueues),
            in_transit: nothing(Kind::Media),
        }
    }
}

impl Service {
    /// Weighs what sessions hold: by a look at all of them, with the sweep.
    pub(super) fn weigh_sessions(&mut self) {
        let chats = self.chats.values().map(|chat| {
            let transits = chat.transits.values();
            let transits = transits.map(|it| TRANSIT + it.head.capacity());
            chat.invite.bytes().len() + transits.sum::<usize>()
        });
        let runs = self.deliveries.values().filter_map(|it| it.session());
        let runs = runs.map(|run| {
            let sending = run.sending.iter();
            let sending = sending.map(|it| {
                let body = it.body.as_ref().map_or(0, Bytes::len);
                TRANSIT + body + it.head.len()
            });
            sending.sum::<usize>() + run.fetching.len() * HELD
        });
        let octets = chats.sum::<usize>() + runs.sum::<usize>() + self.media.waiting();
        self.footprint.in_transit.set(octets);
    }

    /// Writes down what is in use now.
    pub fn account(&mut self) {
        self.media.set_room(self.load.room());
        self.metrics.replay_line.set(self.line.len() as u64);
        self.metrics.replays_served.set(self.line.served() as u64);
        (self.metrics.revocations).set(self.revocations.len() as u64);
        (self.metrics.receipt_lanes).set(self.receipts.lanes() as u64);
        (self.metrics.tcp_refused).set(self.sip.peers_without_tcp() as u64);
        self.metrics.crowded_queues.set(self.crowds.len() as u64);
        let work = self.pagers.len() + self.relays.len() + self.deliveries.len();
        let work = work + self.look_ups.len() + self.silences.len();
        let media = self.media.len() * MEDIA + self.media.connections() * MEDIA_CONNECTION;
        let receipts = self.receipts.table.len() + self.hidden.len();
        self.metrics.msrp_abused.add(self.media.take_abused());
        let forgotten = self.sip.take_forgotten_transactions();
        self.metrics.forgotten_transactions.add(forgotten);
        let print = &mut self.footprint;
        print.transactions.set(self.sip.footprint());
        print
            .work
            .set(work * WORK + self.chats.len() * CHAT + self.dialogs.len() * DIALOG);
        print.media.set(media);
        print.bindings.set(self.registrar.footprint());
        print.users.set(
            self.users.len() * USER
                + self.waiting.len() * WAITING
                + (self.line.len() + self.line.served()) * IN_LINE
                + self.ahead.footprint(),
        );
        print.receipts.set(receipts * RECEIPT);
        print.duplicates.set(self.recent.len() * DUPLICATE);
        print.store.set(self.custody.open() * STORE_REQUEST);
    }
}
