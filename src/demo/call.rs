//! Chat sessions of an agent: INVITE both ways, the dialog, and its MSRP session.

use std::sync::Arc;
use std::time::Duration;

use super::draft::{self, Draft};
use super::envelope::{Envelope, fresh};
use super::exchange::{IncomingRequest, SentRequest};
use super::failure::Failure;
use super::msrp_agent::{MsrpEnd, MsrpSession};
use super::msrp_receiving::Answering;
use super::msrp_sending::SentMessage;
use super::msrp_tls::MediaTls;
use super::sdp_text::{self, Setup};
use super::sip_text::{SipText, address};
use super::user_agent::{PATIENCE, SESSION_TAG, UserAgent};
use super::wire::{Transport, lock};

/// An INVITE this agent sent.
pub struct OutgoingCall<'a> {
    pub(super) agent: &'a UserAgent,
    pub(super) peer: String,
    pub(super) request: SentRequest<'a>,
    pub(super) end: MsrpEnd,
    pub(super) sdp: String,
}

/// An INVITE this agent got.
pub struct IncomingCall<'a> {
    request: IncomingRequest<'a>,
    answering: Answering,
}

/// An accepted session with its MSRP connection.
pub struct Chat<'a> {
    pub(super) agent: &'a UserAgent,
    peer: String,
    dialog: Dialog,
    /// Its own session description.
    pub own_sdp: String,
    /// The other side's session description.
    pub sdp: String,
    /// The MSRP session.
    pub msrp: MsrpSession,
}

struct Dialog {
    call_id: String,
    local: String,
    remote: String,
    target: String,
    routes: Vec<String>,
}

impl UserAgent {
    /// Invites to a chat, ready to connect or to be connected to.
    pub fn invites(&self, to: &str) -> Result<OutgoingCall<'_>, Failure> {
        self.invites_with(to, Setup::ActPass, &fresh("conv-"))
    }

    /// Invites to a chat of this conversation.
    pub fn invites_with(
        &self,
        to: &str,
        setup: Setup,
        conversation: &str,
    ) -> Result<OutgoingCall<'_>, Failure> {
        self.invites_as(to, self.invite_draft(to, conversation), setup)
    }

    /// Invites with an INVITE that lacks only its description.
    pub fn invites_as(
        &self,
        to: &str,
        draft: Draft,
        setup: Setup,
    ) -> Result<OutgoingCall<'_>, Failure> {
        let end = self.media_end()?;
        let sdp = sdp_text::description(&end, setup, "sendrecv");
        let draft = draft.body("application/sdp", sdp.as_bytes());
        let request = self.sends(draft)?;
        Ok(OutgoingCall {
            agent: self,
            peer: self.uri_of(to),
            request,
            end,
            sdp,
        })
    }

    /// Asks for what waits for this user, with these header fields besides.
    pub fn fetches(&self, headers: &[(&str, &str)]) -> Result<OutgoingCall<'_>, Failure> {
        let end = self.media_end()?;
        let sdp = sdp_text::description(&end, Setup::ActPass, "recvonly");
        let peer = self.uri_of("deferred");
        let contact = format!("<{}>;{SESSION_TAG}", self.contact_uri());
        let mut draft = Draft::new("INVITE", &peer).header("Contact", &contact);
        for (name, value) in headers {
            draft = draft.header(name, value);
        }
        let request = self.sends(draft.body("application/sdp", sdp.as_bytes()))?;
        Ok(OutgoingCall {
            agent: self,
            peer,
            request,
            end,
            sdp,
        })
    }

    /// Where its next MSRP session will be.
    pub(super) fn media_end(&self) -> Result<MsrpEnd, Failure> {
        let (name, transcript) = (&self.line.name, &self.line.transcript);
        let end = MsrpEnd::open_at(self.address().ip(), name, transcript)?;
        Ok(end.over_tls(lock(&self.media_tls).clone()))
    }

    /// From here on its MSRP sessions go over TLS with this certificate.
    pub fn secures_media(&self, tls: MediaTls) {
        *lock(&self.media_tls) = Some(Arc::new(tls));
    }

    /// A chat INVITE without a body.
    pub fn invite_draft(&self, to: &str, conversation: &str) -> Draft {
        Draft::new("INVITE", &self.uri_of(to))
            .header(
                "Contact",
                &format!("<{}>;{SESSION_TAG}", self.contact_uri()),
            )
            .header("Accept-Contact", &format!("*;{SESSION_TAG}"))
            .header("Conversation-ID", conversation)
            .header("Contribution-ID", &fresh("contr-"))
            .header("Allow", "INVITE, ACK, CANCEL, BYE, OPTIONS, MESSAGE")
    }

    /// Invites and is answered 200, by the other side or by the server in its place.
    pub fn opens_chat(&self, to: &str) -> Result<Chat<'_>, Failure> {
        self.invites(to)?.expect_accepted()
    }

    /// The next INVITE.
    pub fn expect_invite(&self) -> Result<IncomingCall<'_>, Failure> {
        self.expect_invite_within(PATIENCE)
    }

    /// The next INVITE, waiting so long for it.
    pub fn expect_invite_within(&self, patience: Duration) -> Result<IncomingCall<'_>, Failure> {
        let request = self.expect_request_within("INVITE", patience)?;
        Ok(IncomingCall {
            request,
            answering: Answering::Status(200),
        })
    }
}

