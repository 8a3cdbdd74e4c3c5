//! The `m=message` section of a session description (RFC 4975 §8, RFC 6135), read.
//!
//! The lines every session description shares go to `webrtc_sdp::parse_sdp_line`, one at a time; that
//! crate knows neither `TCP/MSRP` nor the attributes of MSRP, which are read here. What is not
//! understood is skipped, as SDP demands. What to answer is decided in [`super::negotiation`].

use std::fmt;

use webrtc_sdp::attribute_type::{SdpAttribute, SdpAttributeSetup};
use webrtc_sdp::{SdpType, parse_sdp_line};

use super::uri::MsrpPath;

/// Largest description that is read, in octets.
pub const MAX_DESCRIPTION: usize = 32 * 1024;
const MAX_LINES: usize = 512;
const MAX_SECTIONS: usize = 16;
const MAX_TYPES: usize = 64;

/// Why a description was not understood: the request that carries it is answered 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SdpError {
    /// Over a bound.
    #[error("session description too large")]
    TooLarge,
    /// Not text, or a line that is not `letter=value`.
    #[error("malformed session description")]
    Malformed,
    /// It does not begin with `v=0`.
    #[error("unknown version of SDP")]
    Version,
    /// A malformed `m=` line.
    #[error("malformed media line")]
    MediaLine,
}

/// Which way SEND requests with payload go (RFC 4975 §8.9), from the writer's side. REPORTs, bodiless
/// SENDs and disposition notifications are not bound by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// Both ways; what absence means.
    #[default]
    SendRecv,
    /// The writer only sends.
    SendOnly,
    /// The writer only receives.
    RecvOnly,
    /// Neither.
    Inactive,
}

impl Direction {
    /// Whether the writer sends.
    pub const fn sends(self) -> bool {
        matches!(self, Self::SendRecv | Self::SendOnly)
    }

    /// Whether the writer receives.
    pub const fn receives(self) -> bool {
        matches!(self, Self::SendRecv | Self::RecvOnly)
    }

    /// The same stream seen from the other side.
    pub const fn reversed(self) -> Self {
        Self::of(self.receives(), self.sends())
    }

    /// What both allow.
    pub const fn and(self, other: Self) -> Self {
        Self::of(
            self.sends() && other.sends(),
            self.receives() && other.receives(),
        )
    }

    const fn of(sends: bool, receives: bool) -> Self {
        match (sends, receives) {
            (true, true) => Self::SendRecv,
            (true, false) => Self::SendOnly,
            (false, true) => Self::RecvOnly,
            (false, false) => Self::Inactive,
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SendRecv => "sendrecv",
            Self::SendOnly => "sendonly",
            Self::RecvOnly => "recvonly",
            Self::Inactive => "inactive",
        })
    }
}

/// `a=setup`: who opens the connection (RFC 6135 §4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setup {
    /// The writer opens it.
    Active,
    /// The writer waits for it.
    Passive,
    /// Either.
    ActPass,
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Active => "active",
            Self::Passive => "passive",
            Self::ActPass => "actpass",
        })
    }
}

/// What a section says about MSRP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MsrpMedia {
    /// The port of the `m=` line; 0 refuses the section. Not where to connect to (RFC 4975 §8.1).
    pub port: u16,
    /// `TCP/TLS/MSRP`.
    pub secure: bool,
    /// `a=path`; `None` if missing or malformed.
    pub path: Option<MsrpPath>,
    /// `a=accept-types`, as written.
    pub accept_types: Vec<String>,
    /// `a=accept-wrapped-types`, as written.
    pub accept_wrapped_types: Vec<String>,
    /// `a=setup`; `None` if missing, unknown, or `holdconn`, which MSRP does not use.
    pub setup: Option<Setup>,
    /// The direction attribute, of the section or else of the session.
    pub direction: Direction,
    /// `a=max-size`, or `maxsize` as one deployed server spells it: a hint, in octets.
    pub max_size: Option<u64>,
    /// `a=file-selector`: how large the file is (RFC 5547 §6).
    pub file_size: Option<u64>,
    /// `a=file-selector`: of which type it is.
    pub file_type: Option<String>,
    /// `a=fingerprint`, as written.
    pub fingerprint: Option<String>,
    /// `a=msrp-cema` (RFC 6714).
    pub cema: bool,
    /// Address of the `c=` line that applies.
    pub connection: Option<String>,
}

