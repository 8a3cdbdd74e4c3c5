//! The session descriptions the agents write and read: one `m=message` section (RFC 4975 §8).

use super::failure::Failure;
use super::msrp_agent::{MsrpEnd, MsrpSession};

/// Which side opens the MSRP connection (RFC 6135).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setup {
    /// The writer of the line connects.
    Active,
    /// The writer of the line listens.
    Passive,
    /// The writer leaves it to the other; offers only.
    ActPass,
}

impl Setup {
    fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Passive => "passive",
            Self::ActPass => "actpass",
        }
    }
}

/// A description with `a=setup` and a direction such as `sendrecv`.
pub fn description(end: &MsrpEnd, setup: Setup, direction: &str) -> String {
    let session = rand::random::<u32>();
    let (port, path, host) = (end.port(), end.path(), end.connection_address());
    let (protocol, fingerprint) = match end.tls() {
        Some(tls) => ("TCP/TLS/MSRP", format!("a=fingerprint:{}\r\n", tls.told)),
        None => ("TCP/MSRP", String::new()),
    };
    format!(
        "v=0\r\no=- {session} 1 IN {host}\r\ns=-\r\nc=IN {host}\r\nt=0 0\r\n\
         m=message {port} {protocol} *\r\n{fingerprint}\
         a=accept-types:message/cpim text/plain application/im-iscomposing+xml\r\n\
         a=accept-wrapped-types:*\r\na=path:{path}\r\na=setup:{}\r\na={direction}\r\n",
        setup.word()
    )
}

/// The value of an `a=` line; empty for one without a value, `None` if it is not there.
pub fn attribute<'a>(sdp: &'a str, name: &str) -> Option<&'a str> {
    sdp.lines().find_map(|line| {
        let line = line.strip_prefix("a=")?;
        match line.split_once(':') {
            Some((own, value)) => (own == name).then_some(value),
            None => (line == name).then_some(""),
        }
    })
}

/// The offerer's connection, by what the answer's `a=setup` says; absent means that the offerer
/// connects (RFC 4975 §8.1).
pub(super) fn connect_as_offerer(end: MsrpEnd, answer: &str) -> Result<MsrpSession, Failure> {
    let path = attribute(answer, "path").unwrap_or("");
    let end = end.expecting(attribute(answer, "fingerprint").unwrap_or(""));
    match attribute(answer, "setup") {
        Some("active") => end.accepts(path),
        _ => end.connects(path),
    }
}

/// The answerer's connection.
pub(super) fn connect_as_answerer(
    end: MsrpEnd,
    offer: &str,
    setup: Setup,
) -> Result<MsrpSession, Failure> {
    let path = attribute(offer, "path").unwrap_or("");
    let end = end.expecting(attribute(offer, "fingerprint").unwrap_or(""));
    match setup {
        Setup::Active => end.connects(path),
        Setup::Passive | Setup::ActPass => end.accepts(path),
    }
}
