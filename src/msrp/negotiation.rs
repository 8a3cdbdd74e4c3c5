//! Offer and answer for an MSRP session (RFC 3264, RFC 4975 §8, RFC 6135).
//!
//! This server can always be reached, so it offers `actpass` and answers `passive` whenever it may
//! (RFC 6135 §4.2). Whether a session is one over TLS shows in our URI. With CEMA (RFC 6714) the active
//! side connects to the `c=` and `m=` lines, which a middlebox may have changed, else to the path.

use std::net::{IpAddr, Ipv6Addr};

use super::fingerprint::Fingerprint;
use super::sdp::{Direction, MsrpMedia, SessionDescription, Setup, covers};
use super::uri::{MsrpPath, MsrpUri};

/// Our side of a session to be described.
#[derive(Clone, Copy, Debug)]
pub struct Local<'a> {
    /// Our URI; its host and port are also those of the `c=` and `m=` lines (RFC 4975 §8.1).
    pub uri: &'a MsrpUri,
    /// Types we take unwrapped, in order of preference.
    pub accept_types: &'a [&'a str],
    /// Types we take inside `message/cpim` only; `*` for any.
    pub accept_wrapped_types: &'a [&'a str],
    /// Which way we want messages to go.
    pub direction: Direction,
    /// Largest message we take, in octets.
    pub max_size: Option<u64>,
    /// `a=fingerprint` of our certificate, for sessions over TLS.
    pub fingerprint: Option<&'a str>,
    /// Whether we do CEMA (RFC 6714).
    pub cema: bool,
    /// `sess-id` of `o=`; some peers read it as a signed number, so at most 2⁶³ - 1.
    pub session: u64,
    /// `sess-version` of `o=`, one more for every changed description.
    pub version: u64,
}

/// Who opens the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We do, to the first URI of the peer's path, and SEND at once.
    Active,
    /// The peer does; its first request binds the connection.
    Passive,
}

/// What both sides have agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// The peer's path: first hop to connect to first, its session last.
    pub peer: MsrpPath,
    /// Who opens the connection.
    pub role: Role,
    /// Which way payload goes, from our side.
    pub direction: Direction,
    /// Types we said we take; all else is answered 415.
    pub accept_types: Vec<String>,
    /// Types the peer takes unwrapped.
    pub peer_types: Vec<String>,
    /// Types the peer takes wrapped.
    pub peer_wrapped_types: Vec<String>,
    /// Largest message the peer wants, in octets: a hint.
    pub peer_max_size: Option<u64>,
    /// Where the active side connects to: host and port.
    pub meets_at: (String, u16),
    /// What the peer's certificate has to hash to (RFC 4975 §14.4).
    pub fingerprint: Option<Fingerprint>,
}

/// No session can come of it: 488 with a Warning (RFC 3261 §21.4.26, §20.43).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status} ({warning} {text})")]
pub struct SdpRefusal {
    /// The status of the response.
    pub status: u16,
    /// The warn-code.
    pub warning: u16,
    /// The warn-text.
    pub text: &'static str,
}

impl SdpRefusal {
    const fn new(warning: u16, text: &'static str) -> Self {
        let status = 488;
        Self {
            status,
            warning,
            text,
        }
    }

    /// No MSRP section.
    pub const NO_MSRP: Self = Self::new(304, "Media type not available");
    /// An INVITE without a description: we make no offer for the person who is called.
    pub const NO_OFFER: Self = Self::new(399, "No session description");
    /// TLS where we do without, or the other way round.
    pub const NO_TLS: Self = Self::new(302, "Incompatible transport protocol");
    const NO_COMMON_TYPE: Self = Self::new(305, "Incompatible media format");
    const NO_PATH: Self = Self::new(305, "No usable path attribute");
    const NO_FINGERPRINT: Self = Self::new(399, "Unknown hash of a certificate");
    const MIDDLEBOX: Self = Self::new(399, "The path does not lead to the c= line");
}

/// Writes our offer.
pub fn offer(local: &Local<'_>) -> String {
    let mut out = session_lines(local);
    let ours = Ours {
        setup: Setup::ActPass,
        direction: local.direction,
        accept_types: &owned(local.accept_types),
        accept_wrapped_types: &owned(local.accept_wrapped_types),
        cema: local.cema,
    };
    put_section(&mut out, local, &ours);
    out
}

