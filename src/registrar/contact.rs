//! The Contact header fields of a REGISTER (RFC 3261 §10.2, §20.10).

use smallvec::SmallVec;

use crate::sip::header::Parameters;
use crate::sip::message::{Address, HeaderName, Message};
use crate::sip::rejection::Rejection;
use crate::uri::{Scheme, Uri, equivalent};

/// Octets in one Contact value; bounds what a binding can take.
const MOST_OCTETS: usize = 4096;
/// What a value that is no number counts as (RFC 3261 §20.10).
const UNREADABLE_EXPIRES: u32 = 3600;

const MALFORMED: Rejection = Rejection::new(400, "Malformed Contact");
/// RFC 5630 §5.2: the Request-URI would have to be one as well, and none is taken, for there is no TLS.
const SECURE: Rejection = Rejection::new(400, "SIPS Contact Without TLS");

/// What a REGISTER wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wish<'a> {
    /// To hear what is registered.
    Fetch,
    /// To remove every binding: `*`.
    RemoveAll,
    /// To add, refresh or remove these.
    Update(Contacts<'a>),
}

/// Most requests have one.
pub(super) type Contacts<'a> = SmallVec<[Contact<'a>; 1]>;

/// One Contact value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Contact<'a> {
    pub uri: Uri<'a>,
    /// The header parameters exactly as written, from the first `;`, without those the registrar
    /// sets itself (`expires`, GRUUs).
    pub parameters: String,
    /// In thousandths.
    pub q: u16,
    pub instance: Option<&'a str>,
    pub reg_id: Option<u32>,
    /// Wanted seconds; `None` if neither the contact nor the request says.
    pub expires: Option<u32>,
}

impl<'a> Wish<'a> {
    /// Reads the request; at most `most` contacts.
    pub(super) fn of(request: &'a Message, most: usize) -> Result<Self, Rejection> {
        let fields = request.count(HeaderName::Contact);
        if fields == 0 {
            return Ok(Self::Fetch);
        }
        if fields != request.headers(HeaderName::Contact).count() {
            return Err(MALFORMED);
        }
        let expires = request.header(HeaderName::Expires).map(seconds);
        let values: SmallVec<[_; 1]> = request.contacts().take(most + 1).collect();
        if values.iter().any(|(value, _)| *value == "*") {
            return match (values.len(), expires) {
                (1, Some(0)) => Ok(Self::RemoveAll),
                _ => Err(Rejection::new(
                    400,
                    "Contact * Needs Expires 0 and No Other Contact",
                )),
            };
        }
        if values.is_empty() {
            return Err(MALFORMED);
        }
        if values.len() > most {
            return Err(TOO_MANY);
        }
        let mut contacts = Contacts::new();
        for (value, address) in values {
            let contact = Contact::of(value, address, expires)?;
            contacts.retain(|earlier| !contact.is_same(&earlier.identification()));
            contacts.push(contact);
        }
        Ok(Self::Update(contacts))
    }
}

/// More bindings than one user may have.
pub(super) const TOO_MANY: Rejection =
    Rejection::new(403, "Too Many Contacts").with_warning(crate::sip::warning::NOT_ALLOWED);

/// What tells one binding from another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Identification<'a> {
    pub uri: &'a str,
    pub instance: Option<&'a str>,
    pub reg_id: Option<u32>,
}

impl<'a> Contact<'a> {
    /// `address` is what the value was read as.
    fn of(
        value: &str,
        address: Option<Address<'a>>,
        expires: Option<u32>,
    ) -> Result<Self, Rejection> {
        let (address, uri) = address.ok_or(MALFORMED)?;
        match uri.scheme() {
            _ if value.len() > MOST_OCTETS => return Err(MALFORMED),
            Scheme::Sip => {}
            Scheme::Sips => return Err(SECURE),
            _ => return Err(MALFORMED),
        }
        let said = Said::of(&address.parameters);
        let q = match said.q {
            None => 1_000,
            Some(text) => text.and_then(thousandths).ok_or(MALFORMED)?,
        };
        Ok(Self {
            uri,
            parameters: said.kept,
            q,
            instance: said.instance.flatten(),
            reg_id: said.reg_id.flatten().and_then(|text| text.parse().ok()),
            expires: said.expires.flatten().map(seconds).or(expires),
        })
    }

    pub(super) fn identification(&self) -> Identification<'_> {
        Identification {
            uri: self.uri.as_str(),
            instance: self.instance,
            reg_id: self.reg_id,
        }
    }

    /// Whether both name the same binding: the same instance and reg-id where both have an instance
    /// (RFC 5626 §6), else an equal URI. Two devices behind one kind of router often have one URI.
    pub(super) fn is_same(&self, other: &Identification<'_>) -> bool {
        match (self.instance, other.instance) {
            (Some(own), Some(other_instance)) => {
                own.eq_ignore_ascii_case(other_instance) && self.reg_id == other.reg_id
            }
            // Most clients refresh a contact as they wrote it before.
            _ if self.uri.as_str() == other.uri => true,
            _ => Uri::parse(other.uri).is_ok_and(|other| equivalent(&self.uri, &other)),
        }
    }
}

/// delta-seconds; too large a number is the largest one.
fn seconds(text: &str) -> u32 {
    let text = text.trim();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return UNREADABLE_EXPIRES;
    }
    text.parse().unwrap_or(u32::MAX)
}

