//! Messages of our own: responses built from their request, and requests from nothing.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use bytes::Bytes;
use memchr::memchr;
use smallvec::SmallVec;

use crate::sip::header::{Parameters, Via};
use crate::sip::message::{HeaderName, Message};
use crate::sip::splice::{write_field, write_field_of};
use crate::span::Span;

/// A message being written. What could end a line early is left out of every value.
#[derive(Clone, Debug)]
pub struct Builder {
    out: Vec<u8>,
    content_type: Option<String>,
    body: Vec<u8>,
    /// It stays in memory until it is answered, so without room to spare. Of a response a copy is kept.
    is_kept: bool,
}

/// A response being written.
pub type ResponseBuilder = Builder;
/// A request being written.
pub type RequestBuilder = Builder;

impl Builder {
    /// A request without header fields.
    pub fn new(method: &str, uri: &str) -> Self {
        let mut out = Vec::with_capacity(1024);
        let legal = |byte: &u8| !byte.is_ascii_control() && *byte != b' ';
        out.extend_from_slice(method.as_bytes());
        out.push(b' ');
        out.extend(uri.bytes().filter(legal));
        out.extend_from_slice(b" SIP/2.0\r\n");
        Self::begun(out, true)
    }

    fn begun(out: Vec<u8>, is_kept: bool) -> Self {
        Self {
            out,
            is_kept,
            content_type: None,
            body: Vec::new(),
        }
    }

    /// Adds a field.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        write_field(&mut self.out, name, value);
        self
    }

    /// Adds a field whose value is written in these parts, one right behind the other.
    #[must_use]
    pub fn header_of(mut self, name: &str, parts: &[&str]) -> Self {
        write_field_of(&mut self.out, name, parts);
        self
    }

    /// Sets the body and its type.
    #[must_use]
    pub fn body(mut self, content_type: &str, octets: &[u8]) -> Self {
        self.content_type = Some(content_type.to_owned());
        self.body = octets.to_vec();
        self
    }

    /// The message, with its Content-Length.
    pub fn build(mut self) -> Bytes {
        if let Some(content_type) = &self.content_type {
            write_field(&mut self.out, "Content-Type", content_type);
        }
        match self.body.len() {
            0 => self.out.extend_from_slice(b"Content-Length: 0\r\n"),
            length => write_field(&mut self.out, "Content-Length", &length.to_string()),
        }
        self.out.extend_from_slice(b"\r\n");
        self.out.extend_from_slice(&self.body);
        match self.is_kept {
            true => self.out.into_boxed_slice().into(),
            false => self.out.into(),
        }
    }
}

/// A response to `request` (RFC 3261 §8.2.6): its Via fields, From, To, Call-ID and CSeq, and
/// Record-Route where a dialog may begin. `to_tag` is added where the request has none.
pub fn response(
    request: &Message,
    status: u16,
    reason: &str,
    to_tag: Option<&str>,
) -> ResponseBuilder {
    let mut out = Vec::with_capacity(1024);
    out.extend_from_slice(b"SIP/2.0 ");
    out.extend([100, 10, 1].map(|place| b'0' + (status / place % 10) as u8));
    out.push(b' ');
    out.extend(reason.bytes().filter(|byte| !byte.is_ascii_control()));
    out.extend_from_slice(b"\r\n");
    let begins_dialog = (101..300).contains(&status);
    let gets_tag = status > 100 && request.to().is_ok() && request.to_tag().is_none();
    let mut said = SmallVec::<[HeaderName; 4]>::new();
    for field in request.parts().fields.all() {
        let id = field.id;
        // What a malformed request says twice, its answer says once.
        let mut is_first = || {
            let is_first = !said.contains(&id);
            said.push(id);
            is_first
        };
        let name = match id {
            HeaderName::Via => "Via",
            HeaderName::From if is_first() => "From",
            HeaderName::To if is_first() => "To",
            HeaderName::CallId if is_first() => "Call-ID",
            HeaderName::CSeq if is_first() => "CSeq",
            HeaderName::RecordRoute if begins_dialog => "Record-Route",
            _ => continue,
        };
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(request.slice(&field.value()));
        if id == HeaderName::To && gets_tag {
            let tag = to_tag.unwrap_or_default();
            if !tag.is_empty() {
                out.extend_from_slice(b";tag=");
                out.extend_from_slice(tag.as_bytes());
            }
        }
        out.extend_from_slice(b"\r\n");
    }
    Builder::begun(out, false)
}