/// One `m=` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// `audio`, `message`...
    pub media: String,
    /// The port, without a count.
    pub port: u16,
    /// `TCP/MSRP`, `RTP/AVP`...
    pub protocol: String,
    /// The rest of the line.
    pub formats: String,
    /// Set for `m=message` over `TCP/MSRP` or `TCP/TLS/MSRP`.
    pub msrp: Option<MsrpMedia>,
}

/// A session description.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionDescription {
    /// The value of `o=`, as written; equal if nothing has changed (RFC 3264 §8).
    pub origin: String,
    /// All media sections in order: an answer has as many (RFC 3264 §6).
    pub sections: Vec<Section>,
}

impl SessionDescription {
    /// Reads an `application/sdp` body. LF alone as line end is tolerated.
    pub fn parse(body: &[u8]) -> Result<Self, SdpError> {
        if body.len() > MAX_DESCRIPTION {
            return Err(SdpError::TooLarge);
        }
        let text = std::str::from_utf8(body).map_err(|_| SdpError::Malformed)?;
        let mut draft = Draft::default();
        for (number, line) in text.split('\n').enumerate() {
            if number == MAX_LINES {
                return Err(SdpError::TooLarge);
            }
            let line = line.strip_suffix('\r').unwrap_or(line);
            if number == 0 {
                check_version(line)?;
            } else if !line.is_empty() {
                draft.line(line, number)?;
            }
        }
        Ok(draft.description)
    }

    /// The MSRP sections that are not refused, each with its place.
    pub fn usable(&self) -> impl Iterator<Item = (usize, &MsrpMedia)> {
        let sections = self.sections.iter().enumerate();
        sections
            .filter_map(|(place, section)| Some((place, section.msrp.as_ref()?)))
            .filter(|(_, media)| media.port != 0)
    }
}

fn check_version(line: &str) -> Result<(), SdpError> {
    match parse_sdp_line(line, 0).map(|line| line.sdp_type) {
        Ok(SdpType::Version(0)) => Ok(()),
        _ => Err(SdpError::Version),
    }
}

#[derive(Default)]
struct Draft {
    description: SessionDescription,
    /// What the session level says for sections that say nothing.
    session: MsrpMedia,
}

impl Draft {
    fn line(&mut self, line: &str, number: usize) -> Result<(), SdpError> {
        let mut chars = line.chars();
        let (Some(kind), Some('=')) = (chars.next(), chars.next()) else {
            return Err(SdpError::Malformed);
        };
        let value = chars.as_str();
        match kind {
            'm' => return self.section(value),
            'o' => self.description.origin = value.trim().to_owned(),
            'c' => {
                if let Some(media) = self.current() {
                    media.connection = connection_address(line, number);
                }
            }
            'a' => self.attribute(line, value, number),
            // s i b t hold nothing MSRP needs; u e p r z k and unknown letters are skipped.
            _ => {}
        }
        Ok(())
    }

    fn section(&mut self, value: &str) -> Result<(), SdpError> {
        if self.description.sections.len() == MAX_SECTIONS {
            return Err(SdpError::TooLarge);
        }
        let mut words = value.splitn(4, ' ');
        let mut word = || words.next().filter(|word| !word.is_empty());
        let (Some(media), Some(port), Some(protocol)) = (word(), word(), word()) else {
            return Err(SdpError::MediaLine);
        };
        let formats = word().unwrap_or_default();
        let port = port.split('/').next().unwrap_or_default();
        let port = port.parse().map_err(|_| SdpError::MediaLine)?;
        let plain = protocol.eq_ignore_ascii_case("TCP/MSRP");
        let secure = protocol.eq_ignore_ascii_case("TCP/TLS/MSRP");
        let is_msrp = media.eq_ignore_ascii_case("message") && (plain || secure);
        let msrp = is_msrp.then(|| MsrpMedia {
            port,
            secure,
            ..self.session.clone()
        });
        self.description.sections.push(Section {
            media: media.to_owned(),
            port,
            protocol: protocol.to_owned(),
            formats: formats.to_owned(),
            msrp,
        });
        Ok(())
    }

    /// What a line speaks of: the session, or the section above it. `None` for other media.
    fn current(&mut self) -> Option<&mut MsrpMedia> {
        match self.description.sections.last_mut() {
            None => Some(&mut self.session),
            Some(section) => section.msrp.as_mut(),
        }
    }