/// Answers an offer: the text, and what it means. Sections other than the first usable one are refused
/// with port 0.
pub fn answer(
    offer: &SessionDescription,
    local: &Local<'_>,
) -> Result<(String, Agreement), SdpRefusal> {
    let (place, theirs) = usable(offer, local)?;
    // RFC 6714 §4.2.2: a middlebox that the offerer does not reckon with.
    if local.cema && !theirs.cema && leads_elsewhere(theirs) {
        return Err(SdpRefusal::MIDDLEBOX);
    }
    let (setup, role) = match theirs.setup {
        // Not allowed in an offer (RFC 6135 §4.2), and yet clear.
        Some(Setup::Passive) => (Setup::Active, Role::Active),
        Some(Setup::Active | Setup::ActPass) | None => (Setup::Passive, Role::Passive),
    };
    let accept_types = common(&theirs.accept_types, &owned(local.accept_types));
    let agreement = agree(theirs, local, role, accept_types)?;
    let ours = Ours {
        setup,
        direction: agreement.direction,
        accept_types: &agreement.accept_types,
        accept_wrapped_types: &common(
            &theirs.accept_wrapped_types,
            &owned(local.accept_wrapped_types),
        ),
        cema: local.cema && theirs.cema,
    };
    let mut out = session_lines(local);
    for (index, section) in offer.sections.iter().enumerate() {
        if index == place {
            put_section(&mut out, local, &ours);
        } else {
            let (media, protocol, formats) = (&section.media, &section.protocol, &section.formats);
            put_line(&mut out, &format!("m={media} 0 {protocol} {formats}"));
        }
    }
    Ok((out, agreement))
}

/// Reads the answer to our offer.
pub fn accept_answer(
    local: &Local<'_>,
    answer: &SessionDescription,
) -> Result<Agreement, SdpRefusal> {
    let (_, theirs) = usable(answer, local)?;
    // Without an answer to it, `setup` has no effect: the offerer connects (RFC 4975 §5.4).
    let role = match theirs.setup {
        Some(Setup::Active) => Role::Passive,
        Some(Setup::Passive | Setup::ActPass) | None => Role::Active,
    };
    // RFC 6714 §4.2.1: the answerer would connect to our path, which does not lead to us.
    if local.cema && !theirs.cema && role == Role::Passive && leads_elsewhere(theirs) {
        return Err(SdpRefusal::MIDDLEBOX);
    }
    agree(theirs, local, role, owned(local.accept_types))
}

/// The first section that speaks TLS if we do, and none if we do not.
fn usable<'a>(
    description: &'a SessionDescription,
    local: &Local<'_>,
) -> Result<(usize, &'a MsrpMedia), SdpRefusal> {
    let mut sections = description.usable();
    if let Some(usable) = sections.find(|(_, media)| media.secure == local.uri.is_secure()) {
        return Ok(usable);
    }
    Err(match description.usable().next() {
        Some(_) => SdpRefusal::NO_TLS,
        None => SdpRefusal::NO_MSRP,
    })
}

/// Whether the `c=` and `m=` lines name another place than the path (RFC 6714 §4.2). A host name may
/// be that address; only addresses are compared.
fn leads_elsewhere(theirs: &MsrpMedia) -> bool {
    let Some(first) = theirs.path.as_ref().map(MsrpPath::first) else {
        return false;
    };
    let address = |text: &str| text.parse::<IpAddr>().ok();
    let named = theirs.connection.as_deref().and_then(address);
    let other_host = match (address(first.host()), named) {
        (Some(path), Some(line)) => path != line,
        _ => false,
    };
    other_host || first.port().is_some_and(|port| port != theirs.port)
}

/// Where the active side connects to (RFC 6714 §4.3): with CEMA, and without relays, the `c=` line.
fn meeting_place(theirs: &MsrpMedia, peer: &MsrpPath, local: &Local<'_>) -> (String, u16) {
    let both = local.cema && theirs.cema && peer.uris().len() == 1;
    match theirs.connection.as_ref().filter(|_| both) {
        Some(host) => (host.clone(), theirs.port),
        None => {
            let first = peer.first();
            (first.host().to_owned(), first.port().unwrap_or(2855))
        }
    }
}

