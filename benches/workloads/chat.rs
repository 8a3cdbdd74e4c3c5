//! How chats begin: INVITE, answer and ACK of both sides, and their MSRP connections.

use std::net::SocketAddr;

use super::line::Line;
use super::msrp::{Leg, Session};
use super::phones::Phones;
use super::texts::{self, Call, SESSION, value};

/// A call to somebody who is away: the server answers in his place.
pub fn to_the_absent(phones: &mut Phones, server: SocketAddr, to: &str) -> Session {
    let mut calling = Calling::begin(phones, server, to);
    let author = calling.answered(&mut phones.authors, server);
    Session::new(author, None)
}

/// A call to somebody who is there, whose device this is.
pub fn to_the_present(phones: &mut Phones, server: SocketAddr, to: &str) -> Session {
    let mut calling = Calling::begin(phones, server, to);
    let device = take_call(&mut phones.devices, "sendrecv");
    let author = calling.answered(&mut phones.authors, server);
    Session::new(author, Some(device))
}

/// The device of a user registers.
pub fn register(phones: &mut Phones, server: SocketAddr, user: &str) {
    let number = phones.fresh();
    let text = texts::register(phones.devices.local(), user, SESSION, (number, 0), "");
    phones.devices.tell(server, text);
    let is_answer = |octets: &[u8]| texts::answered(octets).is_some_and(|it| it.1 == number);
    let answer = phones.devices.hear(is_answer);
    assert!(answer.octets.starts_with(b"SIP/2.0 200 "), "registered");
}

/// A device accepts the next call and connects.
pub fn take_call(devices: &mut Line, direction: &str) -> Leg {
    let invite = devices.hear(|octets| octets.starts_with(b"INVITE "));
    let text = String::from_utf8_lossy(&invite.octets).into_owned();
    let local = devices.local();
    let path = format!("msrp://127.0.0.1:9/device{};tcp", local.port());
    let contact = format!("Contact: <sip:device@{local}>\r\nContent-Type: application/sdp\r\n");
    let body = texts::description(&path, direction);
    let answer = texts::answer(&invite.octets, "200 OK", &contact, &body);
    devices.tell(invite.remote, answer);
    devices.hear(|octets| octets.starts_with(b"ACK "));
    connect(&text, path)
}

/// A device takes the end of a call.
pub fn take_bye(devices: &mut Line) {
    let bye = devices.hear(|octets| octets.starts_with(b"BYE "));
    let answer = texts::answer(&bye.octets, "200 OK", "", "");
    devices.tell(bye.remote, answer);
}

/// Connects to the path in a description.
fn connect(text: &str, from: String) -> Leg {
    let to = value(text, "a=path:").expect("a path").to_owned();
    let address = to.trim_start_matches("msrp://").split('/').next();
    let address = address.and_then(|it| it.parse().ok()).expect("an address");
    Leg::new(address, to, from)
}

/// A call that was not answered yet.
struct Calling {
    call: Call,
    path: String,
}

impl Calling {
    fn begin(phones: &mut Phones, server: SocketAddr, to: &str) -> Self {
        let number = phones.fresh();
        let path = format!("msrp://127.0.0.1:9/author{number:08};tcp");
        let call = Call {
            from: "author".to_owned(),
            to: to.to_owned(),
            number,
            to_tag: String::new(),
            target: format!("sip:{to}@im.test"),
        };
        let offer = texts::description(&path, "sendrecv");
        let invite = texts::dialog("INVITE", phones.authors.local(), &call, &offer);
        phones.authors.tell(server, invite);
        Self { call, path }
    }

    /// Hears the 200, acknowledges it and connects.
    fn answered(&mut self, authors: &mut Line, server: SocketAddr) -> Leg {
        let is_final =
            |octets: &[u8]| octets.starts_with(b"SIP/2.0 ") && !octets.starts_with(b"SIP/2.0 1");
        let answer = authors.hear(is_final);
        let text = String::from_utf8_lossy(&answer.octets).into_owned();
        assert!(text.starts_with("SIP/2.0 200 "), "not taken: {text}");
        let to = value(&text, "To:").expect("a To");
        self.call.to_tag = to.rfind(";tag=").map_or("", |at| &to[at..]).to_owned();
        let contact = value(&text, "Contact:").expect("a Contact");
        let target = contact.trim_start_matches('<').split('>').next();
        self.call.target = target.expect("a URI").to_owned();
        let ack = texts::dialog("ACK", authors.local(), &self.call, "");
        authors.tell(server, ack);
        connect(&text, self.path.clone())
    }
}
