//! SIP of peers that has come and has not been looked at, oldest first.
//!
//! The sockets are emptied into it in every turn, before the kernel has to drop anything, and each
//! entry knows when it came; so what waits is known by its age, and [`crate::limits::load`] can say
//! what is refused. There is one line for all: who a sender is decides whether he is let in (`door`), not when he
//! is served, so nothing of one source overtakes anything else of it. Only while new work is refused, datagrams
//! that go on with something wait apart and are served first: a response, an ACK, a CANCEL, a request inside a
//! dialog finish what was begun, and whoever sends those has had an answer to what he sent before.

use std::collections::VecDeque;
use std::net::IpAddr;

use super::port::Input;
use super::shares::{Shares, Slot};
use crate::clock::Instant;
use crate::limits::load::{Entry, Stage};
use crate::net::sys::Datagram;

/// Places for datagrams in the line, and as many for those that are urgent.
const DATAGRAMS: usize = 4096;
/// So many are in use while a queue stands: what waits is still in the processor's cache when its turn has come.
/// Waiting in memory made serving a quarter dearer, at the very time when nobody can afford it.
const STANDING: usize = 512;
/// Messages from streams and other shards that may wait; more wait in the inbox, and those who send them.
pub const INPUTS: usize = 1024;

/// Turns of one batch.
pub const BATCH: u32 = 64;
/// Those in which what goes on is served first.
const URGENT: u32 = BATCH / 4 * 3;

/// What waits.
#[derive(Debug, Default)]
pub struct WaitingRoom {
    line: VecDeque<Waiting>,
    /// Datagrams that go before all others.
    urgent: VecDeque<Waiting>,
    /// Of the datagrams in the line, and of those that are urgent.
    shares: Shares,
    urgent_shares: Shares,
    /// Datagrams in the line that were let in since more is known of them than that they came.
    known: usize,
    octets: usize,
    hasher: foldhash::quality::RandomState,
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    /// Where it is counted, if it is a datagram.
    slot: Option<Slot>,
    is_known: bool,
    next: Next,
}

/// The next in turn.
#[derive(Debug)]
pub enum Next {
    /// A datagram of this listener, and how it was met when it came.
    Datagram(usize, Datagram, Entry),
    /// A message that was parsed where it came in.
    Input(Input),
}

impl Next {
    /// How it was met when it came.
    pub fn entry(&self) -> Entry {
        match self {
            Self::Datagram(_, _, entry) => *entry,
            Self::Input(Input::Sip { is_again: true, .. }) => Entry::Again,
            Self::Input(_) => Entry::Unjudged,
        }
    }

    fn octets(&self) -> usize {
        match self {
            Self::Datagram(_, datagram, _) => datagram.octets.len(),
            Self::Input(Input::Sip { message, .. }) => message.bytes().len(),
            Self::Input(_) => 0,
        }
    }
}

impl WaitingRoom {
    /// A datagram of a listener came, and was met so; `is_known` if [`Stage::is_known`] says so of it.
    pub fn take_datagram(
        &mut self,
        listener: usize,
        datagram: Datagram,
        entry: Entry,
        is_known: bool,
        now: Instant,
    ) {
        let slot = self.slot(datagram.remote.ip());
        self.shares.came(slot);
        self.known += usize::from(is_known);
        let next = Next::Datagram(listener, datagram, entry);
        self.octets += next.octets();
        let slot = Some(slot);
        self.line.push_back(Waiting {
            since: now,
            slot,
            is_known,
            next,
        });
    }

    /// A datagram came that goes on with what was begun.
    pub fn take_urgent(&mut self, listener: usize, datagram: Datagram, now: Instant) {
        let slot = self.slot(datagram.remote.ip());
        self.urgent_shares.came(slot);
        let next = Next::Datagram(listener, datagram, Entry::LetIn);
        self.octets += next.octets();
        let slot = Some(slot);
        self.urgent.push_back(Waiting {
            since: now,
            slot,
            is_known: false,
            next,
        });
    }

    /// A message came through the inbox.
    pub fn take_input(&mut self, input: Input, now: Instant) {
        let next = Next::Input(input);
        self.octets += next.octets();
        self.line.push_back(Waiting {
            since: now,
            slot: None,
            is_known: false,
            next,
        });
    }

    /// Whether so many datagrams stand in the line that no more of this kind may: there is always room left for
    /// those that have more behind them.
    pub fn is_crowded(&self, stage: Stage) -> bool {
        self.fills(DATAGRAMS, stage)
    }

