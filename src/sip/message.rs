//! Request and Response: one buffer, and where its parts lie.
//!
//! Header fields stay as they came, in order; typed views are made on demand by `header`. A clone
//! shares the buffer.

use std::ops::Range;

use bytes::Bytes;
use smallvec::SmallVec;

pub use crate::sip::name::{HeaderName, Method};

use crate::sip::header::{CSeq, NameAddr, Via, decimal, split_list};
use crate::sip::rejection::Rejection;

/// Where a header field lies: its name and its value without surrounding blanks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub id: HeaderName,
    pub name: Range<u32>,
    pub value: Range<u32>,
    /// From the name to behind the line end.
    pub line: Range<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StartLine {
    Request {
        method: Method,
        name: Range<u32>,
        uri: Range<u32>,
    },
    Response {
        status: u16,
        reason: Range<u32>,
    },
}

/// A SIP message (RFC 3261 §7). The body is octets, whatever its type says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub(super) octets: Bytes,
    pub(super) start: StartLine,
    /// Behind the start line.
    pub(super) fields_at: u32,
    pub(super) fields: SmallVec<[Field; 32]>,
    pub(super) body: Bytes,
}

impl Message {
    /// Whether it is a request.
    pub fn is_request(&self) -> bool {
        matches!(self.start, StartLine::Request { .. })
    }

    /// The method of a request; of a response, that of its CSeq.
    pub fn method(&self) -> Method {
        match self.start {
            StartLine::Request { method, .. } => method,
            StartLine::Response { .. } => self
                .cseq()
                .map_or(Method::Other, |cseq| Method::parse(cseq.method.as_bytes())),
        }
    }

    /// The method as it is written; empty for a response.
    pub fn method_str(&self) -> &str {
        match &self.start {
            StartLine::Request { name, .. } => self.text(name).unwrap_or_default(),
            StartLine::Response { .. } => "",
        }
    }

    /// The status code of a response; 0 for a request.
    pub fn status(&self) -> u16 {
        match self.start {
            StartLine::Response { status, .. } => status,
            StartLine::Request { .. } => 0,
        }
    }

    /// The reason phrase of a response; empty for a request or where it is not text.
    pub fn reason(&self) -> &str {
        match &self.start {
            StartLine::Response { reason, .. } => self.text(reason).unwrap_or_default(),
            StartLine::Request { .. } => "",
        }
    }

    /// The Request-URI; empty for a response.
    pub fn request_uri(&self) -> &str {
        match &self.start {
            StartLine::Request { uri, .. } => self.text(uri).unwrap_or_default(),
            StartLine::Response { .. } => "",
        }
    }

    /// The value of the first field of this name; `None` also where it is not UTF-8.
    pub fn header(&self, name: HeaderName) -> Option<&str> {
        let field = self.fields.iter().find(|field| field.id == name)?;
        self.text(&field.value)
    }

    /// The values of all fields of this name, a line each.
    pub fn headers(&self, name: HeaderName) -> impl Iterator<Item = &str> {
        let fields = self.fields.iter().filter(move |field| field.id == name);
        fields.filter_map(|field| self.text(&field.value))
    }

    /// The elements of all fields of this name: comma lists are taken apart (RFC 3261 §7.3.1).
    pub fn values(&self, name: HeaderName) -> impl Iterator<Item = &str> {
        self.headers(name).flat_map(split_list)
    }

    /// How many fields have this name.
    pub fn count(&self, name: HeaderName) -> usize {
        self.fields.iter().filter(|field| field.id == name).count()
    }

    /// The value of a field that has no identifier here, by its name without case.
    pub fn other_header(&self, name: &str) -> Option<&str> {
        let named = |field: &&Field| {
            self.slice(&field.name)
                .eq_ignore_ascii_case(name.as_bytes())
        };
        let field = self.fields.iter().find(named)?;
        self.text(&field.value)
    }

    /// Every field in order: identifier, name as written, value as octets.
    pub fn all_headers(&self) -> impl Iterator<Item = (HeaderName, &str, &[u8])> {
        self.fields.iter().map(|field| {
            let name = self.text(&field.name).unwrap_or_default();
            (field.id, name, self.slice(&field.value))
        })
    }

    /// The body; shares the message's buffer.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The whole message. Folded header fields have been unfolded in place.
    pub fn bytes(&self) -> &Bytes {
        &self.octets
    }

    /// The topmost Via.
    pub fn top_via(&self) -> Result<Via<'_>, Rejection> {
        let value = self.values(HeaderName::Via).next();
        Via::parse(value.ok_or(Rejection::new(400, "Missing Via"))?)
    }

    /// From.
    pub fn from(&self) -> Result<NameAddr<'_>, Rejection> {
        let value = self.header(HeaderName::From);
        NameAddr::parse(value.ok_or(Rejection::new(400, "Missing From"))?)
            .map_err(|_| Rejection::new(400, "Malformed From"))
    }

    /// To.
    pub fn to(&self) -> Result<NameAddr<'_>, Rejection> {
        let value = self.header(HeaderName::To);
        NameAddr::parse(value.ok_or(Rejection::new(400, "Missing To"))?)
            .map_err(|_| Rejection::new(400, "Malformed To"))
    }

    /// Call-ID.
    pub fn call_id(&self) -> Result<&str, Rejection> {
        match self.header(HeaderName::CallId) {
            Some(value) if !value.is_empty() && !value.contains([' ', '\t']) => Ok(value),
            _ => Err(Rejection::new(400, "Missing Call-ID")),
        }
    }

    /// CSeq.
    pub fn cseq(&self) -> Result<CSeq<'_>, Rejection> {
        let value = self.header(HeaderName::CSeq);
        CSeq::parse(value.ok_or(Rejection::new(400, "Missing CSeq"))?)
    }

    /// Max-Forwards; `None` if the request has none.
    pub fn max_forwards(&self) -> Result<Option<u8>, Rejection> {
        let Some(value) = self.header(HeaderName::MaxForwards) else {
            return Ok(None);
        };
        decimal(value)
            .map(Some)
            .ok_or(Rejection::new(400, "Malformed Max-Forwards"))
    }

    pub(super) fn slice(&self, range: &Range<u32>) -> &[u8] {
        self.octets
            .get(range.start as usize..range.end as usize)
            .unwrap_or_default()
    }

    fn text(&self, range: &Range<u32>) -> Option<&str> {
        std::str::from_utf8(self.slice(range)).ok()
    }
}