fn agree(
    theirs: &MsrpMedia,
    local: &Local<'_>,
    role: Role,
    accept_types: Vec<String>,
) -> Result<Agreement, SdpRefusal> {
    let peer = theirs.path.clone().ok_or(SdpRefusal::NO_PATH)?;
    let secure = local.uri.is_secure();
    let connectable = peer.first().port().is_some() && peer.first().is_secure() == secure;
    if !connectable {
        return Err(SdpRefusal::NO_PATH);
    }
    // RFC 4975 §8.6: 488 if nothing of what is offered is understood.
    if common(&theirs.accept_types, &owned(local.accept_types)).is_empty() {
        return Err(SdpRefusal::NO_COMMON_TYPE);
    }
    let fingerprint = theirs.fingerprint.as_deref().filter(|_| secure);
    let read = fingerprint.map(|value| Fingerprint::parse(value).ok_or(SdpRefusal::NO_FINGERPRINT));
    Ok(Agreement {
        meets_at: meeting_place(theirs, &peer, local),
        fingerprint: read.transpose()?,
        peer,
        role,
        direction: theirs.direction.reversed().and(local.direction),
        accept_types,
        peer_types: theirs.accept_types.clone(),
        peer_wrapped_types: theirs.accept_wrapped_types.clone(),
        peer_max_size: theirs.max_size,
    })
}

/// The types both lists stand for, in the order of the first.
fn common(theirs: &[String], ours: &[String]) -> Vec<String> {
    let mut common: Vec<String> = Vec::new();
    for their in theirs {
        for our in ours {
            let both = if covers(our, their) {
                their
            } else if covers(their, our) {
                our
            } else {
                continue;
            };
            if !common.contains(both) {
                common.push(both.clone());
            }
        }
    }
    common
}

fn owned(types: &[&str]) -> Vec<String> {
    types.iter().map(|text| (*text).to_owned()).collect()
}

/// What our section says.
struct Ours<'a> {
    setup: Setup,
    direction: Direction,
    accept_types: &'a [String],
    accept_wrapped_types: &'a [String],
    cema: bool,
}

fn session_lines(local: &Local<'_>) -> String {
    let host = local.uri.host();
    let family = if host.parse::<Ipv6Addr>().is_ok() {
        6
    } else {
        4
    };
    let (session, version) = (local.session, local.version);
    format!(
        "v=0\r\no=- {session} {version} IN IP{family} {host}\r\ns=-\r\n\
         c=IN IP{family} {host}\r\nt=0 0\r\n"
    )
}

/// The direction is always written: one client reads its absence as `sendonly`.
fn put_section(out: &mut String, local: &Local<'_>, ours: &Ours<'_>) {
    // 9 is the discard port: nothing listens (RFC 4145 §4.1).
    let port = local.uri.port().unwrap_or(9);
    let mut put = |line: &str| put_line(out, line);
    let protocol = if local.uri.is_secure() {
        "TCP/TLS/MSRP"
    } else {
        "TCP/MSRP"
    };
    put(&format!("m=message {port} {protocol} *"));
    put(&format!("a=accept-types:{}", ours.accept_types.join(" ")));
    if !ours.accept_wrapped_types.is_empty() {
        let types = ours.accept_wrapped_types.join(" ");
        put(&format!("a=accept-wrapped-types:{types}"));
    }
    put(&format!("a=path:{}", local.uri));
    put(&format!("a=setup:{}", ours.setup));
    put(&format!("a={}", ours.direction));
    if let Some(fingerprint) = local.fingerprint.filter(|_| local.uri.is_secure()) {
        put(&format!("a=fingerprint:{fingerprint}"));
    }
    if ours.cema {
        put("a=msrp-cema");
    }
    if let Some(max_size) = local.max_size {
        put(&format!("a=max-size:{max_size}"));
    }
}

