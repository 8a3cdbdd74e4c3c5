//! The shells over real sockets: UDP, TCP and MSRP in, an echo core behind them.

#[path = "shells/echo.rs"]
mod echo;

use echo::{PATIENCE, World, message, numbered};
use restante::clock;
use restante::config::Period;
use restante::msrp::frame::FrameEvent;
use restante::msrp::uri::{new_session_id, new_transaction_id};
use restante::participating::internal::InternalMessage;
use restante::shard::port::{Attempt, Input};
use restante::token::Tokens;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};

fn phone(server: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bound");
    socket.connect(server).expect("connected");
    socket.set_read_timeout(Some(PATIENCE)).expect("set");
    socket
}

fn line(server: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(server).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream.set_nodelay(true).expect("set");
    stream
}

fn asks(phone: &UdpSocket, user: u32, body: &str) {
    let port = phone.local_addr().expect("bound").port();
    let request = message(user, port, "UDP", body);
    phone.send(request.as_bytes()).expect("sent");
}

fn hears(phone: &UdpSocket) -> String {
    let mut answer = [0; 65_536];
    let length = phone.recv(&mut answer).expect("an answer");
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

fn hears_all(phone: &UdpSocket, count: usize) {
    for _ in 0..count {
        hears(phone);
    }
}

/// Reads until `ends` says that it is enough.
fn reads(stream: &mut TcpStream, ends: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut got = Vec::new();
    let mut some = [0; 65_536];
    while !ends(&got) {
        match stream.read(&mut some).expect("octets in time") {
            0 => panic!("closed after {} octets", got.len()),
            length => got.extend_from_slice(&some[..length]),
        }
    }
    got
}

fn count(text: &[u8], what: &str) -> usize {
    String::from_utf8_lossy(text).matches(what).count()
}

/// Reads until the peer closes; a reset is an end too.
fn is_closed(stream: &mut TcpStream) -> bool {
    let mut some = [0; 65_536];
    loop {
        match stream.read(&mut some) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

#[test]
fn a_thousand_datagrams_are_answered_wherever_they_land() {
    for shards in [1, 4] {
        let world = World::new(shards);
        let phone = phone(world.udp());
        let mut answered = BTreeSet::new();
        for batch in 0..20 {
            for user in batch * 50..(batch + 1) * 50 {
                asks(&phone, user, "hello");
            }
            while answered.len() < 50 * (batch as usize + 1) {
                let answer = hears(&phone);
                assert!(answer.starts_with("SIP/2.0 200 "), "{answer}");
                let branch = answer.split("branch=z9hG4bK").nth(1).expect("our Via");
                let digits: String = branch.chars().take_while(char::is_ascii_digit).collect();
                answered.insert(digits);
            }
        }
        let mut shards_seen = BTreeSet::new();
        for _ in 0..1000 {
            shards_seen.insert(world.sees(|shard, _| Some(shard)));
        }
        assert_eq!(shards_seen.len(), usize::from(shards));
        let handed_over = world.counted("restante_sip_handed_over_total");
        // One socket sends all: they land on one shard, which keeps its own quarter.
        assert_eq!(handed_over, if shards == 1 { 0 } else { 750 });
        world.running.stop();
    }
}

#[test]
fn keep_alives_are_ignored_and_malformed_datagrams_answered_400() {
    let world = World::new(2);
    let phone = phone(world.udp());
    phone.send(b"\r\n\r\n").expect("sent");
    let port = phone.local_addr().expect("bound").port();
    let request = message(1, port, "UDP", "hello");
    let cut = request.strip_suffix("llo").expect("its body");
    phone.send(cut.as_bytes()).expect("sent");
    let answer = hears(&phone);
    assert!(answer.starts_with("SIP/2.0 400 "), "{answer}");
    assert!(answer.contains(&format!("rport={port}")), "{answer}");
    assert_eq!(world.counted("restante_sip_malformed_total"), 1);
}

#[test]
fn what_comes_after_datagrams_that_were_dropped_is_heard() {
    let world = World::new(1);
    let phone = phone(world.udp());
    let port = phone.local_addr().expect("bound").port();
    for number in 0..20 {
        phone.send(b"\r\n\r\n").expect("sent");
        let end = clock::now().instant + PATIENCE;
        while world.counted("restante_udp_datagrams_dropped_total") <= number as u64 {
            assert!(clock::now().instant < end, "it is dropped in time");
            std::thread::yield_now();
        }
        phone
            .send(numbered(number, port, "x").as_bytes())
            .expect("sent");
        assert!(hears(&phone).starts_with("SIP/2.0 200 "));
    }
}

#[test]
fn messages_over_tcp_arrive_octet_by_octet_and_pipelined() {
    let world = World::new(2);
    let mut line = line(world.tcp());
    for octet in message(1, 5060, "TCP", "one by one").bytes() {
        line.write_all(&[octet]).expect("sent");
    }
    let one = reads(&mut line, |got| got.ends_with(b"\r\n\r\n"));
    assert_eq!(count(&one, "SIP/2.0 200 OK"), 1);
    let many: String = (0..100)
        .map(|user| message(user, 5060, "TCP", "x"))
        .collect();
    line.write_all(many.as_bytes()).expect("sent");
    let answers = reads(&mut line, |got| count(got, "CSeq: 1 MESSAGE") == 100);
    assert_eq!(count(&answers, "SIP/2.0 200 OK"), 100);
}

#[test]
fn a_double_crlf_is_answered_by_a_single_one() {
    let world = World::new(1);
    let mut line = line(world.tcp());
    line.write_all(b"\r\n\r\n").expect("sent");
    assert_eq!(reads(&mut line, |got| got.len() >= 2), b"\r\n");
    line.write_all(b"\r\n\r\n").expect("sent");
    assert_eq!(reads(&mut line, |got| got.len() >= 2), b"\r\n");
}

#[test]
fn a_stream_that_makes_no_sense_is_closed_and_its_shards_hear_of_it() {
    let world = World::new(4);
    let mut line = line(world.tcp());
    let request = message(2, 5060, "TCP", "x");
    line.write_all(request.as_bytes()).expect("sent");
    reads(&mut line, |got| count(got, "\r\n\r\n") == 1);
    line.write_all(b"MESSAGE sip:2@im.test SIP/2.0\r\nContent-Length: x\r\n\r\n")
        .expect("sent");
    assert!(is_closed(&mut line));
    let flow = world.sees(|shard, input| match input {
        Input::FlowLost { flow } => Some((shard, *flow)),
        _ => None,
    });
    assert_eq!(flow.0, 2);
    assert_eq!(flow.1.remote, line.local_addr().expect("bound"));
    assert!(flow.1.connection.is_some());
}

#[test]
fn a_peer_that_does_not_read_loses_its_connection() {
    let world = World::new(2);
    let mut line = line(world.tcp());
    let request = message(1, 5060, "TCP", "flood 400 100000");
    line.write_all(request.as_bytes()).expect("sent");
    let lost = world.sees(|_, input| match input {
        Input::FlowLost { flow } => flow.connection,
        _ => None,
    });
    assert_eq!(
        world.counted("restante_sip_handed_over_total") > 0,
        lost.shard() != 1
    );
    assert!(is_closed(&mut line));
}

#[test]
fn accepting_pauses_at_the_limit_of_connections_and_resumes() {
    let world = World::with(1, |config| config.limits.connections = 2).expect("it starts");
    let mut lines: Vec<_> = (0..3).map(|_| line(world.tcp())).collect();
    for line in &mut lines {
        line.write_all(b"\r\n\r\n").expect("sent");
    }
    // Which one waits is the kernel's choice; the first two in its queue are in.
    for line in &mut lines[..2] {
        assert_eq!(reads(line, |got| got.len() >= 2), b"\r\n");
    }
    assert_eq!(world.counted("restante_connections"), 2);
    drop(lines.remove(0));
    assert_eq!(reads(&mut lines[1], |got| got.len() >= 2), b"\r\n");
}

#[test]
fn a_message_to_an_address_opens_one_connection_and_its_loss_is_told() {
    let world = World::new(2);
    let peer = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = peer.local_addr().expect("bound");
    let phone = phone(world.udp());
    // Two shards, one connection.
    asks(&phone, 0, &format!("send {address} 3"));
    asks(&phone, 1, &format!("send {address} 3"));
    let (mut line, _) = peer.accept().expect("accepted");
    line.set_read_timeout(Some(PATIENCE)).expect("set");
    let got = reads(&mut line, |got| count(got, "OPTIONS") == 6);
    assert_eq!(count(&got, "\r\n\r\n"), 6);
    drop(line);
    let mut shards = BTreeSet::new();
    while shards.len() < 2 {
        shards.insert(world.sees(|shard, input| match input {
            Input::FlowLost { flow } if flow.remote == address && flow.connection.is_none() => {
                Some(shard)
            }
            _ => None,
        }));
    }
}

#[test]
fn an_address_that_refuses_is_a_lost_flow() {
    let world = World::new(1);
    let closed = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = closed.local_addr().expect("bound");
    drop(closed);
    let phone = phone(world.udp());
    asks(&phone, 0, &format!("send {address} 1"));
    let lost = world.sees(|_, input| match input {
        Input::FlowLost { flow } => Some(*flow),
        _ => None,
    });
    assert_eq!((lost.remote, lost.connection), (address, None));
}

fn send(session: &str, transaction: &str, body: &str) -> String {
    format!(
        "MSRP {transaction} SEND\r\nTo-Path: msrp://127.0.0.1:2855/{session};tcp\r\n\
         From-Path: msrp://127.0.0.1:9/far;tcp\r\nMessage-ID: m{transaction}\r\n\
         Byte-Range: 1-{length}/{length}\r\nContent-Type: text/plain\r\n\r\n\
         {body}\r\n-------{transaction}$\r\n",
        length = body.len(),
    )
}

#[test]
fn frames_go_to_the_shard_of_their_session_and_stay_whole() {
    let world = World::new(4);
    let mut tokens = Tokens::from_seed(1);
    let mut line = line(world.msrp());
    for shard in [3, 0, 2, 1, 2] {
        let session = new_session_id(shard, &mut tokens);
        let frame = send(&session, "abcd1234", &"x".repeat(100_000));
        line.write_all(frame.as_bytes()).expect("sent");
        let (mut begun, mut octets) = (false, 0);
        world.sees(|seen, input| {
            let Input::Msrp { events, .. } = input else {
                return None;
            };
            assert_eq!(seen, shard);
            for event in events {
                match event {
                    FrameEvent::Request(_) => begun = true,
                    FrameEvent::Data(data) => octets += data.len(),
                    FrameEvent::End(_) => return Some(()),
                    FrameEvent::Response(_) => panic!("not a response"),
                }
            }
            None
        });
        assert!(begun);
        assert_eq!(octets, 100_000);
    }
    let transaction = new_transaction_id(3, &mut tokens);
    let response = format!(
        "MSRP {transaction} 200 OK\r\nTo-Path: msrp://127.0.0.1:2855/x;tcp\r\n\
         From-Path: msrp://127.0.0.1:9/far;tcp\r\n-------{transaction}$\r\n"
    );
    line.write_all(response.as_bytes()).expect("sent");
    let shard = world.sees(|shard, input| match input {
        Input::Msrp { events, .. } if matches!(events[..], [FrameEvent::Response(_)]) => {
            Some(shard)
        }
        _ => None,
    });
    assert_eq!(shard, 3);
    drop(line);
    let mut shards = BTreeSet::new();
    while shards.len() < 4 {
        shards.insert(world.sees(|shard, input| match input {
            Input::MsrpLost { .. } => Some(shard),
            _ => None,
        }));
    }
}

fn ends(events: &[FrameEvent]) -> bool {
    matches!(events.last(), Some(FrameEvent::End(_)))
}

#[test]
fn a_frame_for_an_unknown_session_goes_to_the_shard_that_accepted() {
    let world = World::new(4);
    let mut line = line(world.msrp());
    for session in ["nobody", "77.abcdefgh"] {
        line.write_all(send(session, "abcd1234", "x").as_bytes())
            .expect("sent");
        let (shard, connection) = world.sees(|shard, input| match input {
            Input::Msrp { connection, events } if ends(events) => Some((shard, *connection)),
            _ => None,
        });
        assert_eq!(shard, connection.shard());
    }
    line.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sent");
    assert!(is_closed(&mut line));
    assert_eq!(world.counted("restante_msrp_malformed_total"), 1);
}

#[test]
fn msrp_connections_are_opened_once_for_an_address() {
    let world = World::new(2);
    let peer = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = peer.local_addr().expect("bound");
    let phone = phone(world.udp());
    let mut connected = BTreeSet::new();
    for user in [0, 1, 0] {
        asks(&phone, user, &format!("connect {address}"));
        connected.insert(world.sees(|shard, input| match input {
            Input::MsrpConnected {
                attempt: Attempt(7),
                connection,
            } => {
                assert_eq!(u32::from(shard), user);
                Some(*connection)
            }
            _ => None,
        }));
    }
    assert_eq!(connected.len(), 1);
    let (line, _) = peer.accept().expect("accepted");
    drop((line, peer));
    for _ in 0..2 {
        world.sees(|_, input| matches!(input, Input::MsrpLost { .. }).then_some(()));
    }
    asks(&phone, 0, &format!("connect {address}"));
    world.sees(|_, input| matches!(input, Input::MsrpUnreachable { .. }).then_some(()));
}

/// A server whose shards 0 and 1 are connected with a peer, and the peer's end.
fn connected() -> (World, UdpSocket, TcpStream) {
    let world = World::new(2);
    let peer = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = peer.local_addr().expect("bound");
    let phone = phone(world.udp());
    for user in [0, 1] {
        asks(&phone, user, &format!("connect {address}"));
        world.sees(|_, input| matches!(input, Input::MsrpConnected { .. }).then_some(()));
    }
    let (line, _) = peer.accept().expect("accepted");
    line.set_read_timeout(Some(PATIENCE)).expect("set");
    (world, phone, line)
}

#[test]
fn what_left_on_an_msrp_connection_is_reported_to_the_shard_that_sent_it() {
    let (world, phone, mut line) = connected();
    asks(&phone, 0, "pour 10 10000");
    asks(&phone, 1, "pour 20 10000");
    let got = reads(&mut line, |got| got.len() >= 300_000);
    assert_eq!(got.len(), 300_000);
    let mut written = [0, 0];
    while written != [100_000, 200_000] {
        let (shard, octets) = world.sees(|shard, input| match input {
            Input::MsrpWritten { octets, .. } => Some((shard, *octets)),
            _ => None,
        });
        written[usize::from(shard)] += octets;
        assert!(written[0] <= 100_000 && written[1] <= 200_000);
    }
}

#[test]
fn an_msrp_connection_ends_after_its_last_octet_when_no_shard_needs_it() {
    let (_world, phone, mut line) = connected();
    asks(&phone, 0, "close");
    hears_all(&phone, 3);
    asks(&phone, 1, "pour 20 10000");
    asks(&phone, 1, "close");
    let mut got = Vec::new();
    line.read_to_end(&mut got).expect("an orderly end");
    assert_eq!(got.len(), 200_000);
}

#[test]
fn an_msrp_peer_that_does_not_read_loses_its_connection() {
    let (world, phone, mut line) = connected();
    asks(&phone, 0, "pour 400 100000");
    let mut shards = BTreeSet::new();
    while shards.len() < 2 {
        shards.insert(world.sees(|shard, input| match input {
            Input::MsrpLost { .. } => Some(shard),
            _ => None,
        }));
    }
    assert!(is_closed(&mut line));
    assert!(world.counted("restante_connection_overflows_total") > 0);
}

#[test]
fn messages_between_shards_arrive_in_order_even_when_there_are_many() {
    let world = World::with(2, |config| config.limits.inbox = 8).expect("it starts");
    let phone = phone(world.udp());
    asks(&phone, 0, "forward 1 5000");
    for expected in 0..5000 {
        let number = world.sees(|shard, input| match input {
            Input::Internal(message) => match &**message {
                InternalMessage::Accepted { number, .. } => {
                    assert_eq!(shard, 1);
                    Some(*number)
                }
                _ => None,
            },
            _ => None,
        });
        assert_eq!(number, expected);
    }
    asks(&phone, 0, "forward 0 1");
    let shard = world.sees(|shard, input| matches!(input, Input::Internal(_)).then_some(shard));
    assert_eq!(shard, 0);
}

#[test]
fn host_names_are_looked_up() {
    let world = World::new(1);
    let phone = phone(world.udp());
    asks(&phone, 0, "resolve localhost");
    let addresses = world.sees(|_, input| match input {
        Input::Resolved {
            attempt: Attempt(8),
            addresses,
        } => Some(addresses.clone()),
        _ => None,
    });
    assert!(!addresses.is_empty());
    assert!(addresses.iter().all(|address| address.port() == 9));
}

#[test]
fn a_deadline_of_the_core_rings() {
    let world = World::new(1);
    let phone = phone(world.udp());
    asks(&phone, 0, "ring 20");
    assert!(hears(&phone).starts_with("SIP/2.0 200 "));
}

#[test]
fn a_shard_with_nothing_to_do_does_nothing() {
    let world = World::new(1);
    let phone = phone(world.udp());
    for user in 0..10 {
        asks(&phone, user, "hello");
        hears(&phone);
    }
    asks(&phone, 0, "ring 100");
    hears(&phone);
    let turns = world.counted("restante_shard_turns_total");
    assert!((10..100).contains(&turns), "{turns} turns");
}

#[test]
fn a_flood_of_datagrams_starves_neither_connections_nor_timers() {
    let world = World::new(1);
    let mut line = line(world.tcp());
    let flood = phone(world.udp());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let port = flood.local_addr().expect("bound").port();
            let request = message(0, port, "UDP", "hello");
            while !done.load(Ordering::Relaxed) {
                // The kernel may have no room; that is what a flood is.
                let _ = flood.send(request.as_bytes());
            }
        });
        for _ in 0..20 {
            line.write_all(b"\r\n\r\n").expect("sent");
            assert_eq!(reads(&mut line, |got| got.len() >= 2), b"\r\n");
        }
        line.write_all(message(1, 5060, "TCP", "ring 5").as_bytes())
            .expect("sent");
        reads(&mut line, |got| count(got, "SIP/2.0 200 OK") == 1);
        done.store(true, Ordering::Relaxed);
    });
}

