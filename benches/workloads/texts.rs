//! What the phones say: the requests of a CPM client, about 1.2 kB with 18 header fields, their answers, and
//! the descriptions of MSRP sessions.

use std::net::SocketAddr;

use memchr::memmem;

/// The name of a request in its branch, before its number and step.
const MARK: &str = "z9hG4bK-load-";
/// The number of a message in its envelope stands behind this.
const MESSAGE_MARK: &str = "imdn.Message-ID: load-";
/// What a device registers with that takes messages; with `SESSION` it takes chats.
pub const MESSAGE: &str = "urn%3Aurn-7%3A3gpp-service.ims.icsi.oma.cpm.msg";
pub const SESSION: &str = "urn%3Aurn-7%3A3gpp-service.ims.icsi.oma.cpm.session";

/// A MESSAGE with a CPIM envelope that asks for receipts.
pub fn message(local: SocketAddr, from: &str, to: &str, number: u64) -> String {
    let body = envelope(from, to, number, 62, "positive-delivery, display");
    format!(
        "MESSAGE sip:{to}@im.test SIP/2.0\r\n\
         Via: SIP/2.0/UDP {local};branch={MARK}{number}-0;rport\r\n\
         Max-Forwards: 70\r\n\
         From: <sip:{from}@im.test>;tag=f{number}\r\n\
         To: <sip:{to}@im.test>\r\n\
         Call-ID: load{number}@{local}\r\n\
         CSeq: 1 MESSAGE\r\n\
         P-Asserted-Identity: <sip:{from}@im.test>\r\n\
         P-Asserted-Service: urn:urn-7:3gpp-service.ims.icsi.oma.cpm.msg\r\n\
         P-Access-Network-Info: 3GPP-E-UTRAN-FDD;utran-cell-id-3gpp=262070123456789a\r\n\
         P-Charging-Vector: icid-value=\"load.{number}\";orig-ioi=\"im.test\"\r\n\
         Accept-Contact: *;+g.3gpp.icsi-ref=\"{MESSAGE}\"\r\n\
         Request-Disposition: no-fork\r\n\
         Conversation-ID: f81d4fae-7dec-11d0-a765-{number:012}\r\n\
         Contribution-ID: 8fa24c01-93b1-4c5e-b5d2-{number:012}\r\n\
         Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, MESSAGE\r\n\
         User-Agent: CPM-client/OMA2.2 load/1.0\r\n\
         Content-Type: message/cpim\r\n\
         Content-Length: {}\r\n\
         \r\n\
         {body}",
        body.len()
    )
}

/// An envelope around so many octets of text.
pub fn envelope(from: &str, to: &str, number: u64, length: usize, receipts: &str) -> String {
    let text = "See you at the station at half past six, platform number nine. ";
    let text = text.repeat(length / text.len() + 1);
    format!(
        "From: <sip:{from}@im.test>\r\n\
         To: <sip:{to}@im.test>\r\n\
         DateTime: 2026-11-21T01:30:00.000Z\r\n\
         NS: imdn <urn:ietf:params:imdn>\r\n\
         {MESSAGE_MARK}{number:012}\r\n\
         imdn.Disposition-Notification: {receipts}\r\n\
         \r\n\
         Content-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {length}\r\n\
         \r\n\
         {}",
        &text[..length]
    )
}

/// A REGISTER of one contact; `authorization` is a header field line, or empty.
pub fn register(
    local: SocketAddr,
    user: &str,
    service: &str,
    (number, step): (u64, u8),
    authorization: &str,
) -> String {
    let sequence = number * 2 + u64::from(step) + 1;
    format!(
        "REGISTER sip:im.test SIP/2.0\r\n\
         Via: SIP/2.0/UDP {local};branch={MARK}{number}-{step};rport\r\n\
         Max-Forwards: 70\r\n\
         From: <sip:{user}@im.test>;tag=f{number}\r\n\
         To: <sip:{user}@im.test>\r\n\
         Call-ID: {user}@{local}\r\n\
         CSeq: {sequence} REGISTER\r\n\
         Contact: <sip:{user}@{local}>;+g.3gpp.icsi-ref=\"{service}\"\r\n\
         Expires: 3600\r\n\
         Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, MESSAGE\r\n\
         Supported: path, gruu\r\n\
         P-Access-Network-Info: 3GPP-E-UTRAN-FDD;utran-cell-id-3gpp=262070123456789a\r\n\
         User-Agent: CPM-client/OMA2.2 load/1.0\r\n\
         {authorization}Content-Length: 0\r\n\
         \r\n"
    )
}