/// A qvalue: 0 to 1 with at most three decimals (RFC 3261 §25.1).
fn thousandths(text: &str) -> Option<u16> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let digits = decimals.bytes().all(|byte| byte.is_ascii_digit());
    if decimals.len() > 3 || !digits || !["0", "1", ""].contains(&whole) || text.is_empty() {
        return None;
    }
    let whole: u16 = if whole == "1" { 1_000 } else { 0 };
    let decimals: u16 = format!("{decimals:0<3}").parse().ok()?;
    Some(whole + decimals).filter(|q| *q <= 1_000)
}

/// The parameters of a contact, looked through once. Of each name the first counts.
#[derive(Default)]
struct Said<'a> {
    q: Option<Option<&'a str>>,
    instance: Option<Option<&'a str>>,
    reg_id: Option<Option<&'a str>>,
    expires: Option<Option<&'a str>>,
    /// As written, without those that are the registrar's to say.
    kept: String,
}

impl<'a> Said<'a> {
    fn of(parameters: &Parameters<'a>) -> Self {
        let mut said = Self {
            kept: String::with_capacity(parameters.as_str().len()),
            ..Self::default()
        };
        for (written, name, value) in parameters.with_text() {
            let is = |other: &str| name.eq_ignore_ascii_case(other);
            let is_registrars = is("expires") || is("pub-gruu") || is("temp-gruu");
            if !is_registrars && !name.is_empty() {
                said.kept.push(';');
                said.kept.push_str(written);
            }
            let place = match name.len() {
                1 if is("q") => &mut said.q,
                6 if is("reg-id") => &mut said.reg_id,
                7 if is("expires") => &mut said.expires,
                13 if is("+sip.instance") => &mut said.instance,
                _ => continue,
            };
            place.get_or_insert(value);
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::header::NameAddr;
    use proptest::prelude::*;

    fn parse(value: &str) -> Result<Contact<'_>, Rejection> {
        let address = NameAddr::parse(value).ok();
        let address = address.and_then(|it| Some((it, Uri::parse(it.uri).ok()?)));
        Contact::of(value, address, None)
    }

    fn contact(value: &str) -> Contact<'_> {
        parse(value).unwrap()
    }

    #[test]
    fn a_contact_keeps_its_parameters_exactly_but_for_the_registrars_own() {
        let value = "\"Bob\" <sip:bob@192.0.2.1:5060;ob>;q=0.5; Expires=60 \
                     ;+sip.instance=\"<urn:uuid:00000000-0000-1000-8000-AABBCCDDEEFF>\"\
                     ;+g.3gpp.icsi-ref=\"urn%3Aurn-7%3Aa;b\";reg-id=1;pub-gruu=\"x\"";
        let contact = contact(value);
        assert_eq!(contact.uri.as_str(), "sip:bob@192.0.2.1:5060;ob");
        assert_eq!(
            contact.parameters,
            ";q=0.5;+sip.instance=\"<urn:uuid:00000000-0000-1000-8000-AABBCCDDEEFF>\"\
             ;+g.3gpp.icsi-ref=\"urn%3Aurn-7%3Aa;b\";reg-id=1"
        );
        assert_eq!(
            (contact.q, contact.expires, contact.reg_id),
            (500, Some(60), Some(1))
        );
    }

    #[test]
    fn q_has_at_most_three_decimals() {
        for (text, q) in [
            ("1", 1_000),
            ("0.25", 250),
            ("0", 0),
            ("1.000", 1_000),
            ("0.", 0),
        ] {
            assert_eq!(thousandths(text), Some(q), "{text}");
        }
        for text in ["1.001", "2", "0.1234", "-1", "", "0.x", "+1"] {
            assert_eq!(thousandths(text), None, "{text}");
        }
    }

    #[test]
    fn expires_that_cannot_be_read_is_an_hour_and_too_large_the_largest() {
        assert_eq!(contact("<sip:a@b>;expires=never").expires, Some(3_600));
        assert_eq!(
            contact("<sip:a@b>;expires=99999999999").expires,
            Some(u32::MAX)
        );
        assert_eq!(contact("<sip:a@b>").expires, None);
    }

    #[test]
    fn what_cannot_be_reached_is_no_contact() {
        for value in [
            "<tel:+15>",
            "<mailto:a@b>",
            "bob",
            "<sip:>",
            "<sip:a@b>;q=7",
        ] {
            assert!(parse(value) == Err(MALFORMED), "{value}");
        }
        assert_eq!(parse("<sips:a@b>"), Err(SECURE));
    }

    #[test]
    fn devices_are_told_apart_by_instance_and_else_by_uri() {
        let same = |a: &str, b: &str| contact(a).is_same(&contact(b).identification());
        assert!(same(
            "<sip:a@1.1.1.1>;+sip.instance=\"<u:A>\"",
            "<sip:a@2.2.2.2>;+sip.instance=\"<u:a>\""
        ));
        assert!(!same(
            "<sip:a@1.1.1.1>;+sip.instance=\"<u:A>\"",
            "<sip:a@1.1.1.1>;+sip.instance=\"<u:B>\""
        ));
        assert!(!same(
            "<sip:a@b>;+sip.instance=\"<u:A>\";reg-id=1",
            "<sip:a@b>;+sip.instance=\"<u:A>\";reg-id=2"
        ));
        assert!(same("<sip:a@B>;+sip.instance=\"<u:A>\"", "<sip:%61@b>"));
        assert!(!same("<sip:a@b>", "<sip:a@b:5060>"));
    }

    proptest! {
        #[test]
        fn no_value_makes_it_panic(value in "(<sip:a@b>)?\\PC{0,40}") {
            let _ = parse(&value);
        }
    }
}
