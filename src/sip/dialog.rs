//! Dialogs: identifiers, route set, remote target and CSeq order (RFC 3261 §12).
//!
//! A [`Dialog`] is a value. It says what a request in it looks like and whether one that came is in
//! order; what the request means is its user's matter.

use std::borrow::Cow;

use crate::sip::header::NameAddr;
use crate::sip::message::{HeaderName, Message, Method};
use crate::sip::rejection::Rejection;
use crate::sip::reply::RequestBuilder;
use crate::sip::target::{as_request_uri, is_loose_route};
use crate::uri::Uri;

/// What the user part of our Contact in a dialog begins with.
pub const OWN_CONTACT: &str = "pf-";
/// What the user part of our Record-Route in one begins with.
pub const OWN_ROUTE: &str = "rr-";

/// What finds a dialog. Local and remote are seen from here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DialogId {
    /// The Call-ID.
    pub call_id: String,
    /// Our tag.
    pub local_tag: String,
    /// The peer's tag; empty for an RFC 2543 peer without one.
    pub remote_tag: String,
}

impl DialogId {
    /// The dialog that a received request says it belongs to; `None` if it is outside of any.
    pub fn of_request(request: &Message) -> Option<Self> {
        let local_tag = request.to().ok()?.tag()?.to_owned();
        Some(Self {
            call_id: request.call_id().ok()?.to_owned(),
            local_tag,
            remote_tag: tag_text(&request.from().ok()?),
        })
    }

    /// The dialog that a received response belongs to.
    pub fn of_response(response: &Message) -> Option<Self> {
        let local_tag = response.from().ok()?.tag()?.to_owned();
        Some(Self {
            call_id: response.call_id().ok()?.to_owned(),
            local_tag,
            remote_tag: tag_text(&response.to().ok()?),
        })
    }
}

/// Whether the dialog's INVITE has been answered with a 2xx.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialogState {
    /// By a provisional response only.
    Early,
    /// By a 2xx.
    Confirmed,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dialog {
    /// What finds it.
    pub id: DialogId,
    /// Early or confirmed.
    pub state: DialogState,
    /// Our URI: From of requests that we send.
    pub local_uri: String,
    /// The peer's URI: To of requests that we send.
    pub remote_uri: String,
    /// Name-addr values, in the order that our requests visit them.
    pub route_set: Vec<String>,
    /// The peer's Contact URI.
    pub remote_target: String,
    /// CSeq number of our latest request; zero before the first.
    pub local_cseq: u32,
    /// CSeq number of the peer's latest request.
    pub remote_cseq: Option<u32>,
}

impl Dialog {
    /// The dialog that `response` creates for the sender of `request` (RFC 3261 §12.1.2).
    pub fn as_uac(request: &Message, response: &Message) -> Result<Self, Rejection> {
        let id = DialogId::of_response(response).ok_or(NO_TAG)?;
        Ok(Self {
            id,
            state: state_of(response.status()),
            local_uri: request.from()?.uri.to_owned(),
            remote_uri: request.to()?.uri.to_owned(),
            route_set: reversed_record_route(response),
            remote_target: contact_uri(response).ok_or(NO_CONTACT)?,
            local_cseq: request.cseq()?.number,
            remote_cseq: None,
        })
    }

    /// The dialog that our response with `status` and `local_tag` in its To creates for the receiver of
    /// `request` (RFC 3261 §12.1.1). The response must repeat the request's Record-Route.
    pub fn as_uas(request: &Message, status: u16, local_tag: &str) -> Result<Self, Rejection> {
        let from = request.from()?;
        let routes = request.values(HeaderName::RecordRoute);
        Ok(Self {
            id: DialogId {
                call_id: request.call_id()?.to_owned(),
                local_tag: local_tag.to_owned(),
                remote_tag: tag_text(&from),
            },
            state: state_of(status),
            local_uri: request.to()?.uri.to_owned(),
            remote_uri: from.uri.to_owned(),
            route_set: routes.map(str::to_owned).collect(),
            remote_target: contact_uri(request).ok_or(NO_CONTACT)?,
            local_cseq: 0,
            remote_cseq: Some(request.cseq()?.number),
        })
    }

    /// Confirms an early dialog by the 2xx to our INVITE, which decides the route set
    /// (RFC 3261 §13.2.2.4).
    pub fn confirm(&mut self, response: &Message) {
        if self.state == DialogState::Early {
            self.state = DialogState::Confirmed;
            self.route_set = reversed_record_route(response);
        }
        self.refresh_target(response);
    }