/// The same answer with nothing that could be left out, for who may be sent little: short names
/// (RFC 3261 §7.3.3), no reason phrase (§25.1 lets it be empty), no Content-Length, which a datagram can do
/// without (§18.3), and `challenge` if it is one.
pub fn terse(
    request: &Message,
    status: u16,
    to_tag: &str,
    challenge: Option<(&str, &str)>,
) -> Bytes {
    let mut out = format!("SIP/2.0 {status} \r\n").into_bytes();
    for (id, _, value) in request.all_headers() {
        let name = match id {
            HeaderName::Via => "v",
            HeaderName::From => "f",
            HeaderName::To => "t",
            HeaderName::CallId => "i",
            HeaderName::CSeq => "CSeq",
            _ => continue,
        };
        out.extend_from_slice(name.as_bytes());
        out.push(b':');
        out.extend_from_slice(value);
        if id == HeaderName::To && request.to().is_ok_and(|to| to.tag().is_none()) {
            out.extend_from_slice(b";tag=");
            out.extend_from_slice(to_tag.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }
    if let Some((name, value)) = challenge {
        write_field(&mut out, name, value);
    }
    out.extend_from_slice(b"\r\n");
    out.into()
}

/// The request with `received` and `rport` filled into its top Via, as the first thing done with it
/// (RFC 3261 §18.2.1, RFC 3581 §4). `None` when its Via cannot be read.
pub fn stamp_source(request: Message, source: SocketAddr) -> Option<Message> {
    let top = request.values(HeaderName::Via).next()?;
    let via = request.top_via().ok()?;
    let mut stamped = String::with_capacity(top.len() + 64);
    let stamp = push_stamped_via(&mut stamped, &via, top, source);
    let same = |part| Span::of(part, top)?.text(&stamped);
    let via = Via {
        transport: same(via.transport)?,
        host: same(via.host)?,
        port: via.port,
        branch: stamp.branch.and_then(|place| stamped.get(place)),
        received: stamped.get(stamp.received),
        rport: via.rport.map(|_| Some(source.port())),
        parameters: Parameters::new(stamped.get(stamp.parameters..)?),
    };
    request.with_top_via(&stamped, &via)
}

/// Whether the top Via must say where the request came from.
pub fn needs_stamp(via: &Via<'_>, source: SocketAddr) -> bool {
    via.rport.is_some() || via.received.is_some() || !is_at(via.host, source)
}

/// Whether the host of a Via is the address of its source.
pub(super) fn is_at(host: &str, source: SocketAddr) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.parse() == Ok(source.ip().to_canonical())
}

/// Where parts of a stamped Via lie in what it was appended to.
pub(super) struct Stamp {
    branch: Option<Range<usize>>,
    received: Range<usize>,
    /// Their beginning.
    parameters: usize,
}

/// Appends a Via as it is `written`, but with the `received` and `rport` of its source.
pub(super) fn push_stamped_via(
    out: &mut String,
    via: &Via<'_>,
    written: &str,
    source: SocketAddr,
) -> Stamp {
    let end = memchr(b';', written.as_bytes()).unwrap_or(written.len());
    out.push_str(written[..end].trim_ascii_end());
    let (parameters, mut branch) = (out.len(), None);
    // As written, so that a quoted value keeps its quotes.
    for parameter in via.parameters().written() {
        let end = memchr(b'=', parameter.as_bytes()).unwrap_or(parameter.len());
        let name = parameter[..end].trim_ascii();
        if name.eq_ignore_ascii_case("received") || name.eq_ignore_ascii_case("rport") {
            continue;
        }
        out.push(';');
        if let Some(value) = via.branch
            && let Some(place) = Span::of(value, parameter)
        {
            let start = out.len() + place.start();
            branch = Some(start..start + value.len());
        }
        out.push_str(parameter);
    }
    let received = push_source(out, via.rport.is_some(), source);
    Stamp {
        branch,
        received,
        parameters,
    }
}

/// Appends the stamp itself; returns where its address stands.
pub(super) fn push_source(out: &mut String, has_rport: bool, source: SocketAddr) -> Range<usize> {
    out.push_str(";received=");
    let start = out.len();
    push_address(out, source.ip().to_canonical());
    let received = start..out.len();
    if has_rport {
        out.push_str(";rport=");
        push_decimal(out, source.port());
    }
    received
}

/// What each request gets is written without `format!`.
fn push_address(out: &mut String, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            for (index, octet) in address.octets().into_iter().enumerate() {
                if index > 0 {
                    out.push('.');
                }
                push_decimal(out, octet.into());
            }
        }
        // Writing to a String does not fail.
        IpAddr::V6(address) => drop(write!(out, "{address}")),
    }
}

