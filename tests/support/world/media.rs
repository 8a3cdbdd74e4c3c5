//! What a simulated device sends and takes in the MSRP sessions of its chats.

use rand::RngExt;
use restante::clock::Instant;
use restante::net::ConnectionId;

use super::agent::{Agent, Mood, Out, Packet, Sight};
use super::frames::{Chunk, Frame, binding};

impl Agent {
    /// The connection we asked for stands: say whose it is.
    pub fn handle_connected(
        &mut self,
        number: u64,
        connection: ConnectionId,
        sight: &mut Sight<'_>,
    ) {
        let transaction = self.transaction();
        let local = self.calls.get(&number).map(|call| self.path(&call.session));
        match (self.calls.get_mut(&number), local) {
            (Some(call), Some(local)) => {
                call.connection = Some(connection);
                call.bound = true;
                let octets = binding(&transaction, &call.remote_path, &local);
                sight.out.push(Out::Msrp(connection, Packet::plain(octets)));
                self.send_queued(number, sight);
            }
            _ => sight.out.push(Out::Close(connection)),
        }
    }

    /// An MSRP connection is gone, and with it the calls it served.
    pub fn handle_connection_lost(&mut self, connection: ConnectionId, sight: &mut Sight<'_>) {
        self.streams.remove(&connection);
        let lost: Vec<u64> = self
            .calls
            .iter()
            .filter(|(_, call)| call.connection == Some(connection))
            .map(|(number, _)| *number)
            .collect();
        for number in lost {
            let with_bye = sight.rng.random_bool(0.7);
            if let Some(call) = self.calls.get_mut(&number) {
                call.connection = None;
            }
            self.hang_up(number, with_bye, sight);
        }
    }

    /// Octets came over MSRP.
    pub fn handle_msrp(
        &mut self,
        connection: ConnectionId,
        octets: &[u8],
        sent: Instant,
        sight: &mut Sight<'_>,
    ) {
        let mut stream = self.streams.remove(&connection).unwrap_or_default();
        stream.extend_from_slice(octets);
        while let Some(frame) = Frame::take(&mut stream) {
            self.handle_frame(connection, &frame, sent, sight);
        }
        self.streams.insert(connection, stream);
    }

    fn handle_frame(
        &mut self,
        connection: ConnectionId,
        frame: &Frame,
        sent: Instant,
        sight: &mut Sight<'_>,
    ) {
        let session = frame
            .header("To-Path")
            .rsplit('/')
            .next()
            .unwrap_or_default();
        let session = session.split(';').next().unwrap_or_default().to_owned();
        let found = self.calls.iter().find(|(_, call)| call.session == session);
        let Some(number) = found.map(|(number, _)| *number) else {
            if frame.word == "SEND" {
                sight
                    .out
                    .push(Out::Msrp(connection, Packet::plain(frame.response(481))));
            }
            return;
        };
        if let Some(call) = self.calls.get_mut(&number) {
            call.connection = Some(connection);
            call.bound = true;
        }
        match frame.word.as_str() {
            "SEND" => self.take_chunk(number, connection, frame, sent, sight),
            "REPORT" => {}
            // RFC 4975 §10.8: the server does not know the session, so there is none.
            "481" => {
                self.handle_msrp_answer(number, &frame.transaction, false, sight);
                return self.hang_up(number, true, sight);
            }
            status => self.handle_msrp_answer(number, &frame.transaction, status == "200", sight),
        }
        self.send_queued(number, sight);
    }

    fn take_chunk(
        &mut self,
        number: u64,
        connection: ConnectionId,
        frame: &Frame,
        sent: Instant,
        sight: &mut Sight<'_>,
    ) {
        if self.mood == Mood::Silent {
            return;
        }
        if let (Mood::Refusing(_), Some(body)) = (self.mood, &frame.body) {
            sight.ledger.refused(body, 413, sight.now.instant);
            let refusal = Packet::plain(frame.response(413));
            return sight.out.push(Out::Msrp(connection, refusal));
        }
        let mut packet = Packet::plain(frame.response(200));
        let done = match (&frame.body, self.calls.get_mut(&number)) {
            (Some(body), Some(call)) => {
                let key = frame.header("Message-ID").to_owned();
                let (octets, _) = call
                    .inbound
                    .entry(key.clone())
                    .or_insert((Vec::new(), sent));
                let end = frame.offset() + body.len();
                octets.resize(octets.len().max(end), 0);
                octets[frame.offset()..end].copy_from_slice(body);
                (frame.flag == b'$')
                    .then(|| call.inbound.remove(&key))
                    .flatten()
                    .map(|done| (done, call.call_id.clone()))
            }
            _ => None,
        };
        if let Some(((octets, begun), call_id)) = done {
            let device = self.mark_in(number);
            self.take_message(&octets, begun, (Some(number), device), sight);
            packet.confirms = sight.ledger.find(&octets).map(|id| (id, device));
            packet.begun = begun;
            packet.call_id = Some(call_id);
        }
        sight.out.push(Out::Msrp(connection, packet));
    }

    fn handle_msrp_answer(
        &mut self,
        number: u64,
        transaction: &str,
        success: bool,
        sight: &mut Sight<'_>,
    ) {
        let Some(call) = self.calls.get_mut(&number) else {
            return;
        };
        let Some(id) = call.unanswered.remove(transaction) else {
            return;
        };
        if !success {
            call.failed.insert(id);
            sight.ledger.entries[id].turned_away = true;
            sight
                .ledger
                .tell(format!("message {id} is refused over MSRP"));
        }
        let left = call
            .chunks_left
            .get_mut(&id)
            .expect("it was sent in chunks");
        *left -= 1;
        if *left == 0 && !call.failed.contains(&id) {
            let now = sight.now.instant;
            sight
                .ledger
                .tell(format!("{now:?} message {id} is acknowledged over MSRP"));
            sight.ledger.acknowledged(id, false, sight.disk, now);
        }
    }

    /// Sends what waits, in chunks and without waiting for answers.
    pub fn send_queued(&mut self, number: u64, sight: &mut Sight<'_>) {
        let Some(local) = self.calls.get(&number).map(|call| self.path(&call.session)) else {
            return;
        };
        loop {
            let Some(call) = self.calls.get_mut(&number) else {
                return;
            };
            let (Some(connection), true) = (call.connection, call.bound) else {
                return;
            };
            let Some(id) = call.queue.front().copied() else {
                return;
            };
            // A receipt may pass where content may not.
            if !call.sends && !sight.ledger.entries[id].is_notification {
                return;
            }
            call.queue.pop_front();
            let whole = sight.ledger.entries[id].body.clone();
            sight.ledger.entries[id].sent_at = sight.now.instant;
            sight.ledger.entries[id].in_his_call = call.kind.is_none();
            let remote = call.remote_path.clone();
            let size = sight.rng.random_range(40..4000usize).max(whole.len() / 8);
            let mut start = 0;
            while start < whole.len() {
                let transaction = self.transaction();
                let end = (start + size).min(whole.len());
                let chunk = Chunk {
                    transaction: &transaction,
                    to: &remote,
                    from: &local,
                    message_id: &format!("m{id}x{number}"),
                    whole: &whole,
                    start,
                    end,
                };
                sight
                    .out
                    .push(Out::Msrp(connection, Packet::plain(chunk.octets())));
                let Some(call) = self.calls.get_mut(&number) else {
                    return;
                };
                call.unanswered.insert(transaction, id);
                *call.chunks_left.entry(id).or_default() += 1;
                start = end;
            }
        }
    }
}
