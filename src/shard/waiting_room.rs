//! SIP of peers that has come and has not been looked at, oldest first.
//!
//! The sockets are emptied into it in every turn, before the kernel has to drop anything, and each
//! entry knows when it came; so what waits is known by its age, and [`crate::limits::load`] can say
//! what is refused.

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
    datagrams: VecDeque<(Instant, usize, Datagram)>,
    inputs: VecDeque<(Instant, Input)>,
    octets: usize,
}

/// The next in turn.
#[derive(Debug)]
pub enum Next {
    /// A datagram of this listener.
    Datagram(usize, Datagram),
    /// A message that was parsed where it came in.
    Input(Input),
}

impl WaitingRoom {
    /// Datagrams of a listener came.
    pub fn take_datagrams(
        &mut self,
        listener: usize,
        datagrams: impl Iterator<Item = Datagram>,
        now: Instant,
    ) {
        for datagram in datagrams {
            self.octets += datagram.octets.len();
            self.datagrams.push_back((now, listener, datagram));
        }
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
        self.datagrams.len() < DATAGRAMS
    }

    /// How many more messages may come in.
    pub fn room_for_inputs(&self) -> usize {
        INPUTS.saturating_sub(self.inputs.len())
    }

    /// The one that has waited longest, and since when.
    pub fn pop(&mut self) -> Option<(Instant, Next)> {
        let datagram = self.datagrams.front().map(|(at, ..)| *at);
        let input = self.inputs.front().map(|(at, _)| *at);
        let input_first = match (datagram, input) {
            (Some(datagram), Some(input)) => input < datagram,
            (None, _) => true,
            (Some(_), None) => false,
        };
        if input_first {
            let (at, input) = self.inputs.pop_front()?;
            self.octets -= octets_of(&input);
            return Some((at, Next::Input(input)));
        }
        let (at, listener, datagram) = self.datagrams.pop_front()?;
        self.octets -= datagram.octets.len();
        Some((at, Next::Datagram(listener, datagram)))
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.datagrams.len() + self.inputs.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Memory in use.
    pub fn footprint(&self) -> usize {
        let datagrams = self.datagrams.capacity() * size_of::<(Instant, usize, Datagram)>();
        let inputs = self.inputs.capacity() * size_of::<(Instant, Input)>();
        self.octets + datagrams + inputs
    }

    /// Gives back what a flood has left behind.
    pub fn shrink(&mut self) {
        if self.is_empty() {
            self.datagrams.shrink_to(256);
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
        room.take_datagrams(0, [datagram("one"), datagram("two")].into_iter(), at(1));
        room.take_inputs([Input::Drain].into_iter(), at(0));
        room.take_datagrams(1, [datagram("three")].into_iter(), at(2));
        assert_eq!((room.len(), room.octets), (4, 11));
        let (first, next) = room.pop().expect("something waits");
        assert!(first == at(0) && matches!(next, Next::Input(Input::Drain)));
        let mut listeners = Vec::new();
        while let Some((_, Next::Datagram(listener, _))) = room.pop() {
            listeners.push(listener);
        }
        assert_eq!(listeners, [0, 0, 1]);
        assert_eq!(room.octets, 0);
        room.shrink();
        assert!(room.is_empty() && room.footprint() < 1 << 20);
    }
}