impl<'a> OutgoingCall<'a> {
    /// How the session will answer SENDs from its first one on.
    pub fn taking(mut self, answering: Answering) -> Self {
        self.end = self.end.answering(answering);
        self
    }

    /// The INVITE as it was sent.
    pub fn request(&self) -> &SipText {
        self.request.request()
    }

    /// It rings at the other side.
    pub fn expect_ringing(&mut self) -> Result<(), Failure> {
        loop {
            match self.request.next_answer(PATIENCE) {
                Some(answer) if answer.status() == 180 => {
                    self.request.keep_provisional(answer);
                    return Ok(());
                }
                Some(answer) if answer.status() < 200 => self.request.keep_provisional(answer),
                _ => return Err(self.agent.failure("it did not ring")),
            }
        }
    }

    /// No final answer comes within `patience`.
    pub fn expect_no_answer(&mut self, patience: Duration) -> Result<(), Failure> {
        while let Some(answer) = self.request.next_answer(patience) {
            if answer.status() >= 200 {
                let step = format!("it was answered {}", answer.start_line());
                return Err(self.agent.failure(step));
            }
            self.request.keep_provisional(answer);
        }
        Ok(())
    }

    /// The INVITE is refused with this status.
    pub fn expect_status(self, status: u16) -> Result<SipText, Failure> {
        self.request.expect_status(status)
    }

    /// Sends CANCEL and expects 200 to it and 487 to the INVITE.
    pub fn cancels(self) -> Result<(), Failure> {
        let invite = self.request.request().clone();
        let to = invite.header_or_empty("To").to_owned();
        let cancel = draft::hop_by_hop("CANCEL", &invite, &to);
        self.agent.line.transmit(&cancel)?;
        let branch = invite.branch().to_owned();
        let answer = self.agent.line.responses.take(PATIENCE, |answer| {
            answer.branch() == branch && answer.cseq_method() == "CANCEL"
        });
        if answer.is_none_or(|answer| answer.status() != 200) {
            return Err(self.agent.failure("the CANCEL was not answered 200"));
        }
        self.expect_status(487).map(|_| ())
    }

