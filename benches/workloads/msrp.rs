//! Ends of MSRP sessions on non-blocking sockets (RFC 4975): those that send, a window of chunks at a time,
//! and those that answer.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use memchr::memmem;
use restante::clock::{self, Instant};

use super::phones::Arrivals;
use super::sys::{Wish, wait};
use super::tally::{Tally, Until};
use super::texts;

/// Octets that are read at once.
const READ: usize = 256 * 1024;
/// Chunks are written while less than this waits for the socket.
const AHEAD: usize = 512 * 1024;
/// How long nothing may happen.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(20);

/// One end of a session.
pub struct Leg {
    stream: TcpStream,
    into: Vec<u8>,
    out: Vec<u8>,
    to: String,
    from: String,
}

/// A frame as it came.
struct Frame<'f> {
    transaction: &'f [u8],
    /// `SEND`, or the status of an answer.
    what: &'f [u8],
    body: &'f [u8],
}

impl Leg {
    /// Connects; `to` and `from` are the paths. The first frame, which binds the connection to the session,
    /// leaves with the first look.
    pub fn new(address: SocketAddr, to: String, from: String) -> Self {
        let stream = TcpStream::connect(address).expect("connected");
        stream.set_nodelay(true).expect("set");
        stream.set_nonblocking(true).expect("set");
        let mut leg = Self {
            stream,
            into: Vec::new(),
            out: Vec::new(),
            to,
            from,
        };
        leg.write_send("bind0000", "bind0000", "1-0/0", None, b'$');
        leg
    }

    fn write_send(
        &mut self,
        transaction: &str,
        message: &str,
        range: &str,
        content: Option<&[u8]>,
        flag: u8,
    ) {
        let (to, from) = (&self.to, &self.from);
        let head = format!(
            "MSRP {transaction} SEND\r\nTo-Path: {to}\r\nFrom-Path: {from}\r\n\
             Message-ID: {message}\r\nByte-Range: {range}\r\n"
        );
        self.out.extend_from_slice(head.as_bytes());
        if let Some(content) = content {
            let field = b"Content-Type: message/cpim\r\n\r\n";
            self.out.extend_from_slice(field);
            self.out.extend_from_slice(content);
            self.out.extend_from_slice(b"\r\n");
        }
        self.write_end(transaction.as_bytes(), flag);
    }

    fn write_end(&mut self, transaction: &[u8], flag: u8) {
        self.out.extend_from_slice(b"-------");
        self.out.extend_from_slice(transaction);
        self.out.extend_from_slice(&[flag, b'\r', b'\n']);
    }

    fn write_ok(&mut self, transaction: &[u8]) {
        self.out.extend_from_slice(b"MSRP ");
        self.out.extend_from_slice(transaction);
        let paths = format!(
            " 200 OK\r\nTo-Path: {}\r\nFrom-Path: {}\r\n",
            self.to, self.from
        );
        self.out.extend_from_slice(paths.as_bytes());
        self.write_end(transaction, b'$');
    }

    fn wish(&self) -> Wish<'_> {
        Wish {
            socket: self.stream.as_fd(),
            to_write: !self.out.is_empty(),
        }
    }

    /// Writes what there is room for, and reads what has come.
    fn exchange(&mut self, buffer: &mut [u8]) {
        self.flush();
        match self.stream.read(buffer) {
            Ok(0) => panic!("the connection was closed"),
            Ok(length) => self.into.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("the connection broke: {error}"),
        }
    }

    fn flush(&mut self) {
        let mut sent = 0;
        while sent < self.out.len() {
            match self.stream.write(&self.out[sent..]) {
                Ok(length) => sent += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("the connection broke: {error}"),
            }
        }
        self.out.drain(..sent);
    }

    /// What has come whole, one after the other. Requests are answered; `each` gets the frame's word after the
    /// transaction, the transaction and the content.
    fn take(&mut self, mut each: impl FnMut(&[u8], &[u8], &[u8])) -> usize {
        let into = std::mem::take(&mut self.into);
        let (mut at, mut count) = (0, 0);
        while let Some((frame, length)) = cut(&into[at..]) {
            if frame.what == b"SEND" {
                self.write_ok(frame.transaction);
            }
            each(frame.what, frame.transaction, frame.body);
            at += length;
            count += 1;
        }
        self.into = into;
        self.into.drain(..at);
        count
    }
}