    /// Takes the Contact of a target refresh request (re-INVITE, UPDATE) or of a 2xx to one of ours
    /// (RFC 3261 §12.2.1.2 and §12.2.2).
    pub fn refresh_target(&mut self, message: &Message) {
        if let Some(target) = contact_uri(message) {
            self.remote_target = target;
        }
    }

    /// Whether a request from the peer is in order (RFC 3261 §12.2.2); 500 if it is not. ACK and CANCEL
    /// bear the number of the request that they belong to.
    pub fn check_cseq(&mut self, request: &Message) -> Result<(), Rejection> {
        let number = request.cseq()?.number;
        if matches!(request.method(), Method::Ack | Method::Cancel) {
            return Ok(());
        }
        if self.remote_cseq.is_some_and(|latest| number < latest) {
            return Err(Rejection::new(500, "CSeq Out Of Order"));
        }
        self.remote_cseq = Some(number);
        Ok(())
    }

    /// The next request to the peer (RFC 3261 §12.2.1.1); `via` is a whole Via value. The user adds
    /// Contact where the method refreshes targets.
    pub fn next_request(&mut self, method: &str, via: &str) -> RequestBuilder {
        self.local_cseq = self.local_cseq.wrapping_add(1);
        self.request(method, self.local_cseq, via)
    }

    /// The ACK to a 2xx to the INVITE with this CSeq number (RFC 3261 §13.2.2.4); `via` has a branch of
    /// its own.
    pub fn ack(&self, invite_cseq: u32, via: &str) -> RequestBuilder {
        self.request("ACK", invite_cseq, via)
    }

    /// The URI whose host the next request is sent to.
    pub fn next_hop(&self) -> &str {
        let first = self.route_set.first();
        first
            .and_then(|route| Some(NameAddr::parse(route).ok()?.uri))
            .unwrap_or(&self.remote_target)
    }

    fn request(&self, method: &str, cseq: u32, via: &str) -> RequestBuilder {
        let (uri, routes) = self.routing();
        let builder = RequestBuilder::new(method, &uri).header("Via", via);
        let builder = if routes.is_empty() {
            builder
        } else {
            builder.header("Route", &routes)
        };
        builder
            .header("Max-Forwards", "70")
            .header("From", &name_addr(&self.local_uri, &self.id.local_tag))
            .header("To", &name_addr(&self.remote_uri, &self.id.remote_tag))
            .header("Call-ID", &self.id.call_id)
            .header("CSeq", &format!("{cseq} {method}"))
    }

    /// Request-URI and Route: loose routing, or for a first hop without `lr` strict routing.
    fn routing(&self) -> (Cow<'_, str>, String) {
        let first = self.route_set.first();
        let strict = first.filter(|route| !is_loose_route(route));
        match strict.and_then(|route| NameAddr::parse(route).ok()) {
            None => {
                let target = as_request_uri(&self.remote_target);
                (target, self.route_set.join(", "))
            }
            Some(router) => {
                let target = format!("<{}>", self.remote_target);
                let rest = self.route_set.iter().skip(1).chain([&target]);
                let rest: Vec<&str> = rest.map(String::as_str).collect();
                (as_request_uri(router.uri), rest.join(", "))
            }
        }
    }
}

const NO_TAG: Rejection = Rejection::new(400, "Missing Tag");
const NO_CONTACT: Rejection = Rejection::new(400, "Missing Contact");

fn state_of(status: u16) -> DialogState {
    if status < 200 {
        DialogState::Early
    } else {
        DialogState::Confirmed
    }
}

fn tag_text(address: &NameAddr<'_>) -> String {
    address.tag().unwrap_or_default().to_owned()
}

fn name_addr(uri: &str, tag: &str) -> String {
    if tag.is_empty() {
        format!("<{uri}>")
    } else {
        format!("<{uri}>;tag={tag}")
    }
}

/// What requests in the dialog go to; `None` also where that is no URI, which no request could be sent with.
fn contact_uri(message: &Message) -> Option<String> {
    let value = message.values(HeaderName::Contact).next()?;
    let uri = NameAddr::parse(value).ok()?.uri;
    Uri::parse(uri).is_ok().then(|| uri.to_owned())
}