    /// It is answered 200; acknowledges and brings MSRP up.
    pub fn expect_accepted(mut self) -> Result<Chat<'a>, Failure> {
        let answer = self.request.final_answer(PATIENCE)?;
        if answer.status() != 200 {
            let step = format!("the INVITE was answered {}", answer.start_line());
            return Err(self.agent.failure(step));
        }
        let invite = self.request.request();
        let mut routes = answer.values("Record-Route");
        routes.reverse();
        let dialog = Dialog {
            call_id: invite.header_or_empty("Call-ID").to_owned(),
            local: invite.header_or_empty("From").to_owned(),
            remote: answer.header_or_empty("To").to_owned(),
            target: answer.contact_uri().to_owned(),
            routes,
        };
        let ack = dialog.octets(self.agent, "ACK", invite.cseq_number());
        self.agent.line.remember_ack(&answer, &ack);
        self.agent.line.transmit(&ack)?;
        let sdp = String::from_utf8_lossy(answer.body()).into_owned();
        let msrp = sdp_text::connect_as_offerer(self.end, &sdp)?;
        Ok(Chat {
            agent: self.agent,
            peer: self.peer,
            dialog,
            own_sdp: self.sdp,
            sdp,
            msrp,
        })
    }
}

impl<'a> IncomingCall<'a> {
    /// The INVITE as it came.
    pub fn text(&self) -> &SipText {
        self.request.text()
    }

    /// Its session description.
    pub fn offer(&self) -> String {
        String::from_utf8_lossy(self.text().body()).into_owned()
    }

    /// Rings.
    pub fn rings(&self) {
        self.request.answers(180);
    }

    /// Rings, and wants to know that it was heard (RFC 3262).
    pub fn rings_reliably(&self, rseq: u32) {
        let contact = format!("<{}>;{SESSION_TAG}", self.request.agent.contact_uri());
        let headers = [
            ("Contact", contact),
            ("Require", "100rel".to_owned()),
            ("RSeq", rseq.to_string()),
        ];
        self.request.answers_with(180, &headers, &[]);
    }

    /// Refuses with this status.
    pub fn refuses(&self, status: u16) {
        self.request.answers(status);
    }

    /// The user picks up, though nobody has heard of it yet: a CANCEL comes too late (RFC 3261 §9.2).
    pub fn picks_up(&self) {
        self.request.agent.line.stops_ringing(self.text());
    }

    /// Refuses with this status and these header fields.
    pub fn refuses_with(&self, status: u16, headers: &[(&str, String)]) {
        self.request.answers_with(status, headers, &[]);
    }

    /// Accepts with a 200 whose body is this, and brings no MSRP up.
    pub fn accepts_with_body(&self, content_type: &str, body: &str) -> Result<(), Failure> {
        let contact = format!("<{}>;{SESSION_TAG}", self.request.agent.contact_uri());
        let headers = [
            ("Contact", contact),
            ("Content-Type", content_type.to_owned()),
        ];
        self.answers_until_acknowledged(&headers, body.as_bytes())
    }

    /// The caller gives up; 487 was sent.
    pub fn expect_cancel(&self) -> Result<(), Failure> {
        self.request.agent.expect_request("CANCEL").map(|_| ())
    }

    /// How the session will answer SENDs from its first one on.
    pub fn taking(mut self, answering: Answering) -> Self {
        self.answering = answering;
        self
    }

    /// Accepts a replay: 200 with `a=recvonly`.
    pub fn answers_recvonly(self, setup: Setup) -> Result<Chat<'a>, Failure> {
        self.answers(setup, "recvonly")
    }

    /// Accepts: 200, waits for the ACK, brings MSRP up.
    pub fn answers(self, setup: Setup, direction: &str) -> Result<Chat<'a>, Failure> {
        let agent = self.request.agent;
        let offer = self.offer();
        let end = agent.media_end()?.answering(self.answering);
        let sdp = sdp_text::description(&end, setup, direction);
        let contact = format!("<{}>;{SESSION_TAG}", agent.contact_uri());
        let headers = [
            ("Contact", contact),
            ("Content-Type", "application/sdp".to_owned()),
        ];
        self.answers_until_acknowledged(&headers, sdp.as_bytes())?;
        let msrp = sdp_text::connect_as_answerer(end, &offer, setup)?;
        let invite = self.text();
        Ok(Chat {
            agent,
            peer: address(invite.header_or_empty("From")).to_owned(),
            dialog: Dialog {
                call_id: invite.header_or_empty("Call-ID").to_owned(),
                local: format!("{};tag={}", invite.header_or_empty("To"), agent.line.tag),
                remote: invite.header_or_empty("From").to_owned(),
                target: invite.contact_uri().to_owned(),
                routes: invite.values("Record-Route"),
            },
            own_sdp: sdp,
            sdp: offer,
            msrp,
        })
    }

    /// RFC 3261 §13.3.1.4: a 2xx is repeated until the ACK arrives.
    fn answers_until_acknowledged(
        &self,
        headers: &[(&str, String)],
        sdp: &[u8],
    ) -> Result<(), Failure> {
        let agent = self.request.agent;
        let call_id = self.text().header_or_empty("Call-ID");
        let mut interval = Duration::from_millis(500);
        for _ in 0..5 {
            self.request.answers_with(200, headers, sdp);
            let ack = agent.line.requests.take(interval, |arrived| {
                let request = &arrived.request;
                request.method() == Some("ACK") && request.header("Call-ID") == Some(call_id)
            });
            if ack.is_some() {
                return Ok(());
            }
            interval *= 2;
        }
        Err(agent.failure(format!("{} got no ACK", agent.line.name)))
    }
}

