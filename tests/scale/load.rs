//! Thousands of phones on one socket: requests in a window, answers counted, deliveries answered.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use restante::clock::{self, Instant};

/// A request is sent again after this, and given up after so many times.
const AGAIN: Duration = Duration::from_secs(2);
const TIMES: u32 = 20;

/// How the answers were.
#[derive(Debug, Default)]
pub struct Tally {
    /// By status.
    pub statuses: HashMap<u16, usize>,
    /// Never answered.
    pub silent: usize,
    /// 503 without Retry-After.
    pub bare: usize,
}

impl Tally {
    pub fn of(&self, status: u16) -> usize {
        self.statuses.get(&status).copied().unwrap_or_default()
    }
}

/// Writes requests of phones at this port.
#[derive(Clone, Copy)]
pub struct Texts {
    port: u16,
}

impl Texts {
    /// For phones at this port.
    pub fn of_port(port: u16) -> Self {
        Self { port }
    }

    /// A request of a user, ready to be sent.
    pub fn request(self, method: &str, from: &str, to: &str, fields: &str, body: &str) -> String {
        let port = self.port;
        let uri = match method {
            "REGISTER" => "sip:im.test".to_owned(),
            _ => format!("sip:{to}@im.test"),
        };
        format!(
            "{method} {uri} SIP/2.0\r\n\
             Via: SIP/2.0/UDP 127.0.0.1:{port};branch=z9hG4bK-NUMBER;rport\r\n\
             Max-Forwards: 70\r\n\
             From: <sip:{from}@im.test>;tag=NUMBER\r\n\
             To: <sip:{to}@im.test>\r\n\
             Call-ID: NUMBER@{port}\r\n\
             CSeq: 1 {method}\r\n\
             {fields}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    /// A REGISTER of a user whose phone is this socket.
    pub fn register(self, user: &str, expires: u32) -> String {
        self.register_more(user, expires, 0)
    }

    /// The same, with a Contact that is so many octets longer than it need be.
    pub fn register_more(self, user: &str, expires: u32, more: usize) -> String {
        let contact = format!(
            "Contact: <sip:{user}@127.0.0.1:{};more={}x>;+sip.instance=\"<urn:uuid:{user}>\"\r\n\
             Expires: {expires}\r\n",
            self.port,
            "m".repeat(more)
        );
        self.request("REGISTER", user, user, &contact, "")
    }

    /// A MESSAGE whose body is a number.
    pub fn message(self, from: &str, to: &str, number: u64) -> String {
        let body = format!("number={number} {}", "x".repeat(120));
        self.request("MESSAGE", from, to, "Content-Type: text/plain\r\n", &body)
    }
}

/// See the module's text.
pub struct Phones {
    socket: UdpSocket,
    server: SocketAddr,
    next: u64,
    open: HashMap<u64, (Instant, u32, String, u64)>,
    /// What arrived at the phones: how often, by the number in the body.
    pub delivered: HashMap<u64, u32>,
    /// Answers to requests by label: the last status.
    pub answers: HashMap<u64, u16>,
    pub tally: Tally,
}

impl Phones {
    pub fn new(server: SocketAddr) -> Self {
        let socket = socket();
        let patience = Duration::from_millis(20);
        socket.set_read_timeout(Some(patience)).expect("a timeout");
        Self {
            socket,
            server,
            next: 1,
            open: HashMap::new(),
            delivered: HashMap::new(),
            answers: HashMap::new(),
            tally: Tally::default(),
        }
    }

    /// Another socket that is connected with the server.
    pub fn another_socket(&self) -> UdpSocket {
        let socket = socket();
        socket.connect(self.server).expect("connected");
        socket
    }

    /// What writes their requests.
    pub fn texts(&self) -> Texts {
        let port = self.socket.local_addr().expect("bound").port();
        Texts { port }
    }

    /// Sends a request now and does not wait; `label` names it in `answers`.
    pub fn send(&mut self, request: &str, label: u64) {
        let number = self.next;
        self.next += 1;
        let text = request.replace("NUMBER", &number.to_string());
        self.transmit(&text);
        let now = clock::now().instant;
        self.open.insert(number, (now + AGAIN, 1, text, label));
    }

    fn transmit(&self, text: &str) {
        // What the kernel has no room for is sent again.
        let _ = self.socket.send_to(text.as_bytes(), self.server);
    }

    /// Sends all, `window` at a time, and waits for the answers.
    pub fn ask_all(&mut self, window: usize, requests: impl Iterator<Item = (u64, String)>) {
        for (label, request) in requests {
            while self.open.len() >= window {
                self.listen();
            }
            self.send(&request, label);
        }
        self.settle();
    }

    /// Waits until every request has been answered or given up.
    pub fn settle(&mut self) {
        while !self.open.is_empty() {
            self.listen();
        }
    }

    /// Takes what has come, and repeats what has not been answered.
    pub fn listen(&mut self) {
        let mut octets = [0; 65_536];
        for _ in 0..256 {
            match self.socket.recv_from(&mut octets) {
                Ok((length, from)) => {
                    let text = String::from_utf8_lossy(&octets[..length]).into_owned();
                    self.take(&text, from);
                }
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    break;
                }
                Err(_) => break,
            }
            if self.open.is_empty() {
                break;
            }
        }
        self.repeat();
    }

    fn repeat(&mut self) {
        let now = clock::now().instant;
        let due: Vec<u64> = (self.open.iter())
            .filter(|(_, (at, ..))| *at <= now)
            .map(|(number, _)| *number)
            .collect();
        for number in due {
            let Some((at, times, text, _)) = self.open.get_mut(&number) else {
                continue;
            };
            *at = now + AGAIN;
            *times += 1;
            if *times > TIMES {
                self.tally.silent += 1;
                self.open.remove(&number);
                continue;
            }
            let text = text.clone();
            self.transmit(&text);
        }
    }

    fn take(&mut self, text: &str, from: SocketAddr) {
        let Some(status) = text.strip_prefix("SIP/2.0 ") else {
            return self.serve(text, from);
        };
        let status: u16 = status[..3].parse().expect("a status");
        let number = field(text, "Call-ID").split('@').next().unwrap_or_default();
        let number: u64 = number.parse().unwrap_or_default();
        if status < 200 {
            return;
        }
        if let Some((_, _, _, label)) = self.open.remove(&number) {
            *self.tally.statuses.entry(status).or_default() += 1;
            self.answers.insert(label, status);
            if status == 503 && field(text, "Retry-After").is_empty() {
                self.tally.bare += 1;
            }
        }
    }

    /// A phone takes what is sent to it.
    fn serve(&mut self, text: &str, from: SocketAddr) {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        if head.starts_with("MESSAGE ") {
            let number = body.split_once("number=").map_or("", |(_, rest)| rest);
            let number = number.split(' ').next().unwrap_or_default();
            if let Ok(number) = number.parse() {
                *self.delivered.entry(number).or_default() += 1;
            }
        }
        let mut answer = "SIP/2.0 200 OK\r\n".to_owned();
        for line in head.split("\r\n").skip(1) {
            let name = line.split(':').next().unwrap_or_default();
            if ["Via", "From", "Call-ID", "CSeq"].contains(&name) {
                answer.push_str(line);
                answer.push_str("\r\n");
            } else if name == "To" {
                answer.push_str(line);
                answer.push_str(";tag=phone\r\n");
            }
        }
        answer.push_str("Content-Length: 0\r\n\r\n");
        let _ = self.socket.send_to(answer.as_bytes(), from);
    }
}

/// One with room for a burst.
fn socket() -> UdpSocket {
    let kind = socket2::Type::DGRAM;
    let socket = socket2::Socket::new(socket2::Domain::IPV4, kind, None).expect("a socket");
    socket.set_recv_buffer_size(4 << 20).expect("a buffer");
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    socket.bind(&any.into()).expect("bound");
    UdpSocket::from(socket)
}

/// The value of the first header field of this name.
pub fn field<'t>(text: &'t str, name: &str) -> &'t str {
    let lines = text.split("\r\n").take_while(|line| !line.is_empty());
    let mut fields = lines.filter_map(|line| line.split_once(':'));
    let found = fields.find(|(known, _)| known.eq_ignore_ascii_case(name));
    found.map_or("", |(_, value)| value.trim())
}
