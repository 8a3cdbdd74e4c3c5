//! The client families of cpm-facts §7.2, second table. Each takes exactly what its table row says the
//! deployed clients take, in the order in which they look; whatever else comes is refused or passed
//! over as they do it.

use restante::demo::{
    Disposition, Envelope, Failure, IncomingCall, SESSION_TAG, Setup, SipText, UserAgent, address,
    attribute,
};

/// The service of one-to-one sessions as it stands in Accept-Contact.
const SESSION_SERVICE: &str = "3gpp-service.ims.icsi.oma.cpm.session\"";
/// The store-and-forward function's user part.
const STORE_AND_FORWARD: &str = "rcse-standfw@";

/// A message as the user of a family sees it.
#[derive(Debug, PartialEq, Eq)]
pub struct Shown {
    /// Whom the client names as its author.
    pub author: String,
    /// The envelope, octet for octet.
    pub octets: Vec<u8>,
}

/// A kind of client.
#[derive(Clone, Copy, Debug)]
pub enum Family {
    /// Orange and Sony's stack for RCS-e: `+g.oma.sip-im`, telephone numbers, first message in the
    /// INVITE, confirmed before the INVITE is answered.
    RcsJta,
    /// The CPM client in Rust: a plain description, both identifiers, and the store-and-forward
    /// identity wherever `sendonly` stands.
    RustCpm,
    /// LineageOS: every INVITE is an ordinary session.
    LineageOs,
    /// A SIP telephone that knows MESSAGE and nothing else.
    PlainSip,
}

impl Family {
    /// What its REGISTER says.
    pub fn registers(self, device: &UserAgent) -> Result<(), Failure> {
        let (agent, contact) = self.names(device);
        device.registers_as(agent, &contact).map(|_| ())
    }

    /// Its User-Agent and Contact values.
    pub fn names(self, device: &UserAgent) -> (&'static str, String) {
        let uri = device.contact_uri();
        match self {
            Self::RcsJta => (
                "IM-client/OMA1.0 RCSJTA/1.0",
                format!("<{uri}>;+g.oma.sip-im"),
            ),
            Self::RustCpm => ("rust-cpm/0.1", format!("<{uri}>;{SESSION_TAG}")),
            Self::LineageOs => ("LineageOS RCS/1.0", format!("<{uri}>;{SESSION_TAG}")),
            Self::PlainSip => ("baresip v1.0.0", format!("<{uri}>")),
        }
    }

    /// What its user gets to see of one replay of so many messages.
    pub fn takes_replay(self, device: &UserAgent, count: usize) -> Result<Vec<Shown>, Failure> {
        match self {
            Self::RcsJta => rcsjta(device, count),
            Self::RustCpm => rust_cpm(device, count),
            Self::LineageOs => lineage_os(device, count),
            Self::PlainSip => plain_sip(device, count),
        }
    }
}

/// In this order: the request names `+g.oma.sip-im`; store-and-forward with a plain body is a push of
/// notifications, whose text is ignored; `isfocus` is a group; Referred-By makes it a push of messages,
/// the first in the INVITE; everything else is a chat. An author without a number is busy: 486.
fn rcsjta(device: &UserAgent, count: usize) -> Result<Vec<Shown>, Failure> {
    let call = device.expect_invite()?;
    let invite = call.text();
    let asserted = invite.header_or_empty("P-Asserted-Identity");
    let content_type = invite.header_or_empty("Content-Type");
    let is_multipart = content_type.starts_with("multipart/");
    if !invite
        .headers("Accept-Contact")
        .any(|it| it.contains("+g.oma.sip-im"))
    {
        return Err(device.failure("rcsjta: the INVITE is not for an IM client"));
    }
    if asserted.contains(STORE_AND_FORWARD) && !is_multipart {
        return Err(device.failure("rcsjta: taken for notifications, the text is ignored"));
    }
    if invite.header_or_empty("Contact").contains("isfocus") {
        return Err(device.failure("rcsjta: taken for a group"));
    }
    let referred = invite.header("Referred-By");
    let author = address(referred.unwrap_or(asserted)).to_owned();
    if !is_number(&author) {
        call.refuses(486);
        return Err(device.failure(format!("rcsjta: {author} is no telephone number")));
    }
    let first = part(invite, "message/cpim");
    if referred.is_some() && first.is_none() {
        return Err(device.failure("rcsjta: a push of messages without its first message"));
    }
    let mut shown = Vec::new();
    if let Some(octets) = first {
        let envelope = Envelope::read(&octets)
            .ok_or_else(|| device.failure("rcsjta: the first message is no envelope"))?;
        if envelope.asks.contains("positive-delivery") {
            device.notifies(&envelope, Disposition::Delivered)?;
        }
        shown.push(octets);
    }
    // It rings, and its user takes the call.
    call.rings();
    let session = call.answers(Setup::Active, "sendrecv")?;
    while shown.len() < count {
        shown.push(session.msrp.expect_message()?.body);
    }
    session.expect_bye()?;
    Ok(by(&author, shown))
}

