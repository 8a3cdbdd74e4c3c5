//! Messages of each kind with nothing wrong.

/// Methods, and the fields that only they have.
const METHODS: [(&str, &str); 14] = [
    (
        "INVITE",
        "Contact: <sip:alice@192.0.2.1:5060;transport=tcp>;+g.oma.sip-im\nAccept-Contact: *;+g.oma.sip-im;require\nSupported: timer, 100rel\nSession-Expires: 1800;refresher=uac\nMin-SE: 90\nAllow: INVITE, ACK\n",
    ),
    ("ACK", "Route: <sip:p.test;lr>\n"),
    ("BYE", "Reason: SIP;cause=200;text=\"bye\"\n"),
    ("CANCEL", "Reason: SIP;cause=487\n"),
    (
        "MESSAGE",
        "P-Asserted-Identity: <sip:alice@im.test>\nPrivacy: id\nExpires: 600\nDate: Sat, 13 Nov 2010 23:29:00 GMT\nConversation-ID: f81d4fae\nContribution-ID: abcdef\n",
    ),
    (
        "REGISTER",
        "Contact: <sip:alice@192.0.2.1>;q=0.5;expires=600;+sip.instance=\"<urn:uuid:00000000-0000-1000-8000-AABBCCDDEEFF>\";reg-id=1\nPath: <sip:p.test;lr>\nExpires: 3600\nAuthorization: Digest username=\"alice\", realm=\"im.test\", nonce=\"n\", uri=\"sip:im.test\", response=\"00\", cnonce=\"c\", nc=00000001, qop=auth, algorithm=MD5\n",
    ),
    ("OPTIONS", "Accept: application/sdp\n"),
    (
        "SUBSCRIBE",
        "Event: presence;id=1\nExpires: 60\nContact: <sip:alice@h>\n",
    ),
    (
        "NOTIFY",
        "Event: presence\nSubscription-State: active;expires=60\nContact: <sip:alice@h>\n",
    ),
    ("PRACK", "RAck: 1 7 INVITE\n"),
    (
        "UPDATE",
        "Contact: <sip:alice@h>\nSession-Expires: 90\nRequire: timer\n",
    ),
    ("INFO", "Info-Package: x\n"),
    (
        "REFER",
        "Refer-To: <sip:carol@im.test>\nContact: <sip:alice@h>\n",
    ),
    ("PUBLISH", "Event: presence\nSIP-If-Match: x\n"),
];

const RESPONSES: [(&str, &str); 4] = [
    (
        "180 Ringing",
        "RSeq: 1\nRequire: 100rel\nContact: <sip:bob@h>\n",
    ),
    (
        "200 OK",
        "Contact: <sip:bob@h>;expires=60\nRecord-Route: <sip:p.test;lr>\nSession-Expires: 1800;refresher=uas\n",
    ),
    (
        "401 Unauthorized",
        "WWW-Authenticate: Digest realm=\"im.test\", nonce=\"n\", algorithm=SHA-256, qop=\"auth\"\n",
    ),
    (
        "503 Service Unavailable",
        "Retry-After: 5 (busy);duration=3\nWarning: 399 im.test \"133 Size exceeded\"\n",
    ),
];

const COMMON: &str = "Via: SIP/2.0/UDP 192.0.2.1:5060;rport;branch=z9hG4bK1\nMax-Forwards: 70\n\
    From: \"A\" <sip:alice@im.test>;tag=1\nTo: <sip:bob@im.test>;tag=2\nCall-ID: abc@192.0.2.1\nCSeq: 7 ";
const BODY: &str = "Content-Type: text/plain\nContent-Length: 5\n\nhello";

fn wire(text: String) -> Vec<u8> {
    text.replace('\n', "\r\n").into_bytes()
}

/// The request of this method.
pub fn sip_request(method: &str) -> Vec<u8> {
    let known = METHODS.iter().find(|(name, _)| *name == method);
    let (_, own) = known.expect("a method of the table");
    wire(format!(
        "{method} sip:bob@im.test;transport=tcp SIP/2.0\n{COMMON}{method}\n{own}{BODY}"
    ))
}

/// All of SIP.
pub fn sip() -> Vec<Vec<u8>> {
    let requests = METHODS.iter().map(|(method, _)| sip_request(method));
    let responses = RESPONSES
        .iter()
        .map(|(status, own)| wire(format!("SIP/2.0 {status}\n{COMMON}INVITE\n{own}{BODY}")));
    requests.chain(responses).collect()
}

const PATHS: &str = "To-Path: msrp://bob.example:8888/5.bob;tcp\nFrom-Path: msrp://alice.example:7777/2.alice;tcp\n";

/// A SEND with a body of five octets.
pub fn msrp_send() -> Vec<u8> {
    wire(format!(
        "MSRP a786hjs2 SEND\n{PATHS}Message-ID: 87652\nByte-Range: 1-5/5\nSuccess-Report: yes\n\
         Failure-Report: partial\nContent-Type: text/plain\n\nhello\n-------a786hjs2$\n"
    ))
}

/// All of MSRP.
pub fn msrp() -> Vec<Vec<u8>> {
    let bodiless = format!(
        "MSRP a786hjs2 SEND\n{PATHS}Message-ID: 87653\nByte-Range: 1-0/0\n-------a786hjs2$\n"
    );
    let report = format!(
        "MSRP a786hjs2 REPORT\n{PATHS}Message-ID: 87652\nByte-Range: 1-5/5\nStatus: 000 200 OK\n-------a786hjs2$\n"
    );
    let response = format!("MSRP a786hjs2 200 OK\n{PATHS}-------a786hjs2$\n");
    let other = format!("MSRP a786hjs2 NICKNAME\n{PATHS}Use-Nickname: \"Al\"\n-------a786hjs2$\n");
    let texts = [bodiless, report, response, other].map(wire);
    std::iter::once(msrp_send()).chain(texts).collect()
}
