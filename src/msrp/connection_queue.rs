//! Several sessions share a connection (RFC 4975 §5.4): their frames take turns.
//!
//! Frames are whole, of one chunk at most, so taking turns frame by frame gives "each concurrent request
//! a chance to send some fair portion of data" (§7.1.1). Only a bounded number of octets is with the
//! socket, and every session's backlog is bounded, so a slow reader costs no memory.

use std::collections::VecDeque;

use crate::limits::memory::Room;
use crate::net::pieces::Pieces;

/// A session has more octets waiting than its bound: its peer asks faster than it reads, and the
/// connection has to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("backlog of a session over its bound")]
pub struct Overfull;

/// Bounds of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// Octets handed to the socket and not yet written.
    pub in_flight: usize,
    /// Waiting octets of one session from which on it is not to be asked for more.
    pub enough: usize,
    /// Waiting octets of one session that are too many.
    pub backlog: usize,
}

impl QueueLimits {
    /// The bounds while there is so much room in memory: where it is short, one chunk at a time.
    pub fn with(room: Room) -> Self {
        match room {
            Room::Ample => Self::default(),
            Room::Scarce => Self {
                in_flight: 32 * 1024,
                enough: 1,
                backlog: 128 * 1024,
            },
            Room::None => Self {
                in_flight: 1,
                enough: 1,
                backlog: 128 * 1024,
            },
        }
    }
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self {
            in_flight: 128 * 1024,
            enough: 32 * 1024,
            backlog: 512 * 1024,
        }
    }
}

#[derive(Debug)]
struct Lane<S> {
    session: S,
    frames: VecDeque<Pieces>,
    octets: usize,
}

/// The frames that wait for one connection. `S` names a session.
#[derive(Debug)]
pub struct ConnectionQueue<S> {
    limits: QueueLimits,
    /// Sessions with waiting frames; the first has the turn.
    lanes: VecDeque<Lane<S>>,
    /// Frames with the socket, oldest first: whose, and how many octets are unwritten.
    in_flight: VecDeque<(S, usize)>,
    in_flight_octets: usize,
}

impl<S: Copy + Eq> ConnectionQueue<S> {
    /// An empty queue.
    pub fn new(limits: QueueLimits) -> Self {
        Self {
            limits,
            lanes: VecDeque::new(),
            in_flight: VecDeque::new(),
            in_flight_octets: 0,
        }
    }

    /// Other bounds from here on.
    pub fn set_limits(&mut self, limits: QueueLimits) {
        self.limits = limits;
    }

    /// Octets that wait, without those that are with the socket.
    pub fn waiting(&self) -> usize {
        self.lanes.iter().map(|lane| lane.octets).sum()
    }

    /// Whether `session` is worth asking for its next frame.
    pub fn has_room(&self, session: S) -> bool {
        let lane = self.lanes.iter().find(|lane| lane.session == session);
        lane.is_none_or(|lane| lane.octets < self.limits.enough)
    }

    /// Adds a whole frame.
    pub fn push(&mut self, session: S, frame: impl Into<Pieces>) -> Result<(), Overfull> {
        let frame = frame.into();
        let length = frame.len();
        let mut lanes = self.lanes.iter_mut();
        let lane = match lanes.find(|lane| lane.session == session) {
            Some(lane) => lane,
            None => {
                self.lanes.push_back(Lane {
                    session,
                    frames: VecDeque::new(),
                    octets: 0,
                });
                self.lanes.back_mut().expect("one was just added")
            }
        };
        if lane.octets + length > self.limits.backlog {
            return Err(Overfull);
        }
        lane.octets += length;
        lane.frames.push_back(frame);
        Ok(())
    }

    /// The next frame for the socket, of the session whose turn it is; `None` while enough is with the
    /// socket.
    pub fn poll_transmit(&mut self) -> Option<Pieces> {
        if self.in_flight_octets >= self.limits.in_flight {
            return None;
        }
        let mut lane = self.lanes.pop_front()?;
        let frame = lane.frames.pop_front()?;
        let length = frame.len();
        lane.octets -= length;
        self.in_flight.push_back((lane.session, length));
        self.in_flight_octets += length;
        if !lane.frames.is_empty() {
            self.lanes.push_back(lane);
        }
        Some(frame)
    }

    /// `octets` more have left for the kernel. Returns whose frames have left whole, in order.
    pub fn written(&mut self, octets: usize) -> Vec<S> {
        let mut left = octets.min(self.in_flight_octets);
        self.in_flight_octets -= left;
        let mut whole = Vec::new();
        while let Some((session, unwritten)) = self.in_flight.front_mut() {
            if *unwritten > left {
                *unwritten -= left;
                break;
            }
            left -= *unwritten;
            whole.push(*session);
            self.in_flight.pop_front();
        }
        whole
    }

    /// Takes back what a session has waiting; what is with the socket stays.
    pub fn remove(&mut self, session: S) {
        self.lanes.retain(|lane| lane.session != session);
    }

    /// Whether everything has been written.
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty() && self.in_flight.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn frame(octet: u8, length: usize) -> Bytes {
        Bytes::from(vec![octet; length])
    }

    fn queue() -> ConnectionQueue<u8> {
        ConnectionQueue::new(QueueLimits {
            in_flight: 100,
            enough: 50,
            backlog: 200,
        })
    }

    #[test]
    fn sessions_take_turns_frame_by_frame() {
        let mut queue = queue();
        for _ in 0..3 {
            queue.push(b'a', frame(b'a', 10)).unwrap();
        }
        queue.push(b'b', frame(b'b', 10)).unwrap();
        let order: Vec<u8> = std::iter::from_fn(|| queue.poll_transmit())
            .map(|frame| frame.joined()[0])
            .collect();
        assert_eq!(order, b"abaa");
    }

    #[test]
    fn only_so_much_is_with_the_socket() {
        let mut queue = queue();
        for _ in 0..4 {
            queue.push(b'a', frame(b'a', 50)).unwrap();
        }
        assert!(queue.poll_transmit().is_some() && queue.poll_transmit().is_some());
        assert!(queue.poll_transmit().is_none());
        assert_eq!(queue.written(49), b"");
        assert!(queue.poll_transmit().is_some());
        assert_eq!(queue.written(51), b"aa");
        assert!(queue.poll_transmit().is_some());
        assert_eq!(queue.written(1000), b"aa");
        assert!(queue.is_empty());
    }

    #[test]
    fn a_backlog_is_bounded() {
        let mut queue = queue();
        queue.push(b'a', frame(b'a', 50)).unwrap();
        assert!(!queue.has_room(b'a') && queue.has_room(b'b'));
        queue.push(b'a', frame(b'a', 150)).unwrap();
        assert_eq!(queue.push(b'a', frame(b'a', 1)), Err(Overfull));
        assert_eq!(queue.push(b'b', frame(b'b', 1)), Ok(()));
        queue.remove(b'a');
        assert_eq!(queue.poll_transmit().unwrap().joined(), "b");
    }
}
