//! A request or response being written, before it has its octets.

use super::sip_text::SipText;

/// A request as a test wants it; what it leaves out, the agent fills in.
#[derive(Clone, Debug)]
pub struct Draft {
    pub(super) method: String,
    pub(super) uri: String,
    pub(super) from: Option<String>,
    pub(super) to: Option<String>,
    pub(super) call_id: Option<String>,
    pub(super) cseq: Option<u32>,
    pub(super) branch: Option<String>,
    pub(super) max_forwards: u8,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Draft {
    /// A request of `method` to `uri`.
    pub fn new(method: &str, uri: &str) -> Self {
        Self {
            method: method.to_owned(),
            uri: uri.to_owned(),
            from: None,
            to: None,
            call_id: None,
            cseq: None,
            branch: None,
            max_forwards: 70,
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// One more header field.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A body of this type.
    pub fn body(mut self, content_type: &str, body: &[u8]) -> Self {
        self.body = body.to_vec();
        self.header("Content-Type", content_type)
    }

    /// The whole value of From in place of the agent's own.
    pub fn from_value(mut self, value: &str) -> Self {
        self.from = Some(value.to_owned());
        self
    }

    /// The whole value of To in place of the Request-URI.
    pub fn to_value(mut self, value: &str) -> Self {
        self.to = Some(value.to_owned());
        self
    }

    /// This Call-ID instead of a fresh one.
    pub fn call_id(mut self, call_id: &str) -> Self {
        self.call_id = Some(call_id.to_owned());
        self
    }

    /// This CSeq number instead of the agent's next.
    pub fn cseq(mut self, number: u32) -> Self {
        self.cseq = Some(number);
        self
    }

    /// This Max-Forwards instead of 70.
    pub fn max_forwards(mut self, hops: u8) -> Self {
        self.max_forwards = hops;
        self
    }

    /// The octets; `via` is the whole Via value.
    pub(super) fn to_octets(&self, via: &str, from: &str, call_id: &str, cseq: u32) -> Vec<u8> {
        let to = self.to.clone().unwrap_or(format!("<{}>", self.uri));
        let mut head = format!(
            "{method} {uri} SIP/2.0\r\nVia: {via}\r\nMax-Forwards: {hops}\r\nFrom: {from}\r\n\
             To: {to}\r\nCall-ID: {call_id}\r\nCSeq: {cseq} {method}\r\n",
            method = self.method,
            uri = self.uri,
            hops = self.max_forwards,
        );
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        finish(head, &self.body)
    }
}

/// The octets of a response to `request` (RFC 3261 §8.2.6.2).
pub(super) fn response(
    request: &SipText,
    status: u16,
    to_tag: &str,
    headers: &[(&str, String)],
    body: &[u8],
) -> Vec<u8> {
    let mut head = format!("SIP/2.0 {status} {}\r\n", reason(status));
    for via in request.headers("Via") {
        head.push_str(&format!("Via: {via}\r\n"));
    }
    for route in request.headers("Record-Route") {
        head.push_str(&format!("Record-Route: {route}\r\n"));
    }
    let to = request.header_or_empty("To");
    let tag = match request.to_tag() {
        "" if status > 100 => format!(";tag={to_tag}"),
        _ => String::new(),
    };
    head.push_str(&format!(
        "From: {}\r\nTo: {to}{tag}\r\nCall-ID: {}\r\nCSeq: {}\r\n",
        request.header_or_empty("From"),
        request.header_or_empty("Call-ID"),
        request.header_or_empty("CSeq"),
    ));
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    finish(head, body)
}

/// The octets of an ACK or CANCEL: the INVITE's own Via, Route and identifiers, with `to` of the
/// response for an ACK (RFC 3261 §9.1, §17.1.1.3).
pub(super) fn hop_by_hop(method: &str, invite: &SipText, to: &str) -> Vec<u8> {
    let mut head = format!(
        "{method} {} SIP/2.0\r\nVia: {}\r\n",
        invite.request_uri(),
        invite.header_or_empty("Via")
    );
    for route in invite.headers("Route") {
        head.push_str(&format!("Route: {route}\r\n"));
    }
    head.push_str(&format!(
        "Max-Forwards: 70\r\nFrom: {}\r\nTo: {to}\r\nCall-ID: {}\r\nCSeq: {} {method}\r\n",
        invite.header_or_empty("From"),
        invite.header_or_empty("Call-ID"),
        invite.cseq_number(),
    ));
    finish(head, &[])
}

fn finish(mut head: String, body: &[u8]) -> Vec<u8> {
    head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    [head.as_bytes(), body].concat()
}

fn reason(status: u16) -> &'static str {
    match status {
        100 => "Trying",
        180 => "Ringing",
        200 => "OK",
        202 => "Accepted",
        404 => "Not Found",
        408 => "Request Timeout",
        480 => "Temporarily Unavailable",
        481 => "Call/Transaction Does Not Exist",
        486 => "Busy Here",
        487 => "Request Terminated",
        488 => "Not Acceptable Here",
        503 => "Service Unavailable",
        600 => "Busy Everywhere",
        603 => "Decline",
        _ => "As Told",
    }
}
