//! Request and Response: one buffer, and where its parts lie.
//!
//! Header fields stay as they came, in order; typed views are made on demand by `header`. A clone
//! shares everything.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use smallvec::SmallVec;

pub use crate::sip::name::{HeaderName, Method};

use crate::sip::header::{
    AddressPlaces, CSeq, CSeqPlaces, NameAddr, Via, ViaPlaces, decimal, split_list,
};
use crate::sip::rejection::Rejection;
use crate::span::Span;
use crate::uri::{Uri, UriError, UriPlaces};

/// Where a header field lies. A line is shorter than 64 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub id: HeaderName,
    /// Where its line begins, and with it its name.
    at: u32,
    /// Octets of the name.
    name: u16,
    /// From the beginning of the line to its value, surrounding blanks left out.
    value_at: u16,
    /// Octets of the value.
    value: u16,
    /// Octets of the line with its end.
    line: u16,
}

impl Field {
    /// A field by its places in the message: where its line begins, where its name ends, where the value lies
    /// and where the next line begins.
    pub fn new(
        id: HeaderName,
        at: usize,
        name_end: usize,
        value: Range<usize>,
        end: usize,
    ) -> Self {
        Self {
            id,
            at: at as u32,
            name: (name_end - at) as u16,
            value_at: (value.start - at) as u16,
            value: (value.end - value.start) as u16,
            line: (end - at) as u16,
        }
    }

    pub fn name(&self) -> Range<u32> {
        self.at..self.at + u32::from(self.name)
    }

    pub fn value(&self) -> Range<u32> {
        let start = self.at + u32::from(self.value_at);
        start..start + u32::from(self.value)
    }

    /// Behind its line end.
    pub fn end(&self) -> u32 {
        self.at + u32::from(self.line)
    }
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
    /// What stands before the body, where that is text: then no part of it need be looked at again.
    pub head: Option<ByteString>,
    pub start: StartLine,
    /// Behind the start line.
    pub fields_at: u32,
    pub fields: Fields,
    views: Views,
    pub body: Bytes,
}

/// The parts of what is asked for again and again; `None` where it is absent or cannot be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Views {
    top_via: Option<ViaPlaces>,
    from: Option<AddressPlaces>,
    to: Option<AddressPlaces>,
    cseq: Option<CSeqPlaces>,
    /// The Request-URI.
    uri: Option<UriPlaces>,
    /// The Contact of a request that has just one.
    contact: Option<AddressPlaces>,
}

/// An address, and its URI read.
pub type Address<'a> = (NameAddr<'a>, Uri<'a>);

impl Parts {
    /// What was read of a head; it still has no body.
    pub fn new(octets: Bytes, head_end: usize, start: StartLine, fields_at: usize) -> Self {
        Self {
            head: ByteString::try_from(octets.slice(..head_end)).ok(),
            octets,
            start,
            fields_at: fields_at as u32,
            fields: Fields::new(),
            views: Views::default(),
            body: Bytes::new(),
        }
    }

    fn find_views(&self) -> Views {
        let address = |name| {
            let text = self.first(name)?;
            NameAddr::parse(text).ok()?.places_with_tag(text)
        };
        let (uri, contact) = match &self.start {
            StartLine::Request { uri, .. } => (self.text(uri), self.find_sole_contact()),
            StartLine::Response { .. } => (None, None),
        };
        Views {
            top_via: self.find_top_via(),
            from: address(HeaderName::From),
            to: address(HeaderName::To),
            cseq: self.first(HeaderName::CSeq).and_then(|text| {
                let cseq = CSeq::parse(text).ok()?;
                cseq.places(text)
            }),
            uri: uri.and_then(|uri| Uri::parse(uri).ok()?.places()),
            contact,
        }
    }

    fn find_sole_contact(&self) -> Option<AddressPlaces> {
        let mut fields = self.fields.named(HeaderName::Contact);
        let text = self.text(&fields.next()?.value())?;
        let first = split_list(text).next()?;
        if fields.next().is_some() || first.len() < text.len() {
            return None;
        }
        NameAddr::parse(text).ok()?.places(text)
    }

