//! Which transaction a message belongs to: RFC 3261 §17.1.3, §17.2.3 and §8.2.2.2.
//!
//! The identifying fields are peers' text of any length, so a table keeps a keyed 128-bit digest of
//! them: a SipHash under random keys. Nobody outside can aim for a collision, and by chance
//! there is none. Half of a digest leaves the process
//! as a tag of stateless answers; of the rest only its equality is ever looked at.

use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroU64;

use siphasher::sip128::SipHasher13;
use smallvec::SmallVec;

use super::branch;
use crate::sip::message::{HeaderName, Message, Method};

/// The digest of what identifies a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(NonZeroU64, u64);

impl Key {
    /// Half of it, as a tag: nobody outside can find out the keys of the digest from it.
    pub fn as_tag(self) -> String {
        format!("{:016x}", self.0)
    }

    /// The other half, for a table: it is as good as all of it.
    pub(super) fn hash(self) -> u64 {
        self.1
    }
}

/// Makes the keys of one table.
#[derive(Debug)]
pub struct Keys(SipHasher13);

impl Default for Keys {
    fn default() -> Self {
        let random = || RandomState::new().hash_one(0);
        Self(SipHasher13::new_with_keys(random(), random()))
    }
}

impl Keys {
    /// The server transaction of `request` itself. An ACK gets the key of the INVITE it acknowledges
    /// (RFC 3261 §17.2.3).
    pub fn server(&self, request: &Message) -> Key {
        match request.method() {
            Method::Ack => self.server_as(request, "INVITE", None),
            _ => self.server_as(request, request.method_str(), None),
        }
    }

    /// The INVITE that a CANCEL cancels (RFC 3261 §9.2).
    pub fn cancelled_invite(&self, cancel: &Message) -> Key {
        self.server_as(cancel, "INVITE", None)
    }

    /// The initial INVITE of an RFC 2543 client, which had no To tag, that `ack` may acknowledge.
    /// `None` if the ACK's branch alone identifies it.
    pub fn initial_invite_of_old_ack(&self, ack: &Message) -> Option<Key> {
        let via = ack.top_via().ok();
        if via
            .and_then(|via| via.branch)
            .is_some_and(branch::has_magic_cookie)
        {
            return None;
        }
        Some(self.server_as(ack, "INVITE", Some("")))
    }

    /// What is equal in requests that reached us by several paths (RFC 3261 §8.2.2.2). `None` for a
    /// request with a To tag.
    pub fn merge(&self, request: &Message) -> Option<Key> {
        if request.to_tag().is_some() {
            return None;
        }
        let (number, method) = cseq(request);
        let number = number.to_be_bytes();
        Some(self.digest([
            b"merge",
            request.from_tag().unwrap_or_default().as_bytes(),
            request.call_id().unwrap_or_default().as_bytes(),
            &number,
            method.as_bytes(),
        ]))
    }

    /// The client transaction that sent `branch`. CANCEL shares its INVITE's branch, so the key tells
    /// INVITE from everything else.
    pub fn client(&self, branch: &str, is_invite: bool) -> Key {
        self.digest([b"client", branch.as_bytes(), &[u8::from(is_invite)]])
    }

    fn server_as(&self, request: &Message, method: &str, tag: Option<&str>) -> Key {
        let via = request.top_via().ok();
        if let Some(via) = via
            && let Some(branch) = via.branch.filter(|each| branch::has_magic_cookie(each))
        {
            let port = via.port.unwrap_or_default().to_be_bytes();
            return self.digest([
                b"server",
                branch.as_bytes(),
                via.host.as_bytes(),
                &port,
                method.as_bytes(),
            ]);
        }
        self.old_server(request, method, tag)
    }

    /// RFC 2543 clients: the fields that RFC 3261 §17.2.3 lists for them.
    fn old_server(&self, request: &Message, method: &str, tag: Option<&str>) -> Key {
        let (number, _) = cseq(request);
        self.digest([
            b"server of RFC 2543",
            request.request_uri().as_bytes(),
            tag.or_else(|| request.to_tag())
                .unwrap_or_default()
                .as_bytes(),
            request.from_tag().unwrap_or_default().as_bytes(),
            request.call_id().unwrap_or_default().as_bytes(),
            &number.to_be_bytes(),
            request
                .values(HeaderName::Via)
                .next()
                .unwrap_or_default()
                .as_bytes(),
            method.as_bytes(),
        ])
    }