    /// Whether more new work of this kind would make a queue that stands longer than it may be.
    pub fn is_long(&self, stage: Stage) -> bool {
        self.fills(STANDING, stage)
    }

    fn fills(&self, places: usize, stage: Stage) -> bool {
        let sixteenths = match stage {
            Stage::Silent => 4,
            Stage::Fresh => 10,
            Stage::Modest => 12,
            Stage::Known => 14,
            Stage::Proven | Stage::Leaves => 15,
        };
        self.shares.total() >= places / 16 * sixteenths
    }

    /// Whether one more urgent one may come from this address: no more than its share, unless it is trusted.
    pub fn has_room_for_urgent(&self, address: IpAddr, is_trusted: bool) -> bool {
        let is_modest = || self.urgent_shares.is_modest(self.slot(address));
        let has_share = is_trusted || self.urgent.len() < DATAGRAMS / 4 || is_modest();
        has_share && self.urgent.len() < DATAGRAMS
    }

    /// Whether not even half of an equal share of the line came from this address.
    pub fn is_modest(&self, address: IpAddr) -> bool {
        self.shares.is_modest(self.slot(address))
    }

    /// How many more messages may come in.
    pub fn room_for_inputs(&self) -> usize {
        INPUTS.saturating_sub(self.line.len() - self.shares.total())
    }

    /// The next in this turn of a batch, and since when it has waited.
    pub fn pop(&mut self, turn: u32) -> Option<(Instant, Next)> {
        let is_urgent = !self.urgent.is_empty() && (turn < URGENT || self.line.is_empty());
        let (queue, shares) = match is_urgent {
            true => (&mut self.urgent, &mut self.urgent_shares),
            false => (&mut self.line, &mut self.shares),
        };
        let it = queue.pop_front()?;
        if let Some(slot) = it.slot {
            shares.left(slot);
        }
        self.known -= usize::from(it.is_known);
        self.octets -= it.next.octets();
        Some((it.since, it.next))
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.line.len() + self.urgent.len()
    }