/// Becomes `true` when it is dropped: after a failure too nobody goes on for ever.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Asks again for each answer, so that so many requests are always under way, until `done`; tells of each that
/// was refused.
fn keeps_asking(phone: &UdpSocket, under_way: usize, done: &AtomicBool, refused: &Sender<()>) {
    let port = phone.local_addr().expect("bound").port();
    let asks = |number| phone.send(numbered(number, port, "work 150").as_bytes());
    let mut answer = [0; 2_048];
    for number in 0.. {
        if number >= under_way {
            let length = phone.recv(&mut answer).expect("an answer");
            if answer[..length].starts_with(b"SIP/2.0 503 ") {
                // Who counts has heard enough.
                let _ = refused.send(());
            }
        }
        if done.load(Ordering::Relaxed) {
            break;
        }
        asks(number).expect("sent");
    }
}

#[test]
fn strangers_who_fill_a_shard_do_not_keep_another_one_out() {
    let world = World::with(1, |config| {
        config.limits.trusted = Vec::new();
        (config.limits.source_rate, config.limits.unproven_rate) = (0, 0);
        config.limits.queue_delay = Period::millis(20);
    });
    let world = world.expect("the server starts");
    let from = |address: &str| {
        let phone = UdpSocket::bind((address, 0)).expect("bound");
        phone.connect(world.udp()).expect("connected");
        phone.set_read_timeout(Some(PATIENCE)).expect("set");
        phone
    };
    let done = AtomicBool::new(false);
    let (refused, refusals) = mpsc::channel();
    std::thread::scope(|scope| {
        for last in 2..6 {
            let phone = from(&format!("127.0.0.{last}"));
            let (done, refused) = (&done, refused.clone());
            scope.spawn(move || keeps_asking(&phone, 50, done, &refused));
        }
        let ends = Ends(&done);
        for _ in 0..500 {
            refusals.recv_timeout(PATIENCE).expect("one more");
        }
        assert!(world.counted("restante_sip_refused_total") >= 500);
        let phone = from("127.0.0.9");
        let port = phone.local_addr().expect("bound").port();
        let refused = (0..40).filter(|number| {
            let request = numbered(*number, port, "work 150");
            phone.send(request.as_bytes()).expect("sent");
            !hears(&phone).starts_with("SIP/2.0 200 ")
        });
        let refused = refused.count();
        drop(ends);
        assert_eq!(refused, 0, "of 40");
    });
}

