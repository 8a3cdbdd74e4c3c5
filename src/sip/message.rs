//! Request and Response: one buffer, and where its parts lie.
//!
//! Header fields stay as they came, in order; typed views are made on demand by `header`. A clone
//! shares everything.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

pub use crate::sip::name::{HeaderName, Method};

use crate::sip::header::{CSeq, NameAddr, Via, ViaPlaces, decimal, split_list};
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
pub struct Message(Arc<Parts>);

/// What a message is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parts {
    pub octets: Bytes,
    pub start: StartLine,
    /// Behind the start line.
    pub fields_at: u32,
    pub fields: Fields,
    /// Of the topmost Via, if there is one that can be read.
    pub top_via: Option<ViaPlaces>,
    pub body: Bytes,
}

impl Parts {
    fn find_top_via(&self) -> Option<ViaPlaces> {
        let value = self.text(&self.fields.first(HeaderName::Via)?.value)?;
        let via = Via::parse(split_list(value).next()?).ok()?;
        Some(via.places(value))
    }

    fn text(&self, range: &Range<u32>) -> Option<&str> {
        std::str::from_utf8(self.slice(range)).ok()
    }

    pub fn slice(&self, range: &Range<u32>) -> &[u8] {
        self.octets
            .get(range.start as usize..range.end as usize)
            .unwrap_or_default()
    }
}

/// The header fields in order, and for each name where its first one stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fields {
    all: SmallVec<[Field; 24]>,
    /// By name; behind the last field where there is none.
    first: [u16; HeaderName::COUNT],
    /// By name, a bit each: there are several.
    several: u64,
}

const NONE: u16 = u16::MAX;
const _: () = assert!(HeaderName::COUNT <= 64, "a bit for each name");