/// The session service in Accept-Contact, a body that is exactly application/sdp, both identifiers; then
/// `sendonly` is for it only under the store-and-forward identity.
fn rust_cpm(device: &UserAgent, count: usize) -> Result<Vec<Shown>, Failure> {
    let call = device.expect_invite()?;
    let invite = call.text();
    let offer = call.offer();
    let is_cpm = invite
        .headers("Accept-Contact")
        .any(|it| it.contains(SESSION_SERVICE))
        && invite.header_or_empty("Content-Type") == "application/sdp"
        && invite.header("Conversation-ID").is_some()
        && invite.header("Contribution-ID").is_some();
    if !is_cpm {
        return Err(device.failure("rust-cpm: the INVITE is no CPM session"));
    }
    let asserted = invite.header_or_empty("P-Asserted-Identity");
    let is_sendonly = attribute(&offer, "sendonly").is_some();
    let is_deferred = is_sendonly && asserted.contains(STORE_AND_FORWARD);
    if is_sendonly && !is_deferred {
        return Err(device.failure("rust-cpm: sendonly from a person is not handled at all"));
    }
    let author = match is_deferred {
        true => address(invite.header_or_empty("Referred-By")).to_owned(),
        false => address(asserted).to_owned(),
    };
    let direction = if is_sendonly { "recvonly" } else { "sendrecv" };
    Ok(by(&author, takes_all(call, direction, count)?))
}

/// No test at all; the author is in the envelope, else in From.
fn lineage_os(device: &UserAgent, count: usize) -> Result<Vec<Shown>, Failure> {
    let call = device.expect_invite()?;
    let from = address(call.text().header_or_empty("From")).to_owned();
    let taken = takes_all(call, "sendrecv", count)?;
    let shown = |octets: Vec<u8>| {
        let author = Envelope::read(&octets).map(|envelope| address(&envelope.from).to_owned());
        Shown {
            author: author.unwrap_or_else(|| from.clone()),
            octets,
        }
    };
    Ok(taken.into_iter().map(shown).collect())
}

fn plain_sip(device: &UserAgent, count: usize) -> Result<Vec<Shown>, Failure> {
    let mut shown = Vec::new();
    for _ in 0..count {
        let message = device.expect_message()?;
        let author = address(message.text().header_or_empty("From")).to_owned();
        shown.extend(by(&author, vec![message.text().body().to_vec()]));
    }
    device.expect_no("INVITE")?;
    Ok(shown)
}

fn takes_all(
    call: IncomingCall<'_>,
    direction: &str,
    count: usize,
) -> Result<Vec<Vec<u8>>, Failure> {
    let session = call.answers(Setup::Active, direction)?;
    let mut taken = Vec::new();
    for _ in 0..count {
        taken.push(session.msrp.expect_message()?.body);
    }
    session.expect_bye()?;
    Ok(taken)
}

fn by(author: &str, messages: Vec<Vec<u8>>) -> Vec<Shown> {
    let shown = |octets| Shown {
        author: author.to_owned(),
        octets,
    };
    messages.into_iter().map(shown).collect()
}

/// A tel URI, or a SIP URI whose user part is a number.
fn is_number(uri: &str) -> bool {
    let rest = uri.strip_prefix("tel:").or(uri.strip_prefix("sip:"));
    let user = rest.unwrap_or("").split(['@', ';']).next().unwrap_or("");
    let digits = user.strip_prefix('+').unwrap_or(user);
    !digits.is_empty() && digits.bytes().all(|octet| octet.is_ascii_digit())
}

/// The content of the part of this type in a multipart body (RFC 2046 §5.1).
fn part(message: &SipText, wanted: &str) -> Option<Vec<u8>> {
    let content_type = message.header_or_empty("Content-Type");
    let boundary = content_type.split("boundary=").nth(1)?;
    let boundary = boundary.split(';').next()?.trim().trim_matches('"');
    let (body, mark) = (message.body(), format!("--{boundary}"));
    let starts: Vec<usize> = body
        .windows(mark.len())
        .enumerate()
        .filter(|(_, window)| *window == mark.as_bytes())
        .map(|(at, _)| at)
        .collect();
    for pair in starts.windows(2) {
        let octets = &body[pair[0] + mark.len() + 2..pair[1] - 2];
        let end = octets.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&octets[..end]).to_ascii_lowercase();
        if head.contains(&format!("content-type: {wanted}")) {
            return Some(octets[end + 4..].to_vec());
        }
    }
    None
}
