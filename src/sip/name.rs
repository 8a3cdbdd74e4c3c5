//! The words of SIP that are looked for: methods and header field names.

/// A method (RFC 3261 §7.1); compared with case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is the method of its name")]
pub enum Method {
    Invite,
    Ack,
    Cancel,
    Bye,
    Options,
    Register,
    Message,
    Subscribe,
    Notify,
    Publish,
    Info,
    Update,
    Refer,
    Prack,
    /// Any other; see `Message::method_str`.
    Other,
}

impl Method {
    /// Recognises a method token.
    pub fn parse(token: &[u8]) -> Self {
        match token {
            b"INVITE" => Self::Invite,
            b"ACK" => Self::Ack,
            b"CANCEL" => Self::Cancel,
            b"BYE" => Self::Bye,
            b"OPTIONS" => Self::Options,
            b"REGISTER" => Self::Register,
            b"MESSAGE" => Self::Message,
            b"SUBSCRIBE" => Self::Subscribe,
            b"NOTIFY" => Self::Notify,
            b"PUBLISH" => Self::Publish,
            b"INFO" => Self::Info,
            b"UPDATE" => Self::Update,
            b"REFER" => Self::Refer,
            b"PRACK" => Self::Prack,
            _ => Self::Other,
        }
    }
}

/// A header field name that somebody here asks for; compact forms count as their long name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is the header field of its name")]
pub enum HeaderName {
    Via,
    From,
    To,
    CallId,
    CSeq,
    Contact,
    MaxForwards,
    Route,
    RecordRoute,
    Path,
    ServiceRoute,
    ContentType,
    ContentLength,
    ContentEncoding,
    ContentDisposition,
    ContentLanguage,
    MimeVersion,
    Expires,
    MinExpires,
    Date,
    Subject,
    Supported,
    Require,
    ProxyRequire,
    Unsupported,
    Allow,
    Accept,
    AcceptEncoding,
    Authorization,
    ProxyAuthorization,
    WwwAuthenticate,
    ProxyAuthenticate,
    AuthenticationInfo,
    UserAgent,
    Server,
    Warning,
    Reason,
    RetryAfter,
    Event,
    SubscriptionState,
    RAck,
    RSeq,
    ReferTo,
    ReferredBy,
    Replaces,
    SessionExpires,
    MinSe,
    MaxBreadth,
    Privacy,
    PAssertedIdentity,
    PPreferredIdentity,
    PAssertedService,
    PPreferredService,
    PAssociatedUri,
    PCalledPartyId,
    PServedUser,
    AcceptContact,
    RejectContact,
    RequestDisposition,
    ConversationId,
    ContributionId,
    InReplyToContributionId,
    /// Any other; its name stands in the message.
    Other,
}

/// The long names, in the order of [`HeaderName`].
const LONG: [(HeaderName, &str); 62] = [
    (HeaderName::Via, "Via"),
    (HeaderName::From, "From"),
    (HeaderName::To, "To"),
    (HeaderName::CallId, "Call-ID"),
    (HeaderName::CSeq, "CSeq"),
    (HeaderName::Contact, "Contact"),
    (HeaderName::MaxForwards, "Max-Forwards"),
    (HeaderName::Route, "Route"),
    (HeaderName::RecordRoute, "Record-Route"),
    (HeaderName::Path, "Path"),
    (HeaderName::ServiceRoute, "Service-Route"),
    (HeaderName::ContentType, "Content-Type"),
    (HeaderName::ContentLength, "Content-Length"),
    (HeaderName::ContentEncoding, "Content-Encoding"),
    (HeaderName::ContentDisposition, "Content-Disposition"),
    (HeaderName::ContentLanguage, "Content-Language"),
    (HeaderName::MimeVersion, "MIME-Version"),
    (HeaderName::Expires, "Expires"),
    (HeaderName::MinExpires, "Min-Expires"),
    (HeaderName::Date, "Date"),
    (HeaderName::Subject, "Subject"),
    (HeaderName::Supported, "Supported"),
    (HeaderName::Require, "Require"),
    (HeaderName::ProxyRequire, "Proxy-Require"),
    (HeaderName::Unsupported, "Unsupported"),
    (HeaderName::Allow, "Allow"),
    (HeaderName::Accept, "Accept"),
    (HeaderName::AcceptEncoding, "Accept-Encoding"),
    (HeaderName::Authorization, "Authorization"),
    (HeaderName::ProxyAuthorization, "Proxy-Authorization"),
    (HeaderName::WwwAuthenticate, "WWW-Authenticate"),
    (HeaderName::ProxyAuthenticate, "Proxy-Authenticate"),
    (HeaderName::AuthenticationInfo, "Authentication-Info"),
    (HeaderName::UserAgent, "User-Agent"),
    (HeaderName::Server, "Server"),
    (HeaderName::Warning, "Warning"),
    (HeaderName::Reason, "Reason"),
    (HeaderName::RetryAfter, "Retry-After"),
    (HeaderName::Event, "Event"),
    (HeaderName::SubscriptionState, "Subscription-State"),
    (HeaderName::RAck, "RAck"),
    (HeaderName::RSeq, "RSeq"),
    (HeaderName::ReferTo, "Refer-To"),
    (HeaderName::ReferredBy, "Referred-By"),
    (HeaderName::Replaces, "Replaces"),
    (HeaderName::SessionExpires, "Session-Expires"),
    (HeaderName::MinSe, "Min-SE"),
    (HeaderName::MaxBreadth, "Max-Breadth"),
    (HeaderName::Privacy, "Privacy"),
    (HeaderName::PAssertedIdentity, "P-Asserted-Identity"),
    (HeaderName::PPreferredIdentity, "P-Preferred-Identity"),
    (HeaderName::PAssertedService, "P-Asserted-Service"),
    (HeaderName::PPreferredService, "P-Preferred-Service"),
    (HeaderName::PAssociatedUri, "P-Associated-URI"),
    (HeaderName::PCalledPartyId, "P-Called-Party-ID"),
    (HeaderName::PServedUser, "P-Served-User"),
    (HeaderName::AcceptContact, "Accept-Contact"),
    (HeaderName::RejectContact, "Reject-Contact"),
    (HeaderName::RequestDisposition, "Request-Disposition"),
    (HeaderName::ConversationId, "Conversation-ID"),
    (HeaderName::ContributionId, "Contribution-ID"),
    (
        HeaderName::InReplyToContributionId,
        "InReplyTo-Contribution-ID",
    ),
];

