//! SIP of peers that has come and has not been looked at, oldest first.
//!
//! The sockets are emptied into it in every turn, before the kernel has to drop anything, and each
//! entry knows when it came; so what waits is known by its age, and [`crate::limits::load`] can say
//! what is refused. While new work is refused (`door`), what goes on waits apart and is served first: it
//! finishes what was begun.

use std::collections::VecDeque;

use super::port::Input;
use crate::clock::Instant;
use crate::net::sys::Datagram;

/// Datagrams that may wait; more are left to the kernel until there is room.
pub const DATAGRAMS: usize = 4096;
/// Messages from streams and other shards that may wait; more wait in the inbox, and those who send them.
pub const INPUTS: usize = 1024;

/// What waits.
#[derive(Debug, Default)]
pub struct WaitingRoom {
    datagrams: VecDeque<Waiting>,
    /// Datagrams that go before all others.
    urgent: VecDeque<Waiting>,
    inputs: VecDeque<(Instant, Input)>,
    octets: usize,
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    listener: usize,
    datagram: Datagram,
    was_let_in: bool,
}

/// The next in turn.
#[derive(Debug)]
pub enum Next {
    /// A datagram of this listener, and whether it was judged when it came.
    Datagram(usize, Datagram, bool),
    /// A message that was parsed where it came in.
    Input(Input),
}

impl WaitingRoom {
    /// A datagram of a listener came; `was_let_in` if it was judged.
    pub fn take_datagram(
        &mut self,
        listener: usize,
        datagram: Datagram,
        was_let_in: bool,
        now: Instant,
    ) {
        self.octets += datagram.octets.len();
        self.datagrams.push_back(Waiting {
            since: now,
            listener,
            datagram,
            was_let_in,
        });
    }

    /// A datagram came that goes on with what was begun.
    pub fn take_urgent(&mut self, listener: usize, datagram: Datagram, now: Instant) {
        self.octets += datagram.octets.len();
        self.urgent.push_back(Waiting {
            since: now,
            listener,
            datagram,
            was_let_in: true,
        });
    }

    /// Messages came through the inbox.
    pub fn take_inputs(&mut self, inputs: impl Iterator<Item = Input>, now: Instant) {
        for input in inputs {
            self.octets += octets_of(&input);
            self.inputs.push_back((now, input));
        }
    }

    /// Whether another batch of datagrams may come in.
    pub fn has_room_for_datagrams(&self) -> bool {
        self.datagrams.len() < DATAGRAMS && self.urgent.len() < DATAGRAMS
    }

    /// Whether it is nearly full of datagrams, so that what goes on would be left outside.
    pub fn is_crowded(&self) -> bool {
        self.datagrams.len() >= DATAGRAMS / 8 * 7
    }

    /// How many more messages may come in.
    pub fn room_for_inputs(&self) -> usize {
        INPUTS.saturating_sub(self.inputs.len())
    }

    /// What is urgent if `urgent`, else the one that has waited longest; and since when.
    pub fn pop(&mut self, urgent: bool) -> Option<(Instant, Next)> {
        if let Some(next) = self.urgent.pop_front_if(|_| urgent) {
            return Some(self.leaving(next));
        }
        let datagram = self.datagrams.front().map(|it| it.since);
        let input = self.inputs.front().map(|(at, _)| *at);
        let input_first = match (datagram, input) {
            (Some(datagram), Some(input)) => input < datagram,
            (None, _) => true,
            (Some(_), None) => false,
        };
        if input_first && let Some((at, input)) = self.inputs.pop_front() {
            self.octets -= octets_of(&input);
            return Some((at, Next::Input(input)));
        }
        let next = self.datagrams.pop_front();
        let next = next.or_else(|| self.urgent.pop_front())?;
        Some(self.leaving(next))
    }

    fn leaving(&mut self, next: Waiting) -> (Instant, Next) {
        self.octets -= next.datagram.octets.len();
        let (listener, was_let_in) = (next.listener, next.was_let_in);
        let next_of = Next::Datagram(listener, next.datagram, was_let_in);
        (next.since, next_of)
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.datagrams.len() + self.urgent.len() + self.inputs.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Memory in use.
    pub fn footprint(&self) -> usize {
        let datagrams = self.datagrams.capacity() + self.urgent.capacity();
        let datagrams = datagrams * size_of::<Waiting>();
        let inputs = self.inputs.capacity() * size_of::<(Instant, Input)>();
        self.octets + datagrams + inputs
    }

    /// Gives back what a flood has left behind.
    pub fn shrink(&mut self) {
        if self.is_empty() {
            self.datagrams.shrink_to(256);
            self.urgent.shrink_to(256);
            self.inputs.shrink_to(256);
        }
    }
}

fn octets_of(input: &Input) -> usize {
    match input {
        Input::Sip { message, .. } => message.bytes().len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn datagram(text: &'static str) -> Datagram {
        Datagram {
            remote: "127.0.0.1:5060".parse().expect("an address"),
            octets: Bytes::from_static(text.as_bytes()),
            truncated: false,
        }
    }

    #[test]
    fn the_oldest_leaves_first_wherever_it_came_from() {
        let mut room = WaitingRoom::default();
        let at = Instant::from_micros;
        room.take_datagram(0, datagram("one"), true, at(1));
        room.take_datagram(0, datagram("two"), true, at(1));
        room.take_inputs([Input::Drain].into_iter(), at(0));
        room.take_datagram(1, datagram("three"), true, at(2));
        assert_eq!((room.len(), room.octets), (4, 11));
        let (first, next) = room.pop(true).expect("something waits");
        assert!(first == at(0) && matches!(next, Next::Input(Input::Drain)));
        let mut listeners = Vec::new();
        while let Some((_, Next::Datagram(listener, ..))) = room.pop(true) {
            listeners.push(listener);
        }
        assert_eq!(listeners, [0, 0, 1]);
        assert_eq!(room.octets, 0);
        room.shrink();
        assert!(room.is_empty() && room.footprint() < 1 << 20);
    }

    #[test]
    fn what_is_urgent_goes_first_where_it_is_asked_for_and_never_stays() {
        let mut room = WaitingRoom::default();
        let at = Instant::from_micros;
        room.take_datagram(0, datagram("one"), false, at(1));
        for listener in 1..4 {
            room.take_urgent(listener, datagram("urgent"), at(2));
        }
        let mut order = Vec::new();
        for urgent in [true, false, false, true] {
            match room.pop(urgent) {
                Some((_, Next::Datagram(listener, _, was_let_in))) => {
                    order.push((listener, was_let_in));
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(order, [(1, true), (0, false), (2, true), (3, true)]);
        assert!(room.is_empty() && room.octets == 0);
    }
}