    /// The number of parts and their lengths go in first, so that no text can move from one part to the next.
    fn digest<const PARTS: usize>(&self, parts: [&[u8]; PARTS]) -> Key {
        let mut octets: SmallVec<[u8; 256]> = SmallVec::new();
        let lengths = parts.map(|part| (part.len() as u32).to_be_bytes());
        octets.push(PARTS as u8);
        octets.extend_from_slice(lengths.as_flattened());
        for part in parts {
            octets.extend_from_slice(part);
        }
        let digest = self.0.hash(&octets);
        Key(
            NonZeroU64::new(digest.h1).unwrap_or(NonZeroU64::MIN),
            digest.h2,
        )
    }
}

/// Number and method.
fn cseq(message: &Message) -> (u32, &str) {
    message
        .cseq()
        .map_or((0, ""), |cseq| (cseq.number, cseq.method))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::sip::wire;

    fn request(method: &str, via: &str, to: &str) -> Message {
        let text = format!(
            "{method} sip:bob@example.com SIP/2.0\r\n\
             Via: SIP/2.0/UDP {via}\r\n\
             From: <sip:alice@example.com>;tag=a\r\n\
             To: <sip:bob@example.com>{to}\r\n\
             Call-ID: call\r\n\
             CSeq: 1 {method}\r\n\
             Content-Length: 0\r\n\r\n"
        );
        wire::parse(Bytes::from(text)).unwrap()
    }

    #[test]
    fn an_ack_has_its_invites_key_and_a_cancel_finds_it() {
        let keys = Keys::default();
        let via = "192.0.2.1;branch=z9hG4bK1";
        let invite = keys.server(&request("INVITE", via, ""));
        assert_eq!(keys.server(&request("ACK", via, ";tag=b")), invite);
        let cancel = request("CANCEL", via, "");
        assert_ne!(keys.server(&cancel), invite);
        assert_eq!(keys.cancelled_invite(&cancel), invite);
        assert_eq!(
            keys.initial_invite_of_old_ack(&request("ACK", via, "")),
            None
        );
    }

    #[test]
    fn text_cannot_move_from_one_field_to_the_next() {
        let keys = Keys::default();
        let first = keys.server(&request("INFO", "host1;branch=z9hG4bKa", ""));
        let second = keys.server(&request("INFO", "ost1;branch=z9hG4bKah", ""));
        assert_ne!(first, second);
    }

    #[test]
    fn a_branch_without_the_cookie_is_not_enough() {
        let keys = Keys::default();
        let via = "192.0.2.1;branch=1";
        let first = keys.server(&request("INFO", via, ";tag=b"));
        assert_eq!(keys.server(&request("INFO", via, ";tag=b")), first);
        assert_ne!(keys.server(&request("INFO", via, ";tag=c")), first);
        assert_ne!(
            keys.server(&request("INFO", "192.0.2.1;branch=2", ";tag=b")),
            first
        );
    }

    #[test]
    fn only_requests_outside_of_dialogs_can_merge() {
        let keys = Keys::default();
        let one = keys.merge(&request("INVITE", "a;branch=z9hG4bK1", ""));
        let two = keys.merge(&request("INVITE", "b;branch=z9hG4bK2", ""));
        assert!(one.is_some());
        assert_eq!(one, two);
        assert_ne!(keys.merge(&request("INFO", "a;branch=z9hG4bK1", "")), one);
        assert_eq!(keys.merge(&request("INVITE", "a", ";tag=b")), None);
    }

    #[test]
    fn another_table_makes_other_keys() {
        let message = request("INFO", "a;branch=z9hG4bK1", "");
        assert_ne!(
            Keys::default().server(&message),
            Keys::default().server(&message)
        );
    }

    #[test]
    fn a_cancel_and_its_invite_are_different_client_transactions() {
        let keys = Keys::default();
        assert_ne!(
            keys.client("z9hG4bK1", true),
            keys.client("z9hG4bK1", false)
        );
    }
}