impl Chat<'_> {
    /// Sends a text and expects 200.
    pub fn says(&self, text: &str) -> Result<Envelope, Failure> {
        let envelope = self.agent.envelope(&self.peer, text);
        self.msrp.sends(&envelope)?.expect_status(200)?;
        Ok(envelope)
    }

    /// Sends an envelope.
    pub fn sends(&self, envelope: &Envelope) -> Result<SentMessage<'_>, Failure> {
        self.msrp.sends(envelope)
    }

    /// The next message wraps this text.
    pub fn expect_text(&self, text: &str) -> Result<Envelope, Failure> {
        self.msrp.expect_text(text)
    }

    /// Ends the session and expects 200.
    pub fn hangs_up(self) -> Result<(), Failure> {
        self.hangs_up_saying("").map(|_| ())
    }

    /// Sends BYE, with a Reason if there is one; the MSRP connection stays.
    pub fn hangs_up_saying(&self, reason: &str) -> Result<SipText, Failure> {
        let draft = self.draft("BYE");
        let draft = match reason {
            "" => draft,
            reason => draft.header("Reason", reason),
        };
        self.agent.sends(draft)?.expect_status(200)
    }

    /// A request inside its dialog.
    pub fn draft(&self, method: &str) -> Draft {
        let draft = Draft::new(method, &self.dialog.target)
            .from_value(&self.dialog.local)
            .to_value(&self.dialog.remote)
            .call_id(&self.dialog.call_id);
        let routes = self.dialog.routes.iter();
        routes.fold(draft, |draft, route| draft.header("Route", route))
    }

    /// The other side ends the session; 200 was sent.
    pub fn expect_bye(&self) -> Result<SipText, Failure> {
        self.bye_within(PATIENCE)
            .ok_or_else(|| self.agent.failure("got no BYE"))
    }

    /// The BYE of the other side, if it comes within `patience`.
    pub fn bye_within(&self, patience: Duration) -> Option<SipText> {
        let arrived = self.agent.line.requests.take(patience, |arrived| {
            let request = &arrived.request;
            request.method() == Some("BYE")
                && request.header("Call-ID") == Some(&self.dialog.call_id)
        });
        arrived.map(|bye| bye.request)
    }

    /// Whom it is with.
    pub fn peer(&self) -> &str {
        &self.peer
    }
}

impl Dialog {
    fn octets(&self, agent: &UserAgent, method: &str, cseq: u32) -> Vec<u8> {
        let mut draft = Draft::new(method, &self.target).to_value(&self.remote);
        for route in &self.routes {
            draft = draft.header("Route", route);
        }
        let transport = match agent.settings.transport {
            Transport::Udp => "UDP",
            Transport::Tcp => "TCP",
        };
        let via = format!(
            "SIP/2.0/{transport} {};branch={};rport",
            agent.address(),
            fresh("z9hG4bK")
        );
        draft.to_octets(&via, &self.local, &self.call_id, cseq)
    }
}