impl Fields {
    pub fn new() -> Self {
        Self {
            all: SmallVec::new(),
            first: [NONE; HeaderName::COUNT],
            several: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// At most `wire::MAX_FIELDS` fields.
    pub fn push(&mut self, field: Field) {
        let name = field.id as usize;
        if self.first[name] == NONE {
            self.first[name] = self.all.len() as u16;
        } else {
            self.several |= 1 << name;
        }
        self.all.push(field);
    }

    pub fn all(&self) -> &[Field] {
        &self.all
    }

    fn first(&self, name: HeaderName) -> Option<&Field> {
        self.all.get(usize::from(self.first[name as usize]))
    }

    /// All of this name.
    pub fn named(&self, name: HeaderName) -> impl Iterator<Item = &Field> {
        let first = usize::from(self.first[name as usize]);
        let several = self.several & 1 << name as usize != 0;
        let range = match several {
            true => self.all.get(first..),
            false => self.all.get(first..first + 1),
        };
        let range = range.unwrap_or_default().iter();
        range.filter(move |field| field.id == name)
    }

    /// Moves what stands behind a place within the value of the field at `index`, where so many octets
    /// have become so many others.
    fn replaced(&mut self, index: usize, old: u32, new: u32) {
        let moved = |at: u32| at - old + new;
        let mut fields = self.all.iter_mut().skip(index);
        if let Some(field) = fields.next() {
            field.value.end = moved(field.value.end);
            field.line.end = moved(field.line.end);
        }
        for field in fields {
            for range in [&mut field.name, &mut field.value, &mut field.line] {
                *range = moved(range.start)..moved(range.end);
            }
        }
    }
}

impl Message {
    pub(super) fn new(mut parts: Parts) -> Self {
        parts.top_via = parts.find_top_via();
        Self(Arc::new(parts))
    }

    pub(super) fn parts(&self) -> &Parts {
        &self.0
    }

    /// The same message with something else in the place of its topmost Via; nothing is read again.
    pub(super) fn with_top_via(&self, new: &str) -> Option<Self> {
        let parts = self.parts();
        let index = usize::from(parts.fields.first[HeaderName::Via as usize]);
        let field = parts.fields.all.get(index)?;
        let value = self.text(&field.value)?;
        let old = split_list(value).next()?;
        // Before the first element there are only blanks and commas.
        let start = field.value.start as usize + value.find(old)?;
        let (before, rest) = parts.octets.split_at_checked(start)?;
        let after = rest.get(old.len()..)?;
        let octets = Bytes::from([before, new.as_bytes(), after].concat());
        let mut fields = parts.fields.clone();
        fields.replaced(index, old.len() as u32, new.len() as u32);
        Some(Self::new(Parts {
            body: octets.slice(octets.len() - parts.body.len()..),
            octets,
            start: parts.start.clone(),
            fields_at: parts.fields_at,
            fields,
            top_via: None,
        }))
    }

    /// Whether it is a request.
    pub fn is_request(&self) -> bool {
        matches!(self.0.start, StartLine::Request { .. })
    }

    /// The method of a request; of a response, that of its CSeq.
    pub fn method(&self) -> Method {
        match self.0.start {
            StartLine::Request { method, .. } => method,
            StartLine::Response { .. } => self
                .cseq()
                .map_or(Method::Other, |cseq| Method::parse(cseq.method.as_bytes())),
        }
    }

    /// The method as it is written; empty for a response.
    pub fn method_str(&self) -> &str {
        match &self.0.start {
            StartLine::Request { name, .. } => self.text(name).unwrap_or_default(),
            StartLine::Response { .. } => "",
        }
    }

    /// The status code of a response; 0 for a request.
    pub fn status(&self) -> u16 {
        match self.0.start {
            StartLine::Response { status, .. } => status,
            StartLine::Request { .. } => 0,
        }
    }

    /// The reason phrase of a response; empty for a request or where it is not text.
    pub fn reason(&self) -> &str {
        match &self.0.start {
            StartLine::Response { reason, .. } => self.text(reason).unwrap_or_default(),
            StartLine::Request { .. } => "",
        }
    }

    /// The Request-URI; empty for a response.
    pub fn request_uri(&self) -> &str {
        match &self.0.start {
            StartLine::Request { uri, .. } => self.text(uri).unwrap_or_default(),
            StartLine::Response { .. } => "",
        }
    }

    /// The value of the first field of this name; `None` also where it is not UTF-8.
    pub fn header(&self, name: HeaderName) -> Option<&str> {
        self.text(&self.0.fields.first(name)?.value)
    }

    /// The values of all fields of this name, a line each.
    pub fn headers(&self, name: HeaderName) -> impl Iterator<Item = &str> {
        let fields = self.0.fields.named(name);
        fields.filter_map(|field| self.text(&field.value))
    }

    /// The elements of all fields of this name: comma lists are taken apart (RFC 3261 §7.3.1).
    pub fn values(&self, name: HeaderName) -> impl Iterator<Item = &str> {
        self.headers(name).flat_map(split_list)
    }

    /// How many fields have this name.
    pub fn count(&self, name: HeaderName) -> usize {
        self.0.fields.named(name).count()
    }

    /// The value of a field that has no identifier here, by its name without case.
    pub fn other_header(&self, name: &str) -> Option<&str> {
        let named = |field: &&Field| {
            self.slice(&field.name)
                .eq_ignore_ascii_case(name.as_bytes())
        };
        let field = self.0.fields.all.iter().find(named)?;
        self.text(&field.value)
    }

    /// Every field in order: identifier, name as written, value as octets.
    pub fn all_headers(&self) -> impl Iterator<Item = (HeaderName, &str, &[u8])> {
        self.0.fields.all.iter().map(|field| {
            let name = self.text(&field.name).unwrap_or_default();
            (field.id, name, self.slice(&field.value))
        })
    }

    /// The body; shares the message's buffer.
    pub fn body(&self) -> &Bytes {
        &self.0.body
    }

    /// The whole message. Folded header fields have been unfolded in place.
    pub fn bytes(&self) -> &Bytes {
        &self.0.octets
    }

    /// The topmost Via.
    pub fn top_via(&self) -> Result<Via<'_>, Rejection> {
        if let Some(places) = &self.0.top_via
            && let Some(via) = self
                .header(HeaderName::Via)
                .and_then(|text| places.of(text))
        {
            return Ok(via);
        }
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
            Some(value)
                if !value.is_empty()
                    && memchr::memchr2(b' ', b'\t', value.as_bytes()).is_none() =>
            {
                Ok(value)
            }
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
        self.0.slice(range)
    }

    fn text(&self, range: &Range<u32>) -> Option<&str> {
        self.0.text(range)
    }
}