    fn attribute(&mut self, line: &str, value: &str, number: usize) {
        let Some(media) = self.current() else {
            return;
        };
        let (name, value) = value.split_once(':').unwrap_or((value, ""));
        let value = value.trim();
        match name {
            "sendrecv" | "sendonly" | "recvonly" | "inactive" | "setup" => {
                if let Ok(SdpType::Attribute(attribute)) =
                    parse_sdp_line(line, number).map(|line| line.sdp_type)
                {
                    media.shared_attribute(&attribute);
                }
            }
            "path" => media.path = MsrpPath::parse(value).ok(),
            "accept-types" => media.accept_types = types(value),
            "accept-wrapped-types" => media.accept_wrapped_types = types(value),
            "max-size" | "maxsize" => media.max_size = value.parse().ok(),
            "file-selector" => (media.file_size, media.file_type) = file(value),
            "fingerprint" => media.fingerprint = Some(value.to_owned()),
            "msrp-cema" => media.cema = true,
            // a=connection has to be ignored (RFC 6135 §4.4); so is what is unknown.
            _ => {}
        }
    }
}

fn connection_address(line: &str, number: usize) -> Option<String> {
    match parse_sdp_line(line, number).ok()?.sdp_type {
        SdpType::Connection(connection) => {
            let address = connection.address.to_string();
            address.rsplit(' ').next().map(str::to_owned)
        }
        _ => None,
    }
}

impl MsrpMedia {
    fn shared_attribute(&mut self, attribute: &SdpAttribute) {
        match attribute {
            SdpAttribute::Sendrecv => self.direction = Direction::SendRecv,
            SdpAttribute::Sendonly => self.direction = Direction::SendOnly,
            SdpAttribute::Recvonly => self.direction = Direction::RecvOnly,
            SdpAttribute::Inactive => self.direction = Direction::Inactive,
            SdpAttribute::Setup(setup) => {
                self.setup = match setup {
                    SdpAttributeSetup::Active => Some(Setup::Active),
                    SdpAttributeSetup::Passive => Some(Setup::Passive),
                    SdpAttributeSetup::Actpass => Some(Setup::ActPass),
                    SdpAttributeSetup::Holdconn => None,
                }
            }
            _ => {}
        }
    }
}

/// The size and the type of a file selector. A name in quotes may hold what looks like either.
fn file(selector: &str) -> (Option<u64>, Option<String>) {
    let outside = selector.split('"').step_by(2);
    let words = outside.flat_map(str::split_ascii_whitespace);
    let (mut size, mut media_type) = (None, None);
    for word in words {
        match word.split_once(':') {
            Some(("size", value)) => size = value.parse().ok(),
            Some(("type", value)) => {
                media_type = value.split(';').next().map(str::to_ascii_lowercase);
            }
            _ => {}
        }
    }
    (size, media_type)
}

fn types(value: &str) -> Vec<String> {
    let types = value.split_ascii_whitespace().take(MAX_TYPES);
    types.map(str::to_owned).collect()
}

/// Whether a list of types (RFC 4975 §8.6: `*`, `type/*`, `type/subtype`) takes a content type.
/// Parameters do not count.
pub fn accepts(types: &[String], content_type: &str) -> bool {
    types.iter().any(|pattern| covers(pattern, content_type))
}