/// Values of a peer come back in our lines: without control characters they cannot add lines.
fn put_line(out: &mut String, line: &str) {
    out.extend(line.chars().filter(|c| !c.is_control()));
    out.push_str("\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OFFER: &str = "v=0\r\n\
        o=- 3982480110 3982480110 IN IP4 192.0.2.10\r\n\
        s=-\r\n\
        c=IN IP4 192.0.2.10\r\n\
        t=0 0\r\n\
        m=message 2855 TCP/MSRP *\r\n\
        a=accept-types:message/cpim\r\n\
        a=accept-wrapped-types:text/plain message/imdn+xml\r\n\
        a=path:msrp://192.0.2.10:2855/9sKd83hdTr02bXq7;tcp\r\n\
        a=setup:actpass\r\n\
        a=sendonly\r\n";

    fn uri() -> MsrpUri {
        MsrpUri::of_session("192.0.2.10", 2855, "9sKd83hdTr02bXq7").unwrap()
    }

    fn local(uri: &MsrpUri) -> Local<'_> {
        Local {
            uri,
            accept_types: &["message/cpim"],
            accept_wrapped_types: &["*"],
            direction: Direction::SendRecv,
            max_size: None,
            fingerprint: None,
            cema: false,
            session: 3_982_480_110,
            version: 3_982_480_110,
        }
    }

    fn parse(text: &str) -> SessionDescription {
        SessionDescription::parse(text.as_bytes()).unwrap()
    }

    fn refusal(text: &str) -> u16 {
        let refusal = answer(&parse(text), &local(&uri())).unwrap_err();
        assert_eq!(refusal.status, 488);
        refusal.warning
    }

    #[test]
    fn the_replay_offer_is_the_sample() {
        let uri = uri();
        let local = Local {
            accept_wrapped_types: &["text/plain", "message/imdn+xml"],
            direction: Direction::SendOnly,
            ..local(&uri)
        };
        let text = offer(&local);
        assert_eq!(text, OFFER);
        assert_eq!(text.len(), 272);
    }

    #[test]
    fn the_sample_answer_makes_us_passive() {
        let theirs = OFFER
            .replace("actpass", "active")
            .replace("sendonly", "recvonly")
            .replace(
                "msrp://192.0.2.10:2855/9sKd83hdTr02bXq7",
                "msrp://198.51.100.20:9/jR4m9Yt0LwPz6cVa",
            );
        let uri = uri();
        let ours = Local {
            direction: Direction::SendOnly,
            ..local(&uri)
        };
        let agreement = accept_answer(&ours, &parse(&theirs)).unwrap();
        assert_eq!(agreement.role, Role::Passive);
        assert_eq!(agreement.direction, Direction::SendOnly);
        assert_eq!(agreement.peer.last().session_id(), Some("jR4m9Yt0LwPz6cVa"));
        assert_eq!(agreement.peer_types, ["message/cpim"]);
        assert_eq!(
            agreement.peer_wrapped_types,
            ["text/plain", "message/imdn+xml"]
        );
        let passive = accept_answer(
            &ours,
            &parse(&theirs.replace("setup:active", "setup:passive")),
        );
        assert_eq!(passive.unwrap().role, Role::Active);
        // RFC 4975 §5.4: without setup the offerer connects.
        let silent = accept_answer(&ours, &parse(&theirs.replace("a=setup:active\r\n", "")));
        assert_eq!(silent.unwrap().role, Role::Active);
    }

    #[test]
    fn an_answer_mirrors_direction_and_is_passive_when_it_may_be() {
        for (theirs, ours, role) in [
            ("a=setup:actpass", "a=setup:passive", Role::Passive),
            ("a=setup:active", "a=setup:passive", Role::Passive),
            ("a=setup:holdconn", "a=setup:passive", Role::Passive),
            ("a=x", "a=setup:passive", Role::Passive),
            ("a=setup:passive", "a=setup:active", Role::Active),
        ] {
            let offer = parse(&OFFER.replace("a=setup:actpass", theirs));
            let (text, agreement) = answer(&offer, &local(&uri())).unwrap();
            assert!(
                text.contains(&format!("{ours}\r\na=recvonly\r\n")),
                "{text}"
            );
            assert_eq!(agreement.role, role);
            assert_eq!(agreement.direction, Direction::RecvOnly);
        }
    }

    #[test]
    fn other_media_are_refused_with_port_zero() {
        let audio = "m=audio 5004/2 RTP/AVP 0 8\r\na=rtpmap:0 PCMU/8000\r\na=sendonly\r\n";
        let offer = parse(&OFFER.replace("m=message", &format!("{audio}m=message")));
        let (text, agreement) = answer(&offer, &local(&uri())).unwrap();
        assert!(text.contains("m=audio 0 RTP/AVP 0 8\r\nm=message 2855 TCP/MSRP *\r\n"));
        assert_eq!(agreement.direction, Direction::RecvOnly);
        let second = format!("{OFFER}m=message 2856 TCP/MSRP *\r\na=path:msrp://h:2856/x;tcp\r\n");
        let (text, _) = answer(&parse(&second), &local(&uri())).unwrap();
        assert!(text.ends_with("m=message 0 TCP/MSRP *\r\n"), "{text}");
    }

    #[test]
    fn what_cannot_be_agreed_on_is_refused_with_its_warning() {
        assert_eq!(refusal(&OFFER.replace("TCP/MSRP", "TCP/TLS/MSRP")), 302);
        assert_eq!(refusal(&OFFER.replace("m=message", "m=audio")), 304);
        assert_eq!(
            refusal(&OFFER.replace("m=message 2855", "m=message 0")),
            304
        );
        assert_eq!(refusal("v=0\r\n"), 304);
        assert_eq!(
            refusal(&OFFER.replace("types:message/cpim", "types:text/plain")),
            305
        );
        assert_eq!(refusal(&OFFER.replace("a=path:msrp:", "a=path:http:")), 305);
        assert_eq!(
            refusal(&OFFER.replace("a=path:msrp:", "a=path:msrps:")),
            305
        );
        assert_eq!(refusal(&OFFER.replace("a=path:", "a=x:")), 305);
    }

    fn secure_uri() -> MsrpUri {
        MsrpUri::of_secure_session("192.0.2.10", 2855, "9sKd83hdTr02bXq7").unwrap()
    }

    /// The sample over TLS, with a fingerprint.
    fn secure_offer() -> String {
        let fingerprint = crate::msrp::fingerprint::fingerprint_of(b"theirs");
        let secure = OFFER.replace("TCP/MSRP", "TCP/TLS/MSRP");
        let secure = secure.replace("a=path:msrp:", "a=path:msrps:");
        format!("{secure}a=fingerprint:{fingerprint}\r\n")
    }

    #[test]
    fn tls_is_answered_with_tls_and_our_fingerprint() {
        let uri = secure_uri();
        let ours = Local {
            fingerprint: Some("SHA-256 AA:BB"),
            ..local(&uri)
        };
        let (text, agreement) = answer(&parse(&secure_offer()), &ours).unwrap();
        assert!(text.contains("m=message 2855 TCP/TLS/MSRP *\r\n"), "{text}");
        assert!(text.contains("a=path:msrps://192.0.2.10:2855/"), "{text}");
        assert!(text.contains("a=fingerprint:SHA-256 AA:BB\r\n"), "{text}");
        assert!(agreement.fingerprint.unwrap().matches(b"theirs"));
        let plain = answer(&parse(OFFER), &ours).unwrap_err();
        assert_eq!(plain.warning, 302, "TCP is not what we do here");
        let md5 = secure_offer().replace("SHA-256", "MD5");
        assert_eq!(answer(&parse(&md5), &ours).unwrap_err().warning, 399);
    }

    /// The sample as a middlebox leaves it, which changes the lines and not the path.
    fn behind_a_middlebox() -> String {
        OFFER
            .replace("c=IN IP4 192.0.2.10", "c=IN IP4 198.51.100.1")
            .replace("m=message 2855", "m=message 5000")
    }

    #[test]
    fn with_cema_the_active_side_connects_to_the_c_line() {
        let uri = uri();
        let ours = Local {
            cema: true,
            ..local(&uri)
        };
        assert!(offer(&ours).contains("a=msrp-cema\r\n"));
        let passive = format!("{}a=msrp-cema\r\n", behind_a_middlebox());
        let passive = passive.replace("actpass", "passive");
        let (text, agreement) = answer(&parse(&passive), &ours).unwrap();
        assert!(text.contains("a=msrp-cema\r\n"), "{text}");
        assert_eq!(agreement.meets_at, ("198.51.100.1".to_owned(), 5000));
        assert_eq!(
            agreement.peer.first().host(),
            "192.0.2.10",
            "the path stays"
        );
        let both = accept_answer(&ours, &parse(&passive)).unwrap();
        assert_eq!(both.meets_at, ("198.51.100.1".to_owned(), 5000));
        let (text, agreement) = answer(&parse(&passive), &local(&uri)).unwrap();
        assert!(!text.contains("msrp-cema"), "{text}");
        assert_eq!(agreement.meets_at, ("192.0.2.10".to_owned(), 2855));
    }

    #[test]
    fn a_middlebox_that_the_peer_does_not_know_of_is_found_out() {
        let uri = uri();
        let ours = Local {
            cema: true,
            ..local(&uri)
        };
        let refused = answer(&parse(&behind_a_middlebox()), &ours).unwrap_err();
        assert_eq!(refused.status, 488);
        assert!(answer(&parse(OFFER), &ours).is_ok(), "nothing was changed");
        let active = behind_a_middlebox().replace("actpass", "active");
        assert!(accept_answer(&ours, &parse(&active)).is_err());
        let passive = behind_a_middlebox().replace("actpass", "passive");
        let agreement = accept_answer(&ours, &parse(&passive)).unwrap();
        assert_eq!(
            agreement.meets_at,
            ("192.0.2.10".to_owned(), 2855),
            "we connect to the path"
        );
    }

    #[test]
    fn types_shrink_to_what_both_take() {
        let offered = OFFER.replace(
            "types:message/cpim",
            "types:Message/CPIM;x=1 application/im-iscomposing+xml text/*",
        );
        let uri = uri();
        let ours = Local {
            accept_types: &["text/plain", "message/cpim", "text/html"],
            ..local(&uri)
        };
        let (_, agreement) = answer(&parse(&offered), &ours).unwrap();
        let expected = ["Message/CPIM;x=1", "text/plain", "text/html"];
        assert_eq!(agreement.accept_types, expected);
        let anything = OFFER.replace("types:message/cpim", "types:*");
        let (text, agreement) = answer(&parse(&anything), &ours).unwrap();
        assert_eq!(agreement.accept_types, ours.accept_types);
        assert!(text.contains("a=accept-types:text/plain message/cpim text/html\r\n"));
        assert!(text.contains("a=accept-wrapped-types:text/plain message/imdn+xml\r\n"));
    }

    /// An independent parser has to find what we meant to say.
    #[test]
    fn another_parser_reads_what_we_write() {
        let uri = MsrpUri::of_session("2001:db8::1", 2855, "0.abc").unwrap();
        let local = Local {
            max_size: Some(1000),
            ..local(&uri)
        };
        let text = offer(&local);
        let read = sdp_types::Session::parse(text.as_bytes()).unwrap();
        assert_eq!(read.origin.sess_id, "3982480110");
        assert_eq!(read.origin.unicast_address, "2001:db8::1");
        assert_eq!(read.connection.unwrap().connection_address, "2001:db8::1");
        let media = &read.medias[0];
        assert_eq!((media.media.as_str(), media.port), ("message", 2855));
        assert_eq!(
            (media.proto.as_str(), media.fmt.as_str()),
            ("TCP/MSRP", "*")
        );
        let attribute = |name: &str| {
            let found = media.attributes.iter().find(|a| a.attribute == name);
            found.map(|a| a.value.clone())
        };
        assert_eq!(attribute("path"), Some(Some(uri.to_string())));
        assert_eq!(attribute("accept-types"), Some(Some("message/cpim".into())));
        assert_eq!(attribute("accept-wrapped-types"), Some(Some("*".into())));
        assert_eq!(attribute("setup"), Some(Some("actpass".into())));
        assert_eq!(attribute("max-size"), Some(Some("1000".into())));
        assert_eq!(attribute("sendrecv"), Some(None));
        let (answer, _) = answer(&parse(&text), &local).unwrap();
        assert!(sdp_types::Session::parse(answer.as_bytes()).is_ok());
        let ours = parse(&text);
        let (_, media) = ours.usable().next().unwrap();
        assert_eq!(media.connection.as_deref(), Some("2001:db8::1"));
        assert_eq!(media.max_size, Some(1000));
    }

    proptest! {
        #[test]
        fn every_answer_is_read_by_another_parser_with_as_many_sections(
            sections in proptest::collection::vec(0usize..4, 0..5)
        ) {
            let mut text = OFFER.to_owned();
            for section in &sections {
                text.push_str([
                    "m=audio 5004 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n",
                    "m=message 1 TCP/TLS/MSRP *\r\na=path:msrps://h:1/x;tcp\r\n",
                    "m=message 0 TCP/MSRP *\r\n",
                    "m=image 1 udptl t38\r\n",
                ][*section]);
            }
            let (answer, _) = answer(&parse(&text), &local(&uri())).unwrap();
            let read = sdp_types::Session::parse(answer.as_bytes()).unwrap();
            prop_assert_eq!(read.medias.len(), sections.len() + 1);
            prop_assert!(read.medias[1..].iter().all(|media| media.port == 0));
            prop_assert_eq!(parse(&answer).sections.len(), sections.len() + 1);
        }
    }
}
