//! What peers write: the requests of a CPM client as they come off the wire, about 1.2 kB with 18 header
//! fields.

use std::fmt::Write;

/// A MESSAGE with a CPIM envelope that asks for receipts; every number makes another one.
pub fn message(from: &str, to: &str, number: u64) -> String {
    let body = format!(
        "From: <sip:{from}@im.test>\r\n\
         To: <sip:{to}@im.test>\r\n\
         DateTime: 2026-11-21T01:30:00.000Z\r\n\
         NS: imdn <urn:ietf:params:imdn>\r\n\
         imdn.Message-ID: 4711-{number}-bench\r\n\
         imdn.Disposition-Notification: positive-delivery, display\r\n\
         \r\n\
         Content-Type: text/plain; charset=utf-8\r\n\
         Content-Length: 62\r\n\
         \r\n\
         See you at the station at half past six, platform number nine."
    );
    format!(
        "MESSAGE sip:{to}@im.test SIP/2.0\r\n\
         Via: SIP/2.0/UDP 192.0.2.9:6080;branch=z9hG4bK-4711-{number}-1;rport\r\n\
         Max-Forwards: 70\r\n\
         From: <sip:{from}@im.test>;tag=4711t{number}\r\n\
         To: <sip:{to}@im.test>\r\n\
         Call-ID: {number}-4711@192.0.2.9\r\n\
         CSeq: 1 MESSAGE\r\n\
         P-Asserted-Identity: <sip:{from}@im.test>\r\n\
         P-Asserted-Service: urn:urn-7:3gpp-service.ims.icsi.oma.cpm.msg\r\n\
         P-Access-Network-Info: 3GPP-E-UTRAN-FDD;utran-cell-id-3gpp=262070123456789a\r\n\
         P-Charging-Vector: icid-value=\"4711.{number}\";orig-ioi=\"im.test\"\r\n\
         Accept-Contact: *;+g.3gpp.icsi-ref=\"urn%3Aurn-7%3A3gpp-service.ims.icsi.oma.cpm.msg\"\r\n\
         Request-Disposition: no-fork\r\n\
         Conversation-ID: f81d4fae-7dec-11d0-a765-4711c{number}\r\n\
         Contribution-ID: 8fa24c01-93b1-4c5e-b5d2-4711m{number}\r\n\
         Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, MESSAGE\r\n\
         User-Agent: CPM-client/OMA2.2 bench/1.0\r\n\
         Content-Type: message/cpim\r\n\
         Content-Length: {}\r\n\
         \r\n\
         {body}",
        body.len()
    )
}

/// A REGISTER of one contact, as a client refreshes it.
pub fn register(user: &str, contact: &str, number: u64) -> String {
    format!(
        "REGISTER sip:im.test SIP/2.0\r\n\
         Via: SIP/2.0/UDP {contact};branch=z9hG4bK-4712-{number}-1;rport\r\n\
         Max-Forwards: 70\r\n\
         From: <sip:{user}@im.test>;tag=4712t{number}\r\n\
         To: <sip:{user}@im.test>\r\n\
         Call-ID: {user}-4712@192.0.2.9\r\n\
         CSeq: {number} REGISTER\r\n\
         Contact: <sip:{user}@{contact}>;+g.3gpp.icsi-ref=\"urn%3Aurn-7%3A3gpp-service.ims.icsi.oma.cpm.msg\"\r\n\
         Expires: 3600\r\n\
         Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, MESSAGE\r\n\
         Supported: path, gruu\r\n\
         P-Access-Network-Info: 3GPP-E-UTRAN-FDD;utran-cell-id-3gpp=262070123456789a\r\n\
         User-Agent: CPM-client/OMA2.2 bench/1.0\r\n\
         Content-Length: 0\r\n\
         \r\n"
    )
}

/// A device's 200 to a request it got.
pub fn taken(request: &str) -> String {
    let mut answer = String::from("SIP/2.0 200 OK\r\n");
    let copied = ["Via:", "From:", "Call-ID:", "CSeq:"];
    for line in request.split("\r\n").take_while(|line| !line.is_empty()) {
        if copied.iter().any(|name| line.starts_with(name)) {
            let _ = write!(answer, "{line}\r\n");
        } else if line.starts_with("To:") {
            let _ = write!(answer, "{line};tag=device\r\n");
        }
    }
    answer + "Content-Length: 0\r\n\r\n"
}
