//! In whose name an envelope speaks (RFC 3862 §2.2.1).
//!
//! Who a message is from is what SIP says (cpm-facts §3.1), and clients write many things into the envelope;
//! but a device shows what it finds there, and the octets go to it as they came (decision 25 apart). So where
//! users prove who they are, an envelope that names somebody else is refused. Who hides writes
//! `anonymous.invalid`. Receipts have rules of their own.

use crate::cpim::{self, Envelope};
use crate::identity::Identity;
use crate::participating::service::Service;
use crate::registrar::{Directory, Resolved};
use crate::uri::{Uri, unescape};

impl Service {
    /// Whether envelopes are looked at for whom they name.
    pub(super) fn checks_names(&self) -> bool {
        self.settings.checks_names && !self.directory.is_open()
    }

    /// Whether a message of this author names somebody else as its author.
    pub(super) fn names_another(&self, author: &Identity, content_type: &str, body: &[u8]) -> bool {
        let is_looked_at =
            self.checks_names() && super::arrival::is_type(content_type, cpim::MEDIA_TYPE);
        if !is_looked_at {
            return false;
        }
        let Ok(envelope) = Envelope::parse(body) else {
            return false;
        };
        let is_receipt = crate::imdn::is_notification(envelope.content_type());
        !is_receipt && speaks_for_another(&self.directory, author, &envelope)
    }
}

/// Whether an envelope names somebody else, or leaves open whom: devices differ in which of two headers, or of
/// two addresses, they show.
fn speaks_for_another(directory: &Directory, author: &Identity, envelope: &Envelope<'_>) -> bool {
    let mut named = envelope.any_from();
    let Some(from) = named.next() else {
        return false;
    };
    let is_open = named.next().is_some() || from.matches('<').count() > 1;
    is_open || is_another(directory, author, cpim::uri_of(from))
}

/// Whether an address is somebody else's. What is no address names nobody, but what looks like one and cannot
/// be read may be anybody's; his name at another host is the author's own, as devices write it
/// (`sip:alice@192.0.2.7:5060`).
fn is_another(directory: &Directory, author: &Identity, from: &str) -> bool {
    // RFC 3860: the address of an instant inbox, by which RFC 3862 names people.
    let plain = without_scheme(from, "im").map(|rest| format!("sip:{rest}"));
    let Ok(uri) = Uri::parse(plain.as_deref().unwrap_or(from)) else {
        return looks_like_address(from);
    };
    if uri.host().eq_ignore_ascii_case("anonymous.invalid") {
        return false;
    }
    match directory.resolve(&uri) {
        Resolved::Local(user) => user != *author,
        Resolved::Unknown | Resolved::Foreign => {
            let user = uri.user().map(unescape).unwrap_or_default();
            !user.eq_ignore_ascii_case(author.user())
        }
    }
}

fn looks_like_address(text: &str) -> bool {
    let has = |scheme: &&str| without_scheme(text, scheme).is_some();
    text.contains('@') || ["sip", "sips", "tel", "im"].iter().any(has)
}

/// What follows a scheme and its colon.
fn without_scheme<'a>(text: &'a str, scheme: &str) -> Option<&'a str> {
    let (own, rest) = text.split_once(':')?;
    own.trim().eq_ignore_ascii_case(scheme).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCOUNTS: &str = "domain = \"im.test\"\n[registrar]\nauthentication = \"digest\"\n\
        [[account]]\nuser = \"alice\"\npassword = \"a\"\ntel = \"+15551234\"\n\
        [[account]]\nuser = \"bob\"\npassword = \"b\"\ntel = \"+15559999\"\n";

    #[test]
    fn an_author_is_named_in_many_ways_and_nobody_else_in_any() {
        let directory = Directory::new(&toml::from_str(ACCOUNTS).expect("a configuration"));
        let alice = Identity::new("alice", "im.test");
        for own in [
            "sip:alice@im.test",
            "sip:alice@im.test;gr=urn:uuid:1",
            "tel:+1-555-1234",
            "sip:+15551234@im.test;user=phone",
            "sip:alice@192.0.2.7:5060",
            "im:alice@im.test",
            "sip:anonymous@anonymous.invalid",
            "nobody",
            "",
        ] {
            assert!(!is_another(&directory, &alice, own), "{own}");
        }
        for other in [
            "sip:bob@im.test",
            "tel:+15559999",
            "sip:ceo@elsewhere.test",
            "sip:stranger@im.test",
            "im:bob@im.test",
            "sip:bob@im.test:99999",
            "sip:bob@under_score",
            "SIP: bob",
            "tel:",
            "bob@im.test",
        ] {
            assert!(is_another(&directory, &alice, other), "{other}");
        }
    }

    #[test]
    fn an_envelope_that_leaves_open_whom_it_names_speaks_for_another() {
        let directory = Directory::new(&toml::from_str(ACCOUNTS).expect("a configuration"));
        let alice = Identity::new("alice", "im.test");
        let speaks = |headers: &str| {
            let text = format!("{headers}\r\n\r\nContent-Type: text/plain\r\n\r\nhi");
            let envelope = Envelope::parse(text.as_bytes()).expect("an envelope");
            speaks_for_another(&directory, &alice, &envelope)
        };
        for own in [
            "From: Alice <sip:alice@im.test>",
            "from: <sip:alice@im.test>",
            "To: <sip:bob@im.test>",
        ] {
            assert!(!speaks(own), "{own}");
        }
        for open in [
            "From: <sip:alice@im.test>\r\nFrom: <sip:bob@im.test>",
            "From: <sip:alice@im.test>\r\nfrom: <sip:alice@im.test>",
            "FROM: <sip:bob@im.test>",
            "NS: x <urn:x>\r\nx.From: <sip:bob@im.test>",
            "NS: <urn:x>\r\nFrom: <sip:bob@im.test>",
            "y.From: <sip:bob@im.test>",
            "From: <sip:bob@im.test> <sip:alice@im.test>",
            "From: <sip:bob@im.test:99999>",
        ] {
            assert!(speaks(open), "{open}");
        }
    }
}