/// Whether every type that `narrow` stands for is one that `wide` stands for.
pub(super) fn covers(wide: &str, narrow: &str) -> bool {
    let bare = |text| str::split(text, ';').next().unwrap_or_default().trim();
    let (wide, narrow) = (bare(wide), bare(narrow));
    if wide == "*" || wide.eq_ignore_ascii_case(narrow) {
        return true;
    }
    let (Some((kind, "*")), Some((other, _))) = (wide.split_once('/'), narrow.split_once('/'))
    else {
        return false;
    };
    kind.eq_ignore_ascii_case(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FULL: &str = "v=0\n\
        o=- text 2 IN IP4 host.example\n\
        s= \nu=http://x\ne=a@b\np=+1\nz=0 0\nk=clear:x\nb=AS:1\nr=1 1 1\nX=unknown\n\
        c=IN IP4 host.example\nt=0 0\na=recvonly\na=fingerprint:SHA-1 AA:BB\n\
        m=message 2855 TCP/MSRP *\n\
        c=IN IP6 2001:db8::1\n\
        a=accept-types:message/cpim  text/plain\n\
        a=accept-wrapped-types:*\n\
        a=path:msrp://r.example:1/r;tcp msrp://h.example:2855/s;tcp\n\
        a=setup:active\na=connection:new\na=maxsize:12\na=msrp-cema\na=X-vendor:1\n\
        m=audio 1 RTP/AVP 0\nc=IN IP4 192.0.2.9\na=inactive\na=path:msrp://no:1/s;tcp\n";

    #[test]
    fn every_attribute_is_read_and_the_unknown_skipped() {
        let read = SessionDescription::parse(FULL.as_bytes()).unwrap();
        assert_eq!(read.origin, "- text 2 IN IP4 host.example");
        let (place, media) = read.usable().next().unwrap();
        assert_eq!((place, read.sections.len()), (0, 2));
        assert_eq!(media.accept_types, ["message/cpim", "text/plain"]);
        assert_eq!(media.accept_wrapped_types, ["*"]);
        assert_eq!(media.path.as_ref().unwrap().uris().len(), 2);
        assert_eq!(media.setup, Some(Setup::Active));
        assert_eq!(media.direction, Direction::RecvOnly);
        assert_eq!(media.max_size, Some(12));
        assert_eq!(media.fingerprint.as_deref(), Some("SHA-1 AA:BB"));
        assert!(media.cema && !media.secure);
        assert_eq!(media.connection.as_deref(), Some("2001:db8::1"));
        assert_eq!(read.sections[1].msrp, None);
    }

    #[test]
    fn descriptions_that_cannot_be_read_are_refused_by_kind() {
        let parse = |text: &str| SessionDescription::parse(text.as_bytes()).unwrap_err();
        assert_eq!(parse(""), SdpError::Version);
        assert_eq!(parse("v=1\r\n"), SdpError::Version);
        assert_eq!(parse("v=0\r\nmessage\r\n"), SdpError::Malformed);
        assert_eq!(parse("v=0\r\nm=message\r\n"), SdpError::MediaLine);
        assert_eq!(
            parse("v=0\r\nm=message x TCP/MSRP *\r\n"),
            SdpError::MediaLine
        );
        assert_eq!(parse(&"v=0\n".repeat(600)), SdpError::TooLarge);
        assert_eq!(
            parse(&format!("v=0\n{}", "m=a 1 b c\n".repeat(17))),
            SdpError::TooLarge
        );
        assert_eq!(
            parse(&format!("v=0\na={}", "x".repeat(MAX_DESCRIPTION))),
            SdpError::TooLarge
        );
        assert_eq!(
            SessionDescription::parse(b"v=0\na=\xff"),
            Err(SdpError::Malformed)
        );
    }

    #[test]
    fn directions_reverse_and_narrow() {
        assert_eq!(Direction::SendOnly.reversed(), Direction::RecvOnly);
        assert_eq!(
            Direction::SendRecv.and(Direction::RecvOnly),
            Direction::RecvOnly
        );
        assert_eq!(
            Direction::SendOnly.and(Direction::RecvOnly),
            Direction::Inactive
        );
    }

    /// RFC 4975 §8.6
    #[test]
    fn type_lists_know_wildcards_and_no_parameters() {
        let types = ["message/CPIM".to_owned(), "text/*".to_owned()];
        assert!(accepts(&types, "Message/cpim; x=y") && accepts(&types, "TEXT/html"));
        assert!(!accepts(&types, "application/im-iscomposing+xml") && !accepts(&types, "text"));
        assert!(accepts(&["*".to_owned()], "a/b"));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(
            text in "v=0\r\n((o|s|c|t|b|a|m|i)=(-|IN|IP4|IP6|message|TCP/MSRP|[0-9/]{1,9}|setup|path|:|msrp://h:1/s;tcp|sendonly| ){0,8}\r?\n){0,12}"
        ) {
            let _ = SessionDescription::parse(text.as_bytes());
        }

        #[test]
        fn a_damaged_description_never_panics(at in 0usize..900, octet: u8) {
            let mut octets = FULL.as_bytes().to_vec();
            let length = octets.len();
            octets[at % length] = octet;
            let _ = SessionDescription::parse(&octets);
        }
    }
}
