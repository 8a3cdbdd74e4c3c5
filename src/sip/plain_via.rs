//! A Via as nearly every client writes it, read with one look: `SIP/2.0/UDP host:port;branch=…;rport`, without
//! blanks, quotes or a second element. What is written otherwise is left to [`Via::parse`](super::header::Via::parse), which says the same of
//! what is read here.

use std::net::SocketAddr;

use memchr::memchr;

use super::header::sent_by;
use super::reply;

const RPORT: &str = "rport";

/// See the module's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PlainVia<'a> {
    text: &'a str,
    host: &'a str,
    port: Option<u16>,
    /// Never with quotes.
    pub branch: Option<&'a str>,
    /// Where `;rport` without a value begins.
    rport: Option<usize>,
}

impl<'a> PlainVia<'a> {
    /// Reads one element; `None` for what is not written plainly, legal or not.
    pub fn read(text: &'a str) -> Option<Self> {
        let rest = text.strip_prefix("SIP/2.0/UDP ")?;
        if !is_plain(rest.as_bytes()) {
            return None;
        }
        let end = memchr(b';', rest.as_bytes()).unwrap_or(rest.len());
        let (host, port) = sent_by(&rest[..end])?;
        let mut via = Self {
            text,
            host,
            port,
            branch: None,
            rport: None,
        };
        let mut left = &rest[end..];
        while let Some(behind) = left.strip_prefix(';') {
            let end = memchr(b';', behind.as_bytes()).unwrap_or(behind.len());
            via.take(&behind[..end], text.len() - left.len())?;
            left = &behind[end..];
        }
        Some(via)
    }

    /// Takes a parameter that begins there with its semicolon.
    fn take(&mut self, parameter: &'a str, at: usize) -> Option<()> {
        if let Some(value) = parameter.strip_prefix("branch=") {
            return self.branch.replace(value).is_none().then_some(());
        }
        if parameter == RPORT {
            return self.rport.replace(at).is_none().then_some(());
        }
        let name = parameter.split('=').next().unwrap_or_default();
        let is_known = match name.len() {
            0 => true,
            5 => name.eq_ignore_ascii_case(RPORT),
            6 => name.eq_ignore_ascii_case("branch"),
            8 => name.eq_ignore_ascii_case("received"),
            _ => false,
        };
        (!is_known).then_some(())
    }

    /// Appends it as [`reply::push_stamped_via`] does, if it needs a stamp, else as it is.
    pub fn push_stamped(&self, out: &mut String, source: SocketAddr) {
        match self.rport {
            None if reply::is_at(self.host, source) => return out.push_str(self.text),
            None => out.push_str(self.text),
            Some(at) => {
                out.push_str(&self.text[..at]);
                out.push_str(&self.text[at + 1 + RPORT.len()..]);
            }
        }
        reply::push_source(out, self.rport.is_some(), source);
    }

    /// See [`return_port`].
    pub fn return_port(&self, source: SocketAddr) -> u16 {
        return_port(self.rport.is_some(), self.port, source)
    }
}

/// Whether there is nothing but visible ASCII, and of that nothing that encloses or separates.
fn is_plain(octets: &[u8]) -> bool {
    // To the end in any case: so it takes many octets at a time.
    let is_other = |octet: u8| !octet.is_ascii_graphic() || matches!(octet, b'"' | b',' | b'<');
    !(octets.iter()).fold(false, |found, octet| found | is_other(*octet))
}