/// The first frame, if it is whole, and its length.
fn cut(octets: &[u8]) -> Option<(Frame<'_>, usize)> {
    let line_end = memchr::memchr(b'\n', octets)?;
    let line = octets[..line_end].strip_suffix(b"\r")?;
    let mut words = line.split(|octet| *octet == b' ').skip(1);
    let (transaction, what) = (words.next()?, words.next()?);
    let mut end_line = [b'-'; 7 + 32];
    let end_line = &mut end_line[..7 + transaction.len()];
    end_line[7..].copy_from_slice(transaction);
    let rest = &octets[line_end + 1..];
    let end = memmem::find(rest, end_line)?;
    let length = line_end + 1 + end + end_line.len() + 3;
    if octets.len() < length {
        return None;
    }
    let body = match memmem::find(&rest[..end], b"\r\n\r\n") {
        Some(head) => &rest[head + 4..end.saturating_sub(2)],
        None => &[],
    };
    let frame = Frame {
        transaction,
        what,
        body,
    };
    Some((frame, length))
}

/// A message of which not all chunks are confirmed.
struct Message {
    number: u64,
    content: Vec<u8>,
    sent: usize,
    unconfirmed: usize,
    began: Instant,
}

/// Who sends, and if the other side is there, who receives.
pub struct Session {
    author: Leg,
    device: Option<Leg>,
    /// Messages on their way, oldest first.
    open: VecDeque<Message>,
    /// The message of each chunk without an answer.
    chunks: Vec<(u64, u64)>,
    next_chunk: u64,
}

/// How much is sent at a time.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Octets of a message, at least those of its envelope.
    pub size: usize,
    pub chunk: usize,
    /// Chunks without an answer.
    pub window: usize,
}

/// What came of it.
pub struct Exchanged {
    pub tally: Tally,
    /// Octets of content that the devices got.
    pub octets: u64,
}

impl Session {
    /// A session whose connections stand; both ends are bound when this returns.
    pub fn new(author: Leg, device: Option<Leg>) -> Self {
        let mut session = Self {
            author,
            device,
            open: VecDeque::new(),
            chunks: Vec::new(),
            next_chunk: 0,
        };
        session.bind();
        session
    }

    fn bind(&mut self) {
        let mut buffer = vec![0; READ];
        let mut bound = 0;
        let wanted = 1 + usize::from(self.device.is_some());
        let deadline = clock::now().instant + PATIENCE;
        while bound < wanted {
            assert!(clock::now().instant < deadline, "both ends are bound");
            wait(&self.wishes(), LOOK);
            for leg in std::iter::once(&mut self.author).chain(&mut self.device) {
                leg.exchange(&mut buffer);
                leg.take(|what, _, _| bound += usize::from(what == b"200"));
            }
        }
        self.flush();
    }

