//! Well-formed octets, from which mutation and fuzzing begin.

use std::path::{Path, PathBuf};

use super::msrp_pair::{ALICE, BOB};
use super::mutator::Mutator;

/// Where the tests' data lies.
fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|folder| folder.join("tests/data"))
        .find(|folder| folder.is_dir())
        .expect("the tests' data")
}

/// The files of a folder with this extension, by name.
fn files(folder: &str, extension: &str) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(data().join(folder)).expect("a folder");
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|known| known == extension))
        .collect();
    paths.sort();
    let read = |path| std::fs::read(path).expect("readable");
    paths.into_iter().map(read).collect()
}

fn wire(texts: &[&str]) -> Vec<Vec<u8>> {
    let texts = texts.iter().map(|text| text.replace('\n', "\r\n"));
    texts.map(String::into_bytes).collect()
}

fn plain(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// A MESSAGE with everything in it.
pub const MESSAGE: &str = "MESSAGE sip:bob@im.test;transport=tcp SIP/2.0
Via: SIP/2.0/UDP [2001:db8::1]:5060;rport;branch=z9hG4bK1, SIP/2.0/TCP h;branch=z9hG4bK2
v: SIP / 2.0 / UDP
  last.test ; branch=z9hG4bK3
Max-Forwards: 70
f: \"A, \\\"B\\\"\" <sip:alice@im.test>;tag=1
To: sip:bob@im.test
i: abc@192.0.2.1
CSeq: 7 MESSAGE
P-Asserted-Identity : <tel:+4670>
Contact: <sip:a@h;ob>;+sip.instance=\"<urn:uuid:1>\";q=0.5
Route: <sip:a;lr>,<sip:b;lr>
Accept-Contact: *;+g.3gpp.icsi-ref=\"urn%3Aurn-7%3A3gpp-service.ims.icsi.oma.cpm.msg\"
Content-Type: text/plain
Content-Length: 5

hello";

const RESPONSE: &str = "SIP/2.0 200 OK
Via: SIP/2.0/UDP h;branch=z9hG4bK1;received=192.0.2.1;rport=5060
Record-Route: <sip:p1.test;lr>, <sip:p2.test;lr>
From: <sip:alice@im.test>;tag=1
To: <sip:bob@im.test>;tag=2
Call-ID: abc@192.0.2.1
CSeq: 7 INVITE
Contact: <sip:bob@192.0.2.2>
Session-Expires: 1800;refresher=uac
Require: timer
Content-Length: 0

";

const INVITE: &str = "INVITE sip:bob@im.test SIP/2.0
Via: SIP/2.0/UDP h;branch=z9hG4bK1
Max-Forwards: 70
Record-Route: <sip:p1.test;lr>
From: <sip:alice@im.test>;tag=1
To: <sip:bob@im.test>
Call-ID: abc@192.0.2.1
CSeq: 7 INVITE
Contact: <sip:alice@192.0.2.1>
Supported: timer,100rel
Session-Expires: 1800;refresher=uac
Min-SE: 120
Content-Length: 0

";

/// RFC 4475, RFC 5118, and messages of ours.
pub fn sip() -> Vec<Vec<u8>> {
    let mut all = wire(&[MESSAGE, RESPONSE, INVITE]);
    all.extend(files("rfc4475", "dat"));
    all.extend(files("rfc5118", "dat"));
    all
}

/// Several messages behind each other, behind the octets that say where to split.
pub fn sip_streams() -> Vec<Vec<u8>> {
    let own = wire(&[MESSAGE, "\n\n", RESPONSE, "\n", INVITE]);
    let mut all = vec![
        [
            b"\x03\x40\x01\x09\x77\x00\x20\x05".as_slice(),
            &own.concat(),
        ]
        .concat(),
    ];
    let split =
        |octets: Vec<u8>| [b"\x50\x01\x30\x02\x90\x07\x11\x00".as_slice(), &octets].concat();
    all.extend(files("rfc4475", "dat").into_iter().map(split));
    all
}

/// Values of header fields.
pub fn values() -> Vec<Vec<u8>> {
    plain(&[
        "SIP/2.0/UDP [2001:db8::1]:5060;rport;received=192.0.2.1;branch=z9hG4bK1",
        "SIP / 2.0 / TCP  host.test : 5061 ; ttl=16 ; maddr=224.2.0.1;branch=z9hG4bK2",
        "\"A, \\\"B\\\"\" <sip:alice@im.test;x=<y>>;tag=1;q=0.3, sip:bob@im.test",
        "<sip:bob@im.test?Subject=a&Route=%3Csip:c%3E>;+sip.instance=\"<urn:uuid:1>\"",
        "12345 INVITE",
        "*;+g.oma.sip-im;explicit;require",
        ";a=1;b=\"x;y\";c",
        "<sip:a;lr>,<sip:b;lr>, <sips:[::1]:5061;transport=tcp;lr>",
    ])
}

/// Pairs of URIs, one a line.
pub fn uris() -> Vec<Vec<u8>> {
    plain(&[
        "sip:%61lice@AtLanTa.CoM;Transport=TCP\nsip:alice@atlanta.com;transport=tcp",
        "sip:carol@chicago.com;newparam=5\nsip:carol@chicago.com;security=on",
        "sip:biloxi.com;transport=tcp;method=REGISTER?to=sip:bob%40biloxi.com\nsip:biloxi.com;method=REGISTER;transport=tcp?to=sip:bob%40biloxi.com",
        "sip:alice@atlanta.com?subject=project%20x&priority=urgent\nsip:alice@atlanta.com?priority=urgent&subject=project%20x",
        "sips:user:pass@[2001:db8::1]:5061;lr\nsips:user:pass@[2001:DB8::1]:5061;lr",
        "tel:+46-70(000)0001;phone-context=x\ntel:+46700000001",
        "tel:7042;phone-context=example.com\nsip:+4670@im.test;user=phone",
    ])
}

/// Authorization values.
pub fn credentials() -> Vec<Vec<u8>> {
    plain(&[
        "Digest username=\"alice\", realm=\"im.test\", nonce=\"00112233\", uri=\"sip:im.test\", qop=auth, nc=00000001, cnonce=\"0a4f\", response=\"6629fae49393a05397450978507c4ef1\", algorithm=MD5",
        "Digest username=\"alice\",realm=\"im.test\",nonce=\"x\",uri=\"sip:im.test\",qop=auth,nc=00000002,cnonce=\"y\",algorithm=SHA-256,response=\"b5bb9d8014a0f9b1d61e21e796d78dccdf1352f23cd32812f4850b878ae4944c\",opaque=\"\"",
        "Digest username*=UTF-8''alice, userhash=true, realm=\"a\\\"b\"",
        "Basic YWxpY2U6c2VjcmV0",
    ])
}

/// Accept-Contact values and feature tags, one a line.
pub fn preferences() -> Vec<Vec<u8>> {
    plain(&[
        "*;+g.oma.sip-im\n*;audio;require\n;+g.oma.sip-im\n;audio;methods=\"INVITE,BYE\"",
        "*;methods=\"MESSAGE\";explicit\n*;+g.3gpp.icsi-ref=\"urn%3Aurn-7%3A3gpp-service.ims.icsi.oma.cpm.session\";require\n;+g.3gpp.icsi-ref=\"urn%3Aurn-7%3A3gpp-service.ims.icsi.oma.cpm.session,urn%3Ax\"",
        "*;priority=\"#<=5\";x=\"!<abc>\"\n;priority=\"#4\"\nno-fork, sequential, queue",
    ])
}

/// Two messages behind each other.
pub fn dialogs() -> Vec<Vec<u8>> {
    let again = INVITE.replace("7 INVITE", "8 INVITE");
    let pairs = [[INVITE, RESPONSE], [INVITE, &again], [RESPONSE, RESPONSE]];
    pairs.iter().map(|pair| wire(pair).concat()).collect()
}

/// Octets that are decisions.
pub fn choices() -> Vec<Vec<u8>> {
    let mut mutator = Mutator::new(7);
    (0..24)
        .map(|round| mutator.octets(40 + 40 * round))
        .collect()
}

/// Frames for Bob from Alice, behind the octets that say where to split and what to do.
pub fn msrp() -> Vec<Vec<u8>> {
    let paths = format!("To-Path: {BOB}\nFrom-Path: {ALICE}\n");
    let texts = [
        format!(
            "MSRP d93kswow SEND\n{paths}Message-ID: 12339sdqwer\nByte-Range: 1-5/5\nSuccess-Report: yes\nContent-Type: text/plain\n\nHello\n-------d93kswow$\n"
        ),
        format!(
            "MSRP aaaa1 SEND\n{paths}Message-ID: m.1\nByte-Range: 1-3/6\nContent-Type: text/plain\n\nabc\n-------aaaa1+\nMSRP aaaa2 SEND\n{paths}Message-ID: m.1\nByte-Range: 4-6/6\nContent-Type: text/plain\n\ndef\n-------aaaa2$\n"
        ),
        format!(
            "MSRP bbbb1 SEND\n{paths}Message-ID: m.2\nByte-Range: 1-*/*\nFailure-Report: partial\nContent-Type: message/cpim\n\nabc\n-------bbbb\n-------bbbb1#\n"
        ),
        format!("MSRP cccc1 SEND\n{paths}Message-ID: m.3\n-------cccc1$\n"),
        format!(
            "MSRP dddd1 REPORT\n{paths}Message-ID: m.4\nByte-Range: 1-5/5\nStatus: 000 200 OK\n-------dddd1$\n"
        ),
        format!(
            "MSRP dkei38sd 200 OK\n{paths}-------dkei38sd$\nMSRP eeee1 NICKNAME\n{paths}Use-Nickname: \"x\"\n-------eeee1$\n"
        ),
    ];
    let plans: [&[u8; 8]; 3] = [
        b"\x01\x00\x30\x01\x05\x77\x02\x09",
        b"\x50\x33\x01\x01\x01\x01\x01\x01",
        &[0; 8],
    ];
    let mut all = Vec::new();
    for (text, plan) in texts.iter().zip(plans.iter().cycle()) {
        all.push([plan.as_slice(), text.replace('\n', "\r\n").as_bytes()].concat());
    }
    all.push(
        [
            plans[0].as_slice(),
            texts.concat().replace('\n', "\r\n").as_bytes(),
        ]
        .concat(),
    );
    all
}

/// MSRP URIs and paths.
pub fn msrp_uris() -> Vec<Vec<u8>> {
    plain(&[
        "msrp://alice.example:7777/2.alice;tcp\nmsrp://ALICE.example:7777/2.alice;TCP",
        "msrps://user@[2001:db8::1]:2855/0.Abc+=/;tcp;x=y\nmsrps://[2001:DB8::1]:2855/0.Abc+=/;tcp",
        "msrp://relay.test:2855/s1;tcp msrp://alice.example:7777/2.alice;tcp",
        "msrp://127.0.0.1/x;tcp",
    ])
}

/// Session descriptions.
pub fn descriptions() -> Vec<Vec<u8>> {
    wire(&[
        "v=0\no=- 1 1 IN IP4 192.0.2.1\ns=-\nc=IN IP4 192.0.2.1\nt=0 0\nm=message 7777 TCP/MSRP *\na=accept-types:message/cpim application/im-iscomposing+xml\na=accept-wrapped-types:*\na=path:msrp://192.0.2.1:7777/2.alice;tcp\na=setup:actpass\na=sendrecv\na=max-size:100000\na=msrp-cema\n",
        "v=0\no=- 1 1 IN IP6 ::1\ns=-\nt=0 0\na=recvonly\nm=audio 49170/2 RTP/AVP 0 8\na=rtpmap:0 PCMU/8000\nm=message 9 TCP/TLS/MSRP *\nc=IN IP6 ::1\na=accept-types:*\na=path:msrps://[::1]:2855/x;tcp\na=fingerprint:SHA-1 4A:AD:B9:B1:3F:82:18:3B:54:02:12:DF:3E:5D:49:6B:19:E5:7C:AB\nm=message 2855 TCP/MSRP *\na=accept-types:text/*\na=path:msrp://127.0.0.1:2855/y;tcp\na=setup:passive\n",
        "v=0\no=- 1 1 IN IP4 h\ns=-\nm=message 0 TCP/MSRP *\na=maxsize:5\n",
    ])
}

/// CPIM envelopes.
pub fn envelopes() -> Vec<Vec<u8>> {
    wire(&[
        "From: <sip:anonymous@anonymous.invalid>\nTo: \"B\" <sip:bob@im.test>\nNS: imdn <urn:ietf:params:imdn>\nimdn.Message-ID: Xy9z\nDateTime: 2026-03-02T09:15:04Z\nimdn.Disposition-Notification: positive-delivery, display\nimdn.IMDN-Record-Route: <sip:r@im.test>\n\nContent-Type: text/plain;charset=utf-8\nContent-Length: 5\n\nhello",
        "NS: i<urn:ietf:params:imdn>\nNS: <urn:x>\nSubject:;lang=fr Bonjour \\u{263a}\nRequire: i.Message-ID, x\nTo: <tel:+1>\ni.IMDN-Route: <sip:a@h>\ni.IMDN-Route: <sip:b@h>\n\nContent-Disposition: notification\nContent-type: message/imdn+xml\n\n<imdn/>",
        "\n\nFrom:sip:a@b\nContent-Type: a/b\n\n",
    ])
}

/// Notifications, and an aggregate of them.
pub fn notifications() -> Vec<Vec<u8>> {
    let one = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<imdn xmlns=\"urn:ietf:params:xml:ns:imdn\">\n<message-id>34jk324j</message-id>\n<datetime>2006-04-04T12:16:49-05:00</datetime>\n<recipient-uri>im:bob@example.com</recipient-uri>\n<delivery-notification><status><delivered/></status></delivery-notification>\n</imdn>\n";
    let two = "<i:imdn xmlns:i='urn:ietf:params:xml:ns:imdn'><!-- c --><i:message-id>a&amp;b</i:message-id><i:datetime/><i:display-notification><i:status><i:displayed/></i:status></i:display-notification></i:imdn>";
    let aggregate = format!(
        "--b\nContent-Type: message/imdn+xml\n\n{one}\n--b\nContent-Type: message/imdn+xml\n\n{two}\n--b--\n"
    );
    wire(&[one, two, &aggregate])
}

/// A content type and a body.
pub fn multiparts() -> Vec<Vec<u8>> {
    plain(&[
        "multipart/mixed; boundary=\"bound\"\npreamble\r\n--bound\r\nContent-Type: application/sdp\r\n\r\nv=0\r\n\r\n--bound\r\ncontent-type: Message/CPIM;\r\n x=1\r\n\r\nFrom: <sip:a@b>\r\n--bound--\r\nepilogue",
        "multipart/related;start=\"<a>\" ; boundary=b\n--b\n\n--b\nA: 1\n\nx\n--b--",
    ])
}

/// Dates.
pub fn dates() -> Vec<Vec<u8>> {
    plain(&[
        "Sat, 13 Nov 2010 23:29:00 GMT",
        "Fri, 01 Jan 2010 16:00:00 EST",
        "1 Jan 1970 00:00 +0000",
        "31 Dec 9999 23:59:60 -1200",
    ])
}

/// Records of each kind, as the store writes them; the first octet is the kind.
pub fn records() -> Vec<Vec<u8>> {
    let mut all = vec![vec![
        4, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0,
    ]];
    let texts = [
        "bob@im.test",
        "alice@im.test",
        "<sip:a@b>",
        "<sip:b@c>",
        "c1",
        "c2",
    ];
    let mut message = vec![0; 1 + 8 + 4 + 1 + 1 + 8 + 8 + 16];
    message[1] = 1;
    let put = |out: &mut Vec<u8>, text: &str| {
        out.extend((text.len() as u32).to_le_bytes());
        out.extend(text.as_bytes());
    };
    for text in texts {
        put(&mut message, text);
    }
    message.push(0);
    put(&mut message, "text/plain");
    put(&mut message, "m1");
    message.extend([0, 0, 0, 0, 0, 2, 0, 0, 0, 0]);
    message.extend(b"hello");
    all.push(message);
    let mut binding = vec![2];
    binding.extend([1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    put(&mut binding, "bob@im.test");
    put(&mut binding, "key");
    binding.extend(b"value");
    all.push(binding);
    all.push(b"\x07{\"user\":\"alice\",\"realm\":\"im.test\",\"ha1\":[]}".to_vec());
    all
}

/// Configurations.
pub fn configurations() -> Vec<Vec<u8>> {
    let keys = "domain = \"im.test\"\nshards = 2\n[sip]\nlisten = [\"udp://127.0.0.1:0\", \"tcp://[::1]:0\"]\nadvertise = [\"h.test:5060\"]\nt1 = \"500ms\"\nmax_message_size = \"64KiB\"\n[deferral]\nlifetime = \"7d\"\nretry = [\"30s\", \"5m\"]\n[[client]]\nuser_agent = \"x*\"\nprofile = \"cpm\"\n";
    let default = restante::config::Config::default().document();
    plain(&[
        keys,
        &default,
        "90s",
        "64KiB",
        "udp://[::1]:5060",
        "im.test:5060",
    ])
}

/// Stories for the core of a shard.
pub fn stories() -> Vec<Vec<u8>> {
    files("stories", "txt")
}