#[test]
fn a_stop_drains_every_shard_and_writes_what_is_queued() {
    let world = World::new(3);
    let mut line = line(world.tcp());
    line.write_all(message(1, 5060, "TCP", "x").as_bytes())
        .expect("sent");
    world.sees(|_, input| matches!(input, Input::Sip { .. }).then_some(()));
    let World { running, told, .. } = world;
    running.stop();
    let drained = told
        .iter()
        .filter(|(_, input)| matches!(input, Input::Drain));
    assert_eq!(drained.count(), 3);
    let mut answer = String::new();
    line.read_to_string(&mut answer).expect("the end");
    assert!(answer.starts_with("SIP/2.0 200 OK"), "{answer}");
}

#[test]
fn a_listener_that_is_taken_is_named_and_is_a_configuration_error() {
    let taken = UdpSocket::bind("127.0.0.1:0").expect("bound");
    let listener = format!("udp://{}", taken.local_addr().expect("bound"));
    let refused = World::with(2, |config| {
        config.sip.listen = vec![listener.parse().expect("a listener")];
    });
    let error = refused.err().expect("it is taken");
    assert_eq!(error.exit_code(), 2);
    assert!(
        error
            .to_string()
            .starts_with(&format!("sip.listen: {listener} ")),
        "{error}"
    );
}

#[test]
fn a_data_folder_in_use_is_a_configuration_error() {
    let first = World::new(1);
    let folder = tempfile::tempdir().expect("a folder");
    let at = |config: &mut restante::config::Config| config.data_dir = folder.path().into();
    let second = World::with(1, at).expect("it starts");
    let error = World::with(1, at).err().expect("it is locked");
    assert_eq!(error.exit_code(), 2);
    first.running.stop();
    second.running.stop();
}