    fn find_top_via(&self) -> Option<ViaPlaces> {
        let text = self.first(HeaderName::Via)?;
        let via = Via::parse(split_list(text).next()?).ok()?;
        via.places(text)
    }

    /// The value of the first field of this name.
    fn first(&self, name: HeaderName) -> Option<&str> {
        self.text(&self.fields.first(name)?.value())
    }

    fn text(&self, range: &Range<u32>) -> Option<&str> {
        match &self.head {
            Some(head) => head.get(range.start as usize..range.end as usize),
            None => std::str::from_utf8(self.slice(range)).ok(),
        }
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
    fn replaced(&mut self, index: usize, old: usize, new: usize) {
        let (old, new) = (old as u32, new as u32);
        let mut fields = self.all.iter_mut().skip(index);
        if let Some(field) = fields.next() {
            field.value = (u32::from(field.value) - old + new) as u16;
            field.line = (u32::from(field.line) - old + new) as u16;
        }
        fields.for_each(|field| field.at = field.at - old + new);
    }
}

impl Message {
    pub(super) fn new(mut parts: Parts) -> Self {
        parts.views = parts.find_views();
        Self(Arc::new(parts))
    }

    pub(super) fn parts(&self) -> &Parts {
        &self.0
    }

    /// The same message with something else in the place of its topmost Via, which reads so; nothing is read
    /// again. `None` where there is no room for it in a line.
    pub(super) fn with_top_via(mut self, new: &str, via: &Via<'_>) -> Option<Self> {
        let index = usize::from(self.0.fields.first[HeaderName::Via as usize]);
        let field = self.0.fields.all.get(index)?;
        let value = self.text(&field.value())?;
        let old = split_list(value).next()?;
        if usize::from(field.line) - old.len() + new.len() > usize::from(u16::MAX) {
            return None;
        }
        let before = Span::of(old, value)?.start();
        let places = via.places(new)?.behind(before);
        let start = field.value().start as usize + before;
        let old = old.len();
        let (before, rest) = self.0.octets.split_at_checked(start)?;
        let octets = Bytes::from([before, new.as_bytes(), rest.get(old..)?].concat());
        let parts = Arc::make_mut(&mut self.0);
        let body = octets.len() - parts.body.len();
        parts.body = octets.slice(body..);
        parts.head = match parts.head.take() {
            Some(_) => ByteString::try_from(octets.slice(..body)).ok(),
            None => None,
        };
        parts.octets = octets;
        parts.fields.replaced(index, old, new.len());
        parts.views.top_via = places;
        Some(self)
    }

    /// Octets of the line that holds the topmost Via, without its end.
    pub(super) fn top_via_line(&self) -> usize {
        let via = self.0.fields.first(HeaderName::Via);
        via.map_or(0, |field| usize::from(field.line).saturating_sub(2))
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

    /// The Request-URI, read.
    pub fn uri(&self) -> Result<Uri<'_>, UriError> {
        let text = self.request_uri();
        let known = self.0.views.uri.as_ref().and_then(|it| it.of(text));
        known.map_or_else(|| Uri::parse(text), Ok)
    }

    /// The value of the first field of this name; `None` also where it is not UTF-8.
    pub fn header(&self, name: HeaderName) -> Option<&str> {
        self.0.first(name)
    }

    /// The values of all fields of this name, a line each.
    pub fn headers(&self, name: HeaderName) -> impl Iterator<Item = &str> {
        let fields = self.0.fields.named(name);
        fields.filter_map(|field| self.text(&field.value()))
    }

    /// The elements of all fields of this name: comma lists are taken apart (RFC 3261 §7.3.1).
    pub fn values(&self, name: HeaderName) -> impl Iterator<Item = &str> {
        self.headers(name).flat_map(split_list)
    }

    /// Whether any of these names has several fields.
    pub fn repeats_any(&self, names: &[HeaderName]) -> bool {
        let bits = names.iter().fold(0, |all, name| all | 1 << *name as usize);
        self.0.fields.several & bits != 0
    }

    /// How many fields have this name.
    pub fn count(&self, name: HeaderName) -> usize {
        self.0.fields.named(name).count()
    }