    fn wishes(&self) -> Vec<Wish<'_>> {
        let legs = std::iter::once(&self.author).chain(&self.device);
        legs.map(Leg::wish).collect()
    }

    fn flush(&mut self) {
        self.author.flush();
        if let Some(device) = &mut self.device {
            device.flush();
        }
    }

    /// Begins messages and chunks as far as the window lets it.
    fn fill(&mut self, shape: Shape, mut begin: impl FnMut() -> Option<Message>) {
        while self.chunks.len() < shape.window && self.author.out.len() < AHEAD {
            if self
                .open
                .back()
                .is_none_or(|it| it.sent == it.content.len())
            {
                let Some(message) = begin() else { return };
                self.open.push_back(message);
            }
            self.send_chunk(shape.chunk);
        }
    }

    fn send_chunk(&mut self, chunk: usize) {
        let Some(message) = self.open.back_mut() else {
            return;
        };
        let (first, whole) = (message.sent, message.content.len());
        let last = (first + chunk).min(whole);
        let flag = if last == whole { b'$' } else { b'+' };
        self.next_chunk += 1;
        self.chunks.push((self.next_chunk, message.number));
        self.author.write_send(
            &format!("load{:08}", self.next_chunk),
            &format!("message{:08}", message.number),
            &format!("{}-{last}/{whole}", first + 1),
            Some(&message.content[first..last]),
            flag,
        );
        message.sent = last;
        message.unconfirmed += 1;
    }

    /// Reads, answers, and counts what is confirmed.
    fn look(&mut self, buffer: &mut [u8], out: &mut Exchanged) {
        if let Some(device) = &mut self.device {
            device.exchange(buffer);
            device.take(|_, _, body| out.octets += body.len() as u64);
            device.flush();
        }
        self.author.exchange(buffer);
        let mut answers = Vec::new();
        self.author.take(|what, transaction, _| {
            let number = transaction.strip_prefix(b"load").and_then(texts::digits);
            let status = texts::digits(what).map(|(status, _)| status);
            answers.extend(
                number
                    .zip(status)
                    .map(|((number, _), status)| (number, status)),
            );
        });
        for (chunk, status) in answers {
            self.confirm(chunk, status, &mut out.tally);
        }
    }

    fn confirm(&mut self, chunk: u64, status: u64, tally: &mut Tally) {
        let Some(index) = self.chunks.iter().position(|(known, _)| *known == chunk) else {
            return;
        };
        let (_, number) = self.chunks.swap_remove(index);
        if status != 200 {
            let status = u16::try_from(status).unwrap_or_default();
            *tally.refused.entry(status).or_default() += 1;
        }
        let Some(message) = self.open.iter_mut().find(|it| it.number == number) else {
            return;
        };
        message.unconfirmed -= 1;
        if message.unconfirmed == 0 && message.sent == message.content.len() {
            tally.count(message.began);
            self.open.retain(|it| it.number != number);
        }
    }
}

/// Sends messages in all sessions until there are enough, and waits until all are confirmed.
/// `content` makes one, of a number.
pub fn send(
    sessions: &mut [Session],
    shape: Shape,
    until: Until,
    mut content: impl FnMut(u64) -> Vec<u8>,
) -> Exchanged {
    let mut out = Exchanged {
        tally: Tally::default(),
        octets: 0,
    };
    let mut buffer = vec![0; READ];
    let end = clock::now().instant + until.time;
    loop {
        let now = clock::now().instant;
        assert!(now < end + PATIENCE, "all is confirmed in time");
        for session in sessions.iter_mut() {
            session.fill(shape, || {
                if now >= end || out.tally.asked >= until.count {
                    return None;
                }
                out.tally.asked += 1;
                Some(Message {
                    number: out.tally.asked,
                    content: content(out.tally.asked),
                    sent: 0,
                    unconfirmed: 0,
                    began: now,
                })
            });
            session.flush();
        }
        if sessions.iter().all(|session| session.open.is_empty()) {
            return out;
        }
        let wishes: Vec<Wish<'_>> = sessions.iter().flat_map(Session::wishes).collect();
        wait(&wishes, LOOK);
        for session in sessions.iter_mut() {
            session.look(&mut buffer, &mut out);
        }
    }
}

/// A device takes a replay: answers until so many messages have come.
pub fn receive(leg: &mut Leg, count: usize, arrivals: &mut Arrivals) {
    let mut buffer = vec![0; READ];
    let mut deadline = clock::now().instant + PATIENCE;
    while arrivals.at.len() < count {
        assert!(clock::now().instant < deadline, "the replay goes on");
        wait(&[leg.wish()], LOOK);
        leg.exchange(&mut buffer);
        let frames = leg.take(|what, _, body| {
            let number = texts::message_number(body).filter(|_| what == b"SEND");
            number.into_iter().for_each(|number| arrivals.count(number));
        });
        leg.flush();
        if frames > 0 {
            deadline = clock::now().instant + PATIENCE;
        }
    }
}