fn reversed_record_route(response: &Message) -> Vec<String> {
    let routes = response.values(HeaderName::RecordRoute);
    let mut routes: Vec<String> = routes.map(str::to_owned).collect();
    routes.reverse();
    routes
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::sip::wire;

    const VIA: &str = "SIP/2.0/UDP 192.0.2.2;branch=z9hG4bK-0-token";

    fn parsed(text: String) -> Message {
        wire::parse(Bytes::from(text)).unwrap()
    }

    fn invite(cseq: u32, more: &str) -> Message {
        parsed(format!(
            "INVITE sip:bob@example.com SIP/2.0\r\n\
             Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1\r\n\
             From: \"Alice\" <sip:alice@example.com>;tag=a\r\n\
             To: <sip:bob@example.com>\r\n\
             Call-ID: call\r\n\
             CSeq: {cseq} INVITE\r\n\
             Contact: <sip:alice@192.0.2.1>\r\n\
             {more}Content-Length: 0\r\n\r\n"
        ))
    }

    fn in_dialog(method: &str, cseq: u32) -> Message {
        parsed(format!(
            "{method} sip:bob@192.0.2.2 SIP/2.0\r\n\
             Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK2\r\n\
             From: <sip:alice@example.com>;tag=a\r\n\
             To: <sip:bob@example.com>;tag=b\r\n\
             Call-ID: call\r\n\
             CSeq: {cseq} {method}\r\n\
             Contact: <sip:alice@198.51.100.7>\r\n\
             Content-Length: 0\r\n\r\n"
        ))
    }

    fn answer(status: u16, more: &str) -> Message {
        parsed(format!(
            "SIP/2.0 {status} Reason\r\n\
             Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1\r\n\
             From: \"Alice\" <sip:alice@example.com>;tag=a\r\n\
             To: <sip:bob@example.com>;tag=b\r\n\
             Call-ID: call\r\n\
             CSeq: 7 INVITE\r\n\
             {more}Content-Length: 0\r\n\r\n"
        ))
    }

    const CONTACT: &str = "Contact: <sip:bob@192.0.2.9;transport=tcp>\r\n";

    fn uac(record_route: &str) -> Dialog {
        let more = format!("{CONTACT}{record_route}");
        Dialog::as_uac(&invite(7, ""), &answer(200, &more)).unwrap()
    }

    fn bye(dialog: &mut Dialog) -> Message {
        wire::parse(dialog.next_request("BYE", VIA).build()).unwrap()
    }

    fn routes(message: &Message) -> Vec<&str> {
        message.values(HeaderName::Route).collect()
    }

    #[test]
    fn the_caller_reverses_the_record_route() {
        let dialog = uac("Record-Route: <sip:p2;lr>, <sip:p1;lr>\r\n");
        assert_eq!(dialog.route_set, ["<sip:p1;lr>", "<sip:p2;lr>"]);
        assert_eq!(dialog.remote_target, "sip:bob@192.0.2.9;transport=tcp");
        assert_eq!(dialog.id.local_tag, "a");
        assert_eq!(dialog.id.remote_tag, "b");
        assert_eq!((dialog.local_cseq, dialog.remote_cseq), (7, None));
        assert_eq!(dialog.state, DialogState::Confirmed);
        assert_eq!(dialog.next_hop(), "sip:p1;lr");
    }

    #[test]
    fn the_callee_keeps_the_order_of_the_record_route() {
        let invite = invite(
            7,
            "Record-Route: <sip:p2;lr>\r\nRecord-Route: <sip:p1;lr>\r\n",
        );
        let dialog = Dialog::as_uas(&invite, 180, "b").unwrap();
        assert_eq!(dialog.route_set, ["<sip:p2;lr>", "<sip:p1;lr>"]);
        assert_eq!(dialog.remote_target, "sip:alice@192.0.2.1");
        assert_eq!(dialog.remote_uri, "sip:alice@example.com");
        assert_eq!(dialog.local_uri, "sip:bob@example.com");
        assert_eq!((dialog.local_cseq, dialog.remote_cseq), (0, Some(7)));
        assert_eq!(dialog.state, DialogState::Early);
    }

    #[test]
    fn both_ends_and_every_message_name_the_same_dialog() {
        let callee = Dialog::as_uas(&invite(7, ""), 200, "b").unwrap();
        assert_eq!(DialogId::of_request(&in_dialog("BYE", 8)), Some(callee.id));
        assert_eq!(DialogId::of_request(&invite(7, "")), None);
        assert_eq!(DialogId::of_response(&answer(200, "")), Some(uac("").id));
    }

    #[test]
    fn a_dialog_needs_a_contact() {
        for contact in [
            "",
            "Contact: <s\u{fffd}ip:bob@192.0.2.2>\r\n",
            "Contact: <sip:>\r\n",
        ] {
            let outcome = Dialog::as_uac(&invite(7, ""), &answer(200, contact));
            assert_eq!(outcome, Err(NO_CONTACT), "{contact}");
        }
    }

    #[test]
    fn a_request_without_routes_goes_to_the_remote_target() {
        let mut dialog = uac("");
        let bye = bye(&mut dialog);
        assert_eq!(bye.request_uri(), "sip:bob@192.0.2.9;transport=tcp");
        assert_eq!(routes(&bye), [""; 0]);
        assert_eq!(
            bye.header(HeaderName::From),
            Some("<sip:alice@example.com>;tag=a")
        );
        assert_eq!(
            bye.header(HeaderName::To),
            Some("<sip:bob@example.com>;tag=b")
        );
        assert_eq!(bye.header(HeaderName::CSeq), Some("8 BYE"));
        assert_eq!(bye.header(HeaderName::Via), Some(VIA));
        assert_eq!(bye.max_forwards(), Ok(Some(70)));
    }

    #[test]
    fn loose_routers_leave_the_target_in_the_request_uri() {
        let mut dialog = uac("Record-Route: <sip:p2;lr>, <sip:p1;lr>\r\n");
        let bye = bye(&mut dialog);
        assert_eq!(bye.request_uri(), "sip:bob@192.0.2.9;transport=tcp");
        assert_eq!(routes(&bye), ["<sip:p1;lr>", "<sip:p2;lr>"]);
    }

    #[test]
    fn a_strict_router_stands_in_the_request_uri_and_the_target_at_the_end() {
        let mut dialog = uac("Record-Route: <sip:p4>, <sip:p3;lr>, <sip:p2>, <sip:p1>\r\n");
        let bye = bye(&mut dialog);
        assert_eq!(bye.request_uri(), "sip:p1");
        let target = "<sip:bob@192.0.2.9;transport=tcp>";
        assert_eq!(
            routes(&bye),
            ["<sip:p2>", "<sip:p3;lr>", "<sip:p4>", target]
        );
    }

    #[test]
    fn numbers_count_up_and_an_ack_has_that_of_its_invite() {
        let mut dialog = uac("");
        bye(&mut dialog);
        let ack = wire::parse(dialog.ack(7, VIA).build()).unwrap();
        assert_eq!(ack.header(HeaderName::CSeq), Some("7 ACK"));
        assert_eq!(bye(&mut dialog).header(HeaderName::CSeq), Some("9 BYE"));
    }

    #[test]
    fn a_request_out_of_order_gets_500() {
        let mut dialog = Dialog::as_uas(&invite(7, ""), 200, "b").unwrap();
        assert_eq!(dialog.check_cseq(&in_dialog("INFO", 20)), Ok(()));
        assert_eq!(dialog.check_cseq(&in_dialog("INFO", 20)), Ok(()));
        let late = dialog.check_cseq(&in_dialog("INFO", 19));
        assert_eq!(late.unwrap_err().status, 500);
        assert_eq!(dialog.check_cseq(&in_dialog("ACK", 7)), Ok(()));
        assert_eq!(dialog.remote_cseq, Some(20));
    }

    #[test]
    fn the_first_request_of_the_peer_sets_its_number() {
        let mut dialog = uac("");
        assert_eq!(dialog.check_cseq(&in_dialog("INFO", 1)), Ok(()));
        assert_eq!(dialog.remote_cseq, Some(1));
    }

    #[test]
    fn a_target_refresh_changes_the_target_and_not_the_routes() {
        let mut dialog =
            Dialog::as_uas(&invite(7, "Record-Route: <sip:p;lr>\r\n"), 200, "b").unwrap();
        dialog.refresh_target(&in_dialog("UPDATE", 8));
        assert_eq!(dialog.remote_target, "sip:alice@198.51.100.7");
        assert_eq!(dialog.route_set, ["<sip:p;lr>"]);
    }

    #[test]
    fn a_2xx_confirms_an_early_dialog_and_decides_its_routes() {
        let early = answer(183, &format!("{CONTACT}Record-Route: <sip:early;lr>\r\n"));
        let mut dialog = Dialog::as_uac(&invite(7, ""), &early).unwrap();
        assert_eq!(dialog.state, DialogState::Early);
        let success = "Contact: <sip:bob@192.0.2.10>\r\nRecord-Route: <sip:late;lr>\r\n";
        dialog.confirm(&answer(200, success));
        assert_eq!(dialog.state, DialogState::Confirmed);
        assert_eq!(dialog.route_set, ["<sip:late;lr>"]);
        assert_eq!(dialog.remote_target, "sip:bob@192.0.2.10");
    }
}