    /// How many wait without the datagrams of strangers: more of theirs keep nobody out who is known.
    pub fn len_of_known(&self) -> usize {
        self.len() - (self.shares.total() - self.known)
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Memory in use.
    pub fn footprint(&self) -> usize {
        let places = self.line.capacity() + self.urgent.capacity();
        let shares = self.shares.footprint() + self.urgent_shares.footprint();
        self.octets + places * size_of::<Waiting>() + shares
    }

    /// Gives back what a flood has left behind.
    pub fn shrink(&mut self) {
        if self.is_empty() {
            self.line.shrink_to(256);
            self.urgent.shrink_to(256);
        }
    }

    fn slot(&self, address: IpAddr) -> Slot {
        Slot::of(address, &self.hasher)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::transport::flow::{Flow, Transport};
    use crate::sip::wire;

    fn from(last: u8, text: &'static str) -> Datagram {
        Datagram {
            remote: ([192, 0, 2, last], 5060).into(),
            octets: text.into(),
            truncated: false,
        }
    }

    const AT: fn(u64) -> Instant = Instant::from_micros;

    #[test]
    fn the_oldest_leaves_first_wherever_it_came_from() {
        let mut room = WaitingRoom::default();
        room.take_input(Input::Drain, AT(0));
        room.take_datagram(0, from(1, "one"), Entry::LetIn, false, AT(1));
        room.take_datagram(0, from(2, "two"), Entry::LetIn, false, AT(1));
        room.take_input(Input::Drain, AT(1));
        room.take_datagram(1, from(1, "three"), Entry::LetIn, false, AT(2));
        assert_eq!((room.len(), room.octets), (5, 11));
        assert_eq!(room.room_for_inputs(), INPUTS - 2);
        let (first, next) = room.pop(0).expect("something waits");
        assert!(first == AT(0) && matches!(next, Next::Input(Input::Drain)));
        let mut left = Vec::new();
        while let Some((_, next)) = room.pop(0) {
            left.push(match next {
                Next::Datagram(listener, ..) => Some(listener),
                Next::Input(_) => None,
            });
        }
        assert_eq!(left, [Some(0), Some(0), None, Some(1)]);
        assert_eq!((room.octets, room.shares.total()), (0, 0));
        room.shrink();
        assert!(room.is_empty() && room.footprint() < 1 << 20);
    }

    #[test]
    fn the_end_of_a_connection_comes_after_what_came_over_it() {
        let flow = Flow {
            transport: Transport::Tcp,
            listener: 0,
            remote: ([192, 0, 2, 1], 5060).into(),
            connection: None,
        };
        let message = wire::parse("SIP/2.0 200 OK\r\nl: 0\r\n\r\n".into()).expect("a message");
        let is_again = false;
        let mut room = WaitingRoom::default();
        room.take_input(
            Input::Sip {
                flow,
                message,
                is_again,
            },
            AT(0),
        );
        room.take_input(Input::FlowLost { flow }, AT(0));
        let mut next = || room.pop(0).map(|(_, next)| next);
        assert!(matches!(next(), Some(Next::Input(Input::Sip { .. }))));
        assert!(matches!(next(), Some(Next::Input(Input::FlowLost { .. }))));
    }

    fn order(room: &mut WaitingRoom, turns: &[u32]) -> Vec<usize> {
        let taken = turns.iter().map(|turn| match room.pop(*turn) {
            Some((_, Next::Datagram(listener, ..))) => listener,
            other => panic!("{other:?}"),
        });
        taken.collect()
    }

    #[test]
    fn what_is_urgent_goes_first_and_the_line_has_turns_of_its_own() {
        let mut room = WaitingRoom::default();
        for _ in 0..3 {
            room.take_datagram(2, from(1, "x"), Entry::LetIn, false, AT(0));
            room.take_urgent(1, from(1, "x"), AT(1));
        }
        assert_eq!(order(&mut room, &[0, URGENT, BATCH - 1]), [1, 2, 2]);
        assert_eq!(order(&mut room, &[0, 0, 0]), [1, 1, 2]);
        assert!(room.is_empty() && room.octets == 0);
        room.take_urgent(1, from(1, "x"), AT(1));
        assert_eq!(order(&mut room, &[BATCH - 1]), [1]);
    }

    #[test]
    fn strangers_leave_room_for_who_has_proved_who_he_is() {
        let mut room = WaitingRoom::default();
        while !room.is_crowded(Stage::Modest) {
            room.take_datagram(0, from(9, "x"), Entry::LetIn, false, AT(0));
        }
        assert!(room.is_crowded(Stage::Fresh) && !room.is_crowded(Stage::Known));
        assert!(room.is_long(Stage::Proven));
        let address = |last: u8| IpAddr::from([192, 0, 2, last]);
        assert!(!room.is_modest(address(9)) && room.is_modest(address(8)));
        while !room.is_crowded(Stage::Known) {
            assert!(room.len() > room.len_of_known());
            room.take_datagram(0, from(8, "x"), Entry::LetIn, true, AT(0));
        }
        assert!(!room.is_crowded(Stage::Proven));
        assert_eq!(room.len_of_known(), DATAGRAMS / 8);
        room.take_input(Input::Drain, AT(0));
        room.take_urgent(0, from(9, "x"), AT(0));
        assert_eq!(room.len_of_known(), DATAGRAMS / 8 + 2);
        while room.pop(0).is_some() {}
        assert_eq!(room.len_of_known(), 0);
    }

    #[test]
    fn a_queue_that_stands_is_short() {
        let mut room = WaitingRoom::default();
        while !room.is_long(Stage::Fresh) {
            room.take_datagram(0, from(9, "x"), Entry::LetIn, false, AT(0));
        }
        assert_eq!(room.len(), STANDING / 16 * 10);
        assert!(!room.is_long(Stage::Known) && !room.is_crowded(Stage::Silent));
    }

    #[test]
    fn nobody_but_who_is_trusted_takes_more_than_his_share_of_what_is_urgent() {
        let mut room = WaitingRoom::default();
        let address = |last: u8| IpAddr::from([192, 0, 2, last]);
        let mut taken = 0;
        while room.has_room_for_urgent(address(1), false) {
            room.take_urgent(0, from(1, "x"), AT(0));
            taken += 1;
        }
        assert_eq!(taken, DATAGRAMS / 4);
        assert!(room.has_room_for_urgent(address(2), false));
        while room.has_room_for_urgent(address(1), true) {
            room.take_urgent(0, from(1, "x"), AT(0));
            taken += 1;
        }
        assert_eq!(taken, DATAGRAMS);
        assert!(!room.has_room_for_urgent(address(2), false));
    }
}