/// An INVITE of a chat, or with an answer's To and Contact its ACK.
pub fn dialog(method: &str, local: SocketAddr, call: &Call, body: &str) -> String {
    let Call {
        from,
        to,
        number,
        to_tag,
        target,
    } = call;
    let content = match body {
        "" => "",
        _ => "Content-Type: application/sdp\r\n",
    };
    format!(
        "{method} {target} SIP/2.0\r\n\
         Via: SIP/2.0/UDP {local};branch={MARK}{number}-{method};rport\r\n\
         Max-Forwards: 70\r\n\
         From: <sip:{from}@im.test>;tag=f{number}\r\n\
         To: <sip:{to}@im.test>{to_tag}\r\n\
         Call-ID: call{number}@{local}\r\n\
         CSeq: 1 {method}\r\n\
         Contact: <sip:{from}@{local}>;+g.3gpp.icsi-ref=\"{SESSION}\"\r\n\
         Accept-Contact: *;+g.3gpp.icsi-ref=\"{SESSION}\"\r\n\
         Conversation-ID: f81d4fae-7dec-11d0-a765-{number:012}\r\n\
         Contribution-ID: 8fa24c01-93b1-4c5e-b5d2-{number:012}\r\n\
         {content}Content-Length: {}\r\n\
         \r\n\
         {body}",
        body.len()
    )
}

/// Who calls whom.
#[derive(Clone, Debug)]
pub struct Call {
    pub from: String,
    pub to: String,
    pub number: u64,
    /// `;tag=...` once there is an answer.
    pub to_tag: String,
    /// Where requests go: the user, then the Contact of the answer.
    pub target: String,
}

/// A description of one end of a session that connects by itself.
pub fn description(path: &str, direction: &str) -> String {
    format!(
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
         m=message 9 TCP/MSRP *\r\na=accept-types:message/cpim\r\na=accept-wrapped-types:*\r\n\
         a=path:{path}\r\na=setup:active\r\na={direction}\r\n"
    )
}

/// An answer to a request, with more header fields and a body.
pub fn answer(request: &[u8], status: &str, more: &str, body: &str) -> Vec<u8> {
    let mut text = Vec::with_capacity(1024);
    text.extend_from_slice(b"SIP/2.0 ");
    text.extend_from_slice(status.as_bytes());
    text.extend_from_slice(b"\r\n");
    for line in lines(request).skip(1) {
        let copied = ["Via:", "From:", "Call-ID:", "CSeq:", "Record-Route:"];
        if copied.iter().any(|name| line.starts_with(name.as_bytes())) {
            text.extend_from_slice(line);
            text.extend_from_slice(b"\r\n");
        } else if line.starts_with(b"To:") {
            text.extend_from_slice(line);
            text.extend_from_slice(b";tag=device\r\n");
        }
    }
    let end = format!("{more}Content-Length: {}\r\n\r\n{body}", body.len());
    text.extend_from_slice(end.as_bytes());
    text
}

/// The lines of a head, the first one too.
fn lines(octets: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = octets;
    std::iter::from_fn(move || {
        let end = memchr::memchr(b'\n', rest)?;
        let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
        rest = &rest[end + 1..];
        (!line.is_empty()).then_some(line)
    })
}

/// The value of the first header field, or line of a description, that begins like this.
pub fn value<'t>(text: &'t str, beginning: &str) -> Option<&'t str> {
    let mut found = text.lines().filter_map(|line| line.strip_prefix(beginning));
    found.next().map(str::trim)
}

/// The status of an answer, and the number and step of the request.
pub fn answered(octets: &[u8]) -> Option<(u16, u64, u64)> {
    let status = digits(octets.strip_prefix(b"SIP/2.0 ")?)?.0;
    let at = memmem::find(octets, MARK.as_bytes())? + MARK.len();
    let (number, rest) = digits(&octets[at..])?;
    let (step, _) = digits(rest.strip_prefix(b"-")?)?;
    Some((u16::try_from(status).ok()?, number, step))
}

/// The number of the message in an envelope.
pub fn message_number(octets: &[u8]) -> Option<u64> {
    let at = memmem::find(octets, MESSAGE_MARK.as_bytes())? + MESSAGE_MARK.len();
    digits(&octets[at..]).map(|(number, _)| number)
}

/// The number at the beginning, and what follows it.
pub fn digits(octets: &[u8]) -> Option<(u64, &[u8])> {
    let end = (octets.iter()).position(|octet| !octet.is_ascii_digit());
    let (number, rest) = octets.split_at(end.unwrap_or(octets.len()));
    Some((std::str::from_utf8(number).ok()?.parse().ok()?, rest))
}
