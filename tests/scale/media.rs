//! Many MSRP sessions with users who are away: the server takes what they send.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use super::load::field;

/// How long one step of a session may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// One session, its author's side.
pub struct Session {
    stream: TcpStream,
    to: String,
    from: String,
    message: String,
    number: u64,
    sent: usize,
}

/// Calls a user who is away; `None` if the server refuses with 503.
pub fn open(server: SocketAddr, number: u64) -> Option<Session> {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bound");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let port = socket.local_addr().expect("bound").port();
    let from = format!("msrp://127.0.0.1:9/s{number}x{port};tcp");
    let offer = format!(
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
         m=message 9 TCP/MSRP *\r\na=accept-types:message/cpim\r\na=accept-wrapped-types:*\r\n\
         a=path:{from}\r\na=setup:active\r\na=sendrecv\r\n"
    );
    let head = |method: &str, to_tag: &str, uri: &str| {
        format!(
            "{method} {uri} SIP/2.0\r\n\
             Via: SIP/2.0/UDP 127.0.0.1:{port};branch=z9hG4bK-{method}{number}x{port};rport\r\n\
             Max-Forwards: 70\r\nFrom: <sip:caller{number}@im.test>;tag=c\r\n\
             To: <sip:chatter{number}@im.test>{to_tag}\r\nCall-ID: call{number}x{port}\r\n\
             CSeq: 1 {method}\r\nContact: <sip:caller{number}@127.0.0.1:{port}>\r\n"
        )
    };
    let uri = format!("sip:chatter{number}@im.test");
    let invite = format!(
        "{}Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{offer}",
        head("INVITE", "", &uri),
        offer.len()
    );
    socket.send_to(invite.as_bytes(), server).expect("sent");
    let answer = loop {
        let mut octets = [0; 8192];
        let length = socket.recv(&mut octets).expect("an answer");
        let text = String::from_utf8_lossy(&octets[..length]).into_owned();
        match &text[..11] {
            "SIP/2.0 200" => break text,
            "SIP/2.0 503" => return None,
            provisional if provisional.starts_with("SIP/2.0 1") => {}
            _ => panic!("not taken: {text}"),
        }
    };
    let tag = field(&answer, "To").rsplit_once(";tag=").expect("a tag").1;
    let contact = field(&answer, "Contact");
    let contact = contact
        .trim_start_matches('<')
        .split('>')
        .next()
        .expect("a URI");
    let ack = head("ACK", &format!(";tag={tag}"), contact);
    let ack = format!("{ack}Content-Length: 0\r\n\r\n");
    socket.send_to(ack.as_bytes(), server).expect("sent");
    let path = answer.lines().find_map(|line| line.strip_prefix("a=path:"));
    let to = path.expect("a path").trim().to_owned();
    let address = to
        .trim_start_matches("msrp://")
        .split('/')
        .next()
        .expect("a host");
    let stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    Some(Session {
        stream,
        to,
        from,
        message: String::new(),
        number,
        sent: 0,
    })
}

impl Session {
    /// Begins a message of this many octets in all and sends the first `first` of it.
    pub fn begin(&mut self, length: usize, first: usize) {
        let (number, head) = (
            self.number,
            "From: <sip:c@im.test>\r\nTo: <sip:d@im.test>\r\n",
        );
        let text = format!(
            "{head}DateTime: 2026-01-01T00:00:00Z\r\n\r\nContent-Type: text/plain\r\n\r\n\
             number={number} "
        );
        self.message = format!("{text}{}", "y".repeat(length - text.len()));
        self.chunk(first, '+').expect("the first chunk is taken");
    }

    /// Sends the rest; what came instead of its 200.
    pub fn finish(&mut self) -> Result<(), String> {
        self.chunk(self.message.len(), '$')
    }

    fn chunk(&mut self, end: usize, flag: char) -> Result<(), String> {
        let transaction = format!("t{}x{}", self.number, self.sent);
        let total = self.message.len();
        let frame = format!(
            "MSRP {transaction} SEND\r\nTo-Path: {}\r\nFrom-Path: {}\r\nMessage-ID: m{}\r\n\
             Byte-Range: {}-{end}/{total}\r\nContent-Type: message/cpim\r\n\r\n{}\r\n\
             -------{transaction}{flag}\r\n",
            self.to,
            self.from,
            self.number,
            self.sent + 1,
            &self.message[self.sent..end]
        );
        self.sent = end;
        let sent = self.stream.write_all(frame.as_bytes());
        sent.map_err(|error| format!("not sent: {error}"))?;
        let wanted = format!("MSRP {transaction} 200");
        let mut got = String::new();
        let mut octets = [0; 4096];
        while !got.contains(&format!("-------{transaction}$")) {
            match self.stream.read(&mut octets) {
                Ok(0) => return Err(format!("the end of the connection after {got:?}")),
                Err(error) => return Err(format!("{error} after {got:?}")),
                Ok(length) => got.push_str(&String::from_utf8_lossy(&octets[..length])),
            }
        }
        got.contains(&wanted).then_some(()).ok_or(got)
    }
}
