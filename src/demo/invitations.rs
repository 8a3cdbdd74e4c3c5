//! INVITEs of special forms: with the first message inside, and for a large standalone message.

use super::call::OutgoingCall;
use super::draft::Draft;
use super::envelope::{Envelope, fresh};
use super::failure::Failure;
use super::msrp_agent::MsrpEnd;
use super::sdp_text::{self, Setup};
use super::sip_text::SipText;
use super::user_agent::UserAgent;

/// A feature tag that names these services of OMA CPM, such as `largemsg`.
pub fn services_tag(names: &[&str]) -> String {
    let all: Vec<String> = names
        .iter()
        .map(|name| format!("urn%3Aurn-7%3A3gpp-service.ims.icsi.oma.cpm.{name}"))
        .collect();
    format!("+g.3gpp.icsi-ref=\"{}\"", all.join(","))
}

impl UserAgent {
    /// Registers a contact that states these services of OMA CPM and no other.
    pub fn registers_stating(&self, names: &[&str]) -> Result<SipText, Failure> {
        let (uri, instance) = (self.contact_uri(), self.instance());
        let tag = services_tag(names);
        let contact = format!("<{uri}>;+sip.instance=\"{instance}\";{tag};expires=3600");
        self.sends_register(&contact)?.expect_status(200)
    }

    /// Invites to the session of one large message, which it only sends.
    pub fn sends_large(&self, to: &str) -> Result<OutgoingCall<'_>, Failure> {
        let tag = services_tag(&["largemsg"]);
        let contact = format!("<{}>;{tag}", self.contact_uri());
        let draft = Draft::new("INVITE", &self.uri_of(to))
            .header("Contact", &contact)
            .header("Accept-Contact", &format!("*;{tag}"))
            .header(
                "P-Preferred-Service",
                "urn:urn-7:3gpp-service.ims.icsi.oma.cpm.largemsg",
            )
            .header("Conversation-ID", &self.conversation_with(to))
            .header("Contribution-ID", &fresh("contr-"));
        let end = MsrpEnd::open_at(self.address().ip(), &self.line.name, &self.line.transcript)?;
        let sdp = sdp_text::description(&end, Setup::ActPass, "sendonly");
        let request = self.sends(draft.body("application/sdp", sdp.as_bytes()))?;
        Ok(OutgoingCall {
            agent: self,
            peer: self.uri_of(to),
            request,
            end,
            sdp,
        })
    }

    /// Invites to a chat with its first message inside the INVITE, before or behind the description.
    pub fn invites_saying(
        &self,
        to: &str,
        envelope: &Envelope,
        text_first: bool,
    ) -> Result<OutgoingCall<'_>, Failure> {
        self.invites_drafted(
            to,
            self.invite_draft(to, &fresh("conv-")),
            envelope,
            text_first,
        )
    }

    /// The same with this INVITE.
    pub fn invites_drafted(
        &self,
        to: &str,
        draft: Draft,
        envelope: &Envelope,
        text_first: bool,
    ) -> Result<OutgoingCall<'_>, Failure> {
        let end = MsrpEnd::open_at(self.address().ip(), &self.line.name, &self.line.transcript)?;
        let sdp = sdp_text::description(&end, Setup::ActPass, "sendrecv");
        let text = envelope.to_octets();
        let length = text.len();
        let cpim = format!(
            "Content-Type: message/cpim\r\nContent-ID: <text@{to}>\r\nContent-Length: {length}"
        );
        let mut parts = [
            (
                "Content-Type: application/sdp".to_owned(),
                sdp.clone().into_bytes(),
            ),
            (cpim, text),
        ];
        if text_first {
            parts.reverse();
        }
        let boundary = fresh("b");
        let mut body = Vec::new();
        for (headers, content) in &parts {
            body.extend_from_slice(format!("--{boundary}\r\n{headers}\r\n\r\n").as_bytes());
            body.extend_from_slice(content);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
        let draft = draft.body(&format!("multipart/mixed; boundary=\"{boundary}\""), &body);
        let request = self.sends(draft)?;
        Ok(OutgoingCall {
            agent: self,
            peer: self.uri_of(to),
            request,
            end,
            sdp,
        })
    }
}