    /// The value of a field that has no identifier here, by its name without case.
    pub fn other_header(&self, name: &str) -> Option<&str> {
        let named = |field: &&Field| {
            self.slice(&field.name())
                .eq_ignore_ascii_case(name.as_bytes())
        };
        let field = self.0.fields.all.iter().find(named)?;
        self.text(&field.value())
    }

    /// Every field in order: identifier, name as written, value as octets.
    pub fn all_headers(&self) -> impl Iterator<Item = (HeaderName, &str, &[u8])> {
        self.0.fields.all.iter().map(|field| {
            let name = self.text(&field.name()).unwrap_or_default();
            (field.id, name, self.slice(&field.value()))
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
        let text = self.header(HeaderName::Via).unwrap_or_default();
        if let Some(via) = self.0.views.top_via.as_ref().and_then(|it| it.of(text)) {
            return Ok(via);
        }
        let value = self.values(HeaderName::Via).next();
        Via::parse(value.ok_or(Rejection::new(400, "Missing Via"))?)
    }

    /// All Via values, the topmost first.
    pub fn vias(&self) -> impl Iterator<Item = Result<Via<'_>, Rejection>> {
        let others = self.values(HeaderName::Via).skip(1).map(Via::parse);
        std::iter::once(self.top_via()).chain(others)
    }

    /// From.
    pub fn from(&self) -> Result<NameAddr<'_>, Rejection> {
        const MISSING: Rejection = Rejection::new(400, "Missing From");
        const MALFORMED: Rejection = Rejection::new(400, "Malformed From");
        let text = self.header(HeaderName::From).ok_or(MISSING)?;
        let known = self.0.views.from.as_ref().and_then(|it| it.of(text));
        known.ok_or(MALFORMED)
    }

    /// To.
    pub fn to(&self) -> Result<NameAddr<'_>, Rejection> {
        const MISSING: Rejection = Rejection::new(400, "Missing To");
        const MALFORMED: Rejection = Rejection::new(400, "Malformed To");
        let text = self.header(HeaderName::To).ok_or(MISSING)?;
        let known = self.0.views.to.as_ref().and_then(|it| it.of(text));
        known.ok_or(MALFORMED)
    }

    /// The URI of From, read; `None` where there is none.
    pub fn from_uri(&self) -> Option<Uri<'_>> {
        let text = self.header(HeaderName::From)?;
        self.0.views.from.as_ref()?.uri(text)
    }

    /// The URI of To, read; `None` where there is none.
    pub fn to_uri(&self) -> Option<Uri<'_>> {
        let text = self.header(HeaderName::To)?;
        self.0.views.to.as_ref()?.uri(text)
    }

    /// The values of Contact in order, with their addresses where they are some.
    pub fn contacts(&self) -> impl Iterator<Item = (&str, Option<Address<'_>>)> {
        let sole = self.sole_contact();
        let read = |value| {
            let address = NameAddr::parse(value).ok();
            (
                value,
                address.and_then(|it| Some((it, Uri::parse(it.uri).ok()?))),
            )
        };
        let several = match sole {
            Some(_) => None,
            None => Some(self.values(HeaderName::Contact).map(read)),
        };
        let sole = sole.map(|(value, address)| (value, Some(address)));
        sole.into_iter().chain(several.into_iter().flatten())
    }

    /// `None` also where it is no address.
    fn sole_contact(&self) -> Option<(&str, Address<'_>)> {
        let places = self.0.views.contact.as_ref()?;
        let text = self.header(HeaderName::Contact)?;
        Some((text, (places.of(text)?, places.uri(text)?)))
    }

    /// The tag of From, if it can be read and has one.
    pub fn from_tag(&self) -> Option<&str> {
        let text = self.header(HeaderName::From)?;
        self.0.views.from.as_ref()?.tag(text)
    }

    /// The tag of To, if it can be read and has one.
    pub fn to_tag(&self) -> Option<&str> {
        let text = self.header(HeaderName::To)?;
        self.0.views.to.as_ref()?.tag(text)
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
        const MISSING: Rejection = Rejection::new(400, "Missing CSeq");
        let text = self.header(HeaderName::CSeq).ok_or(MISSING)?;
        let known = self.0.views.cseq.as_ref().and_then(|it| it.of(text));
        known.ok_or(CSeq::MALFORMED)
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