pub(super) fn push_decimal(out: &mut String, number: u16) {
    let mut place = 10_000;
    while place > 1 && number < place {
        place /= 10;
    }
    while place > 0 {
        out.push(char::from(b'0' + (number / place % 10) as u8));
        place /= 10;
    }
}

/// The ACK of a final response other than 2xx, hop by hop (RFC 3261 §17.1.1.3). `None` if either
/// cannot be read.
pub fn ack_for(request: &Message, response: &Message) -> Option<Bytes> {
    hop_by_hop(request, "ACK", response.header(HeaderName::To)?)
}

/// A request of ours once more, as a new transaction: another Via, the next CSeq number, and these
/// fields in place of those of the same names (RFC 4028 §7.3).
pub fn repeated(request: &Message, via: &str, fields: &[(&'static str, String)]) -> Bytes {
    let mut builder = Builder::new(request.method_str(), request.request_uri()).header("Via", via);
    for (id, name, value) in request.all_headers() {
        let value = String::from_utf8_lossy(value);
        builder = match id {
            HeaderName::Via
            | HeaderName::ContentLength
            | HeaderName::SessionExpires
            | HeaderName::MinSe => builder,
            HeaderName::CSeq => {
                let next = request.cseq().map_or(0, |cseq| cseq.number) + 1;
                builder.header("CSeq", &format!("{next} {}", request.method_str()))
            }
            _ => builder.header(name, &value),
        };
    }
    for (name, value) in fields {
        builder = builder.header(name, value);
    }
    builder.body = request.body().to_vec();
    builder.build()
}

/// The CANCEL of an INVITE (RFC 3261 §9.1).
pub fn cancel_for(request: &Message) -> Option<Bytes> {
    hop_by_hop(request, "CANCEL", request.header(HeaderName::To)?)
}

fn hop_by_hop(request: &Message, method: &str, to: &str) -> Option<Bytes> {
    let via = request.values(HeaderName::Via).next()?;
    let cseq = request.cseq().ok()?.number;
    let mut builder = Builder::new(method, request.request_uri())
        .header("Via", via)
        .header("Max-Forwards", "70");
    for route in request.headers(HeaderName::Route) {
        builder = builder.header("Route", route);
    }
    let builder = builder
        .header("From", request.header(HeaderName::From)?)
        .header("To", to)
        .header("Call-ID", request.call_id().ok()?)
        .header("CSeq", &format!("{cseq} {method}"));
    Some(builder.build())
}

/// A Warning value (RFC 3261 §20.43).
pub fn warning(code: u16, agent: &str, text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"");
    format!("{code} {agent} \"{text}\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::wire;

    fn request(via: &str) -> Message {
        let text = format!(
            "INVITE sip:bob@im.test SIP/2.0\r\nVia: {via}\r\nv: SIP/2.0/UDP second\r\nf: <sip:a@b>;tag=1\r\nt: <sip:c@d>\r\ni: x\r\nCSeq: 7 INVITE\r\nRecord-Route: <sip:p;lr>\r\n\r\n"
        );
        wire::parse(Bytes::from(text)).expect("legal")
    }

    #[test]
    fn a_response_repeats_what_it_must_and_adds_the_tag() {
        let request = request("SIP/2.0/UDP first;branch=z9hG4bK1");
        let octets = response(&request, 200, "OK", Some("t1"))
            .header("X", "y")
            .build();
        let answer = wire::parse(octets).expect("legal");
        assert_eq!(answer.to().expect("To").tag(), Some("t1"));
        assert_eq!(answer.values(HeaderName::Via).count(), 2);
        assert_eq!(answer.header(HeaderName::RecordRoute), Some("<sip:p;lr>"));
        let trying =
            wire::parse(response(&request, 100, "Trying", Some("t1")).build()).expect("legal");
        assert_eq!(trying.to().expect("To").tag(), None);
    }

    #[test]
    fn the_source_is_written_over_whatever_the_via_claims() {
        let source: SocketAddr = "192.0.2.7:4444".parse().expect("address");
        let request =
            request("SIP/2.0/UDP first;received=6.6.6.6;rport;branch=z9hG4bK1, SIP/2.0/TCP more");
        let stamped = stamp_source(request.clone(), source).expect("legal");
        let via = stamped.top_via().expect("legal");
        assert_eq!(via.received, Some("192.0.2.7"));
        assert_eq!(via.rport, Some(Some(4444)));
        assert_eq!(via.branch, Some("z9hG4bK1"));
        assert_eq!(stamped.values(HeaderName::Via).count(), 3);
    }

    #[test]
    fn addresses_are_written_as_ever() {
        for number in [0, 9, 10, 99, 100, 5060, 9_999, 10_000, u16::MAX] {
            let mut text = String::new();
            push_decimal(&mut text, number);
            assert_eq!(text, number.to_string());
        }
        for address in ["0.0.0.0", "192.0.2.10", "255.255.255.255", "2001:db8::1"] {
            let mut text = String::new();
            push_address(&mut text, address.parse().expect("an address"));
            assert_eq!(text, address);
        }
    }

    #[test]
    fn a_stamp_leaves_every_other_octet_alone() {
        let source: SocketAddr = "[::ffff:192.0.2.7]:4444".parse().expect("address");
        let request = request("SIP/2.0/UDP first;x=\"a;rport\";branch=z9hG4bK1, SIP/2.0/TCP more");
        let stamped = stamp_source(request.clone(), source).expect("legal");
        let text = std::str::from_utf8(request.bytes()).expect("text");
        let expected = text.replacen("bK1,", "bK1;received=192.0.2.7,", 1);
        assert_eq!(stamped.bytes(), expected.as_bytes());
        assert_eq!(wire::parse(stamped.bytes().clone()), Ok(stamped));
    }

    #[test]
    fn a_stamped_via_reads_as_it_is_written() {
        for via in [
            "SIP/2.0/UDP 192.0.2.1:5061;branch=z9hG4bK1;rport",
            "SIP/2.0/UDP [2001:db8::1];rport;branch=\"z9hG4bK1\";received=192.0.2.66",
            "SIP / 2.0 / UDP  first : 5060 ; RPort=9 ;ttl=1;branch = z9hG4bK1;branch=z9hG4bK2",
            "SIP/2.0/TCP first;branch=;rport, SIP/2.0/UDP more;branch=z9hG4bK3",
            "SIP/2.0/UDP first",
        ] {
            let request = request(&format!(" {via}"));
            let stamped = stamp_source(request, "192.0.2.7:4444".parse().expect("address"));
            let stamped = stamped.expect("legal");
            assert_eq!(wire::parse(stamped.bytes().clone()), Ok(stamped), "{via}");
        }
    }

    #[test]
    fn ack_and_cancel_repeat_the_top_via_alone() {
        let request = request("SIP/2.0/UDP first;branch=z9hG4bK1");
        let refusal =
            wire::parse(response(&request, 486, "Busy Here", Some("t2")).build()).expect("legal");
        let ack = wire::parse(ack_for(&request, &refusal).expect("legal")).expect("legal");
        assert_eq!(ack.method_str(), "ACK");
        assert_eq!(ack.to().expect("To").tag(), Some("t2"));
        assert_eq!(ack.values(HeaderName::Via).count(), 1);
        assert_eq!(ack.cseq().expect("CSeq").number, 7);
        let cancel = wire::parse(cancel_for(&request).expect("legal")).expect("legal");
        assert_eq!(cancel.cseq().expect("CSeq").method, "CANCEL");
    }

    #[test]
    fn a_warning_text_is_quoted() {
        assert_eq!(
            warning(399, "im.test", "a \"b\""),
            "399 im.test \"a \\\"b\\\"\""
        );
    }
}