const VACANT: u8 = u8::MAX;

/// Places in [`LONG`] by hash, open addressing, filled by the compiler: a message has twenty names to
/// recognise, and one or two looks find each.
static SLOTS: [u8; 256] = {
    let mut slots = [VACANT; 256];
    let mut index = 0;
    while index < LONG.len() {
        let mut slot = slot_of(LONG[index].1.as_bytes());
        while slots[slot] != VACANT {
            slot = (slot + 1) % slots.len();
        }
        slots[slot] = index as u8;
        index += 1;
    }
    slots
};

/// The same for every case of letters; `name` is not empty.
const fn slot_of(name: &[u8]) -> usize {
    let length = name.len();
    let first = (name[0] | 0x20) as usize;
    let middle = (name[length / 2] | 0x20) as usize;
    let last = (name[length - 1] | 0x20) as usize;
    (length * 37 + first * 7 + middle * 13 + last * 3) % 256
}

impl HeaderName {
    /// How many there are.
    pub(super) const COUNT: usize = Self::Other as usize + 1;

    /// Recognises a name without regard to case (RFC 3261 §7.3.1) and in its compact form (§7.3.3).
    pub fn parse(name: &[u8]) -> Self {
        if let [letter] = name {
            return Self::compact(letter.to_ascii_lowercase());
        }
        if name.is_empty() {
            return Self::Other;
        }
        let mut slot = slot_of(name);
        while let Some((id, long)) = LONG.get(usize::from(SLOTS[slot])) {
            if long.as_bytes() == name || long.as_bytes().eq_ignore_ascii_case(name) {
                return *id;
            }
            slot = (slot + 1) % SLOTS.len();
        }
        Self::Other
    }

    /// The long name; `None` for [`HeaderName::Other`].
    pub fn long(self) -> Option<&'static str> {
        LONG.get(self as usize).map(|(_, long)| *long)
    }

    fn compact(letter: u8) -> Self {
        match letter {
            b'v' => Self::Via,
            b'f' => Self::From,
            b't' => Self::To,
            b'i' => Self::CallId,
            b'm' => Self::Contact,
            b'c' => Self::ContentType,
            b'l' => Self::ContentLength,
            b'e' => Self::ContentEncoding,
            b's' => Self::Subject,
            b'k' => Self::Supported,
            b'o' => Self::Event,
            b'r' => Self::ReferTo,
            b'b' => Self::ReferredBy,
            b'x' => Self::SessionExpires,
            b'a' => Self::AcceptContact,
            b'j' => Self::RejectContact,
            b'd' => Self::RequestDisposition,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_without_case_and_in_compact_form() {
        assert_eq!(HeaderName::parse(b"cALL-id"), HeaderName::CallId);
        assert_eq!(HeaderName::parse(b"I"), HeaderName::CallId);
        assert_eq!(HeaderName::parse(b"X-Call-ID"), HeaderName::Other);
        assert_eq!(HeaderName::parse(b"q"), HeaderName::Other);
        assert_eq!(HeaderName::parse(b""), HeaderName::Other);
        for (id, long) in LONG {
            assert_eq!(id.long(), Some(long));
            assert_eq!(HeaderName::parse(long.as_bytes()), id);
            assert_eq!(HeaderName::parse(long.to_uppercase().as_bytes()), id);
        }
        assert_eq!(HeaderName::Other.long(), None);
    }

    #[test]
    fn methods_are_compared_with_case() {
        assert_eq!(Method::parse(b"MESSAGE"), Method::Message);
        assert_eq!(Method::parse(b"message"), Method::Other);
    }
}