/// The port that an answer goes to, where the Via has an `rport` and where its own port is this one
/// (RFC 3261 §18.2.2 and RFC 3581 §4).
pub(super) fn return_port(has_rport: bool, port: Option<u16>, source: SocketAddr) -> u16 {
    match has_rport {
        true => source.port(),
        false => port.unwrap_or(5060),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::header::Via;
    use proptest::prelude::*;

    fn source() -> SocketAddr {
        "192.0.2.7:4711".parse().expect("an address")
    }

    fn stamped(text: &str) -> Option<(String, u16)> {
        let mut out = String::new();
        let via = PlainVia::read(text)?;
        via.push_stamped(&mut out, source());
        Some((out, via.return_port(source())))
    }

    #[test]
    fn the_rport_of_a_client_is_filled_in_wherever_it_stands() {
        for (text, expected, port) in [
            (
                "h.test:5080;rport;branch=z9hG4bK1",
                "h.test:5080;branch=z9hG4bK1;received=192.0.2.7;rport=4711",
                4711,
            ),
            (
                "h.test;branch=z9hG4bK1;rport;keep",
                "h.test;branch=z9hG4bK1;keep;received=192.0.2.7;rport=4711",
                4711,
            ),
            (
                "h.test:5080;branch=z9hG4bK1",
                "h.test:5080;branch=z9hG4bK1;received=192.0.2.7",
                5080,
            ),
            (
                "192.0.2.7;branch=z9hG4bK1",
                "192.0.2.7;branch=z9hG4bK1",
                5060,
            ),
        ] {
            let expected = (format!("SIP/2.0/UDP {expected}"), port);
            assert_eq!(stamped(&format!("SIP/2.0/UDP {text}")), Some(expected));
        }
    }

    #[test]
    fn what_is_not_plain_is_left_alone() {
        for text in [
            "SIP / 2.0 / UDP h.test;branch=z9hG4bK1",
            "SIP/2.0/TCP h.test;branch=z9hG4bK1",
            "SIP/2.0/UDP h.test;branch=z9hG4bK1;rport=5",
            "SIP/2.0/UDP h.test;branch=z9hG4bK1;RPORT",
            "SIP/2.0/UDP h.test;branch=z9hG4bK1;rport;rport",
            "SIP/2.0/UDP h.test;branch=z9hG4bK1;branch=z9hG4bK2",
            "SIP/2.0/UDP h.test;Branch=z9hG4bK1",
            "SIP/2.0/UDP h.test;branch=z9hG4bK1;received=192.0.2.7",
            "SIP/2.0/UDP h.test;branch=\"z9hG4bK1\"",
            "SIP/2.0/UDP h.test;branch=z9hG4bK1, SIP/2.0/UDP x",
            "SIP/2.0/UDP h.test ;branch=z9hG4bK1",
            "SIP/2.0/UDP h.test;;branch=z9hG4bK1",
            "SIP/2.0/UDP h.test:99999;branch=z9hG4bK1",
            "SIP/2.0/UDP ;branch=z9hG4bK1",
            "SIP/2.0/UDP h.test;branch=z9hG4bK\u{e9}",
        ] {
            assert_eq!(PlainVia::read(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_plainly_reads_the_same_with_care(
            sent_by in "(192\\.0\\.2\\.7|[a-z.]{0,5}|\\[2001:db8::1\\])(:[0-9]{0,6})?",
            parameters in "(;(rport(=[0-9]{0,4})?|branch=(z9hG4bK)?[a-z0-9\"<, ]{0,3}|[Rr]eceived=::1|[a-z]{0,3}(=[a-z]{0,2})?)){0,5}",
        ) {
            let text = format!("SIP/2.0/UDP {sent_by}{parameters}");
            if let Some(plain) = PlainVia::read(&text) {
                let via = Via::parse(&text).expect("it is legal");
                prop_assert_eq!((plain.host, plain.port), (via.host, via.port));
                prop_assert_eq!(plain.branch, via.branch);
                let mut expected = String::new();
                match reply::needs_stamp(&via, source()) {
                    true => _ = reply::push_stamped_via(&mut expected, &via, &text, source()),
                    false => expected.push_str(&text),
                }
                let port = return_port(via.rport.is_some(), via.port, source());
                prop_assert_eq!(stamped(&text), Some((expected, port)));
            }
        }
    }
}
