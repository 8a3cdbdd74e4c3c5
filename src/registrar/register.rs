//! Answers REGISTER (RFC 3261 §10.3).

use std::time::Duration;

use bytes::Bytes;

use crate::clock::{Instant, Now};
use crate::identity::Identity;
use crate::registrar::binding::{Binding, Circumstances};
use crate::registrar::bindings::{Granted, Wanted};
use crate::registrar::contact::{Contact, Contacts, Wish};
use crate::registrar::directory::{Directory, Resolved, sip_uri};
use crate::registrar::reach::strip_brackets;
use crate::registrar::table::{Policy, Registered, Registrar};
use crate::sip::header::NameAddr;
use crate::sip::message::{HeaderName, Message};
use crate::sip::proxy::unsupported_requirements;
use crate::sip::rejection::Rejection;
use crate::sip::reply::{ResponseBuilder, response, warning};
use crate::sip::transport::flow::Flow;
use crate::uri::Uri;

/// Extensions a REGISTER may require.
const SUPPORTED: [&str; 2] = ["path", "gruu"];
/// Proxies on the way from a device.
const MOST_PATHS: usize = 8;
/// Octets of their addresses together.
const MOST_PATH_OCTETS: usize = 4096;

/// Client families re-register at once on a 403 without a warning (cpm-facts §11).
const NOT_AUTHORISED: Rejection =
    Rejection::new(403, "Forbidden").with_warning(crate::sip::warning::NOT_AUTHORISED);

/// A REGISTER and where it came from. Credentials are checked before.
#[derive(Clone, Copy, Debug)]
pub struct Registration<'a> {
    /// The request, already validated.
    pub request: &'a Message,
    /// How it came.
    pub flow: Flow,
    /// Who proved to have sent it; `None` in open mode, where From is believed.
    pub authenticated: Option<&'a Identity>,
    /// For the To of the response.
    pub to_tag: &'a str,
    /// Both clocks.
    pub now: Now,
}

/// The answer to a REGISTER.
#[derive(Clone, Debug)]
pub struct Handled {
    /// The status of the answer.
    pub status: u16,
    /// To be sent at once; nothing in it waits for the store.
    pub response: Bytes,
    /// What changed; `None` for a query or a refused request.
    pub registered: Option<Registered>,
}

/// Why a REGISTER is refused, with what the answer must carry besides.
enum Refused {
    Plain(Rejection),
    TooBrief,
    Unsupported(String),
}

impl From<Rejection> for Refused {
    fn from(rejection: Rejection) -> Self {
        Self::Plain(rejection)
    }
}

impl Registrar {
    /// Answers a REGISTER whose To is a user of this shard, or of nobody.
    pub fn register(&mut self, directory: &Directory, registration: &Registration<'_>) -> Handled {
        match self.try_register(directory, registration) {
            Ok(handled) => handled,
            Err(refused) => Handled {
                status: refused.status(),
                response: refused.response(registration, directory, self.policy()),
                registered: None,
            },
        }
    }

    fn try_register(
        &mut self,
        directory: &Directory,
        registration: &Registration<'_>,
    ) -> Result<Handled, Refused> {
        let request = registration.request;
        check_require(request)?;
        let user = authorised_user(directory, registration)?;
        let path = read_path(request)?;
        let around = Circumstances {
            call_id: request.call_id()?,
            cseq: request.cseq()?.number,
            path: &path,
            flow: registration.flow,
            user_agent: request.header(HeaderName::UserAgent),
            tagless: self.policy().tagless,
            now: registration.now,
        };
        let registered = match Wish::of(request, self.policy().max_contacts)? {
            Wish::Fetch => None,
            Wish::RemoveAll => Some(self.remove_all(&user, &around)?),
            Wish::Update(contacts) => {
                let granted = grant(contacts, self.policy())?;
                Some(self.update(&user, granted, &around)?)
            }
        };
        let response = self.accept(directory, registration, &user, &path);
        Ok(Handled {
            status: 200,
            response,
            registered,
        })
    }

    /// 200 with every current binding (RFC 3261 §10.3 step 8).
    fn accept(
        &mut self,
        directory: &Directory,
        registration: &Registration<'_>,
        user: &Identity,
        path: &[String],
    ) -> Bytes {
        let (request, now) = (registration.request, registration.now);
        let mut bindings = self.bindings(user).iter();
        let with_gruu = bindings.any(|it| it.instance().is_some())
            && lists(request, HeaderName::Supported, "gruu");
        let mut answer = response(request, 200, "OK", Some(registration.to_tag));
        for binding in self.bindings(user) {
            if binding.deadline() > now.instant {
                answer = with_contact(answer, binding, user, with_gruu, now.instant);
            }
        }
        for value in path {
            answer = answer.header("Path", value);
        }
        answer
            .header("P-Associated-URI", &directory.associated_uris(user))
            .header_of("Supported", &[SUPPORTED[0], ", ", SUPPORTED[1]])
            .header("Date", self.date.at(now.wall))
            .build()
    }
}

impl Refused {
    fn status(&self) -> u16 {
        match self {
            Self::TooBrief => 423,
            Self::Unsupported(_) => 420,
            Self::Plain(rejection) => rejection.status,
        }
    }

    fn response(
        &self,
        registration: &Registration<'_>,
        directory: &Directory,
        policy: &Policy,
    ) -> Bytes {
        let begin = |reason| -> ResponseBuilder {
            response(
                registration.request,
                self.status(),
                reason,
                Some(registration.to_tag),
            )
        };
        match self {
            Self::TooBrief => {
                let least = policy.min_expires.as_millis().div_ceil(1000).to_string();
                begin("Interval Too Brief").header("Min-Expires", &least)
            }
            Self::Unsupported(tags) => begin("Bad Extension").header("Unsupported", tags),
            Self::Plain(rejection) => {
                let mut answer = begin(rejection.reason);
                if let Some((code, text)) = rejection.warning {
                    answer = answer.header("Warning", &warning(code, directory.domain(), text));
                }
                match rejection.status {
                    503 => answer.header("Retry-After", "60"),
                    _ => answer,
                }
            }
        }
        .build()
    }
}

/// RFC 3261 §8.2.2.3.
fn check_require(request: &Message) -> Result<(), Refused> {
    match unsupported_requirements(request, &SUPPORTED) {
        None => Ok(()),
        Some(tags) => Err(Refused::Unsupported(tags)),
    }
}

/// Whose bindings the request is about, if its sender may change them (RFC 3261 §10.3 steps 4, 5).
/// A third party may register only itself: who proved to be the user in To, or, where From is
/// believed, who is the same user in From.
fn authorised_user(
    directory: &Directory,
    registration: &Registration<'_>,
) -> Result<Identity, Rejection> {
    let request = registration.request;
    let to = request.to()?;
    let user = match request.to_uri().map(|uri| directory.resolve(&uri)) {
        Some(Resolved::Local(user)) => user,
        Some(Resolved::Unknown | Resolved::Foreign) => {
            return Err(Rejection::new(404, "Not Found"));
        }
        None => return Err(Rejection::new(400, "Malformed To")),
    };
    let allowed = match registration.authenticated {
        Some(sender) => *sender == user,
        None => {
            let from = request.from()?;
            // Written alike they are one and the same.
            let is_user = || {
                let sender = request.from_uri().map(|uri| directory.resolve(&uri));
                sender == Some(Resolved::Local(user.clone()))
            };
            directory.is_open() && (from.uri == to.uri || is_user())
        }
    };
    allowed.then_some(user).ok_or(NOT_AUTHORISED)
}

/// The Path values, topmost first (RFC 3327 §5.3). They are kept whether or not the client says
/// that it supports them: without them it could not be reached.
fn read_path(request: &Message) -> Result<Vec<String>, Rejection> {
    let malformed = Rejection::new(400, "Malformed Path");
    let mut path = Vec::new();
    for value in request.values(HeaderName::Path) {
        let address = NameAddr::parse(value).map_err(|_| malformed)?;
        Uri::parse(address.uri).map_err(|_| malformed)?;
        path.push(value.to_owned());
        let octets: usize = path.iter().map(String::len).sum();
        if path.len() > MOST_PATHS || octets > MOST_PATH_OCTETS {
            return Err(Rejection::new(400, "Path Too Long"));
        }
    }
    Ok(path)
}

/// What each contact gets of the time it wants; a wish below the minimum refuses all.
fn grant<'a>(contacts: Contacts<'a>, policy: &Policy) -> Result<Wanted<'a>, Refused> {
    let grant = |contact: Contact<'a>| {
        let lifetime = match contact.expires {
            None => policy.default_expires,
            Some(seconds) => Duration::from_secs(u64::from(seconds)).min(policy.max_expires),
        };
        if !lifetime.is_zero() && lifetime < policy.min_expires {
            return Err(Refused::TooBrief);
        }
        Ok(Granted { contact, lifetime })
    };
    contacts.into_iter().map(grant).collect()
}

fn with_contact(
    answer: ResponseBuilder,
    binding: &Binding,
    user: &Identity,
    with_gruu: bool,
    now: Instant,
) -> ResponseBuilder {
    let (uri, parameters) = (binding.uri(), binding.parameters());
    let seconds = binding.seconds_left(now).to_string();
    let gruu = with_gruu.then(|| public_gruu(binding, user)).flatten();
    let (begin, gruu, end) = match &gruu {
        Some(gruu) => (";pub-gruu=\"", gruu.as_str(), "\""),
        None => ("", "", ""),
    };
    answer.header_of(
        "Contact",
        &[
            "<",
            uri,
            ">",
            parameters,
            ";expires=",
            &seconds,
            begin,
            gruu,
            end,
        ],
    )
}

/// The user's address with the device's instance (RFC 5627 §5.1); none for an instance that cannot
/// stand in a URI as it is.
fn public_gruu(binding: &Binding, user: &Identity) -> Option<String> {
    let instance = strip_brackets(binding.instance()?);
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.!~*'()[]/:&+$".contains(&byte);
    let legal = !instance.is_empty() && instance.bytes().all(legal);
    legal.then(|| format!("{};gr={instance}", sip_uri(user)))
}

fn lists(request: &Message, name: HeaderName, tag: &str) -> bool {
    request
        .values(name)
        .any(|own| own.eq_ignore_ascii_case(tag))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixMillis;
    use crate::config::Config;
    use crate::registrar::binding::BindingKey;
    use crate::registrar::capability::Profile;
    use crate::sip::transport::flow::{ConnectionId, Transport};
    use crate::sip::wire;
    use crate::store::request::StoreRequest;
    use proptest::prelude::*;

    const START: Now = Now {
        instant: Instant::from_micros(1_000_000),
        wall: UnixMillis(1_700_000_000_000),
    };
    const RCS: &str = "<sip:bob@192.0.2.1:5060;transport=tcp>\
        ;+sip.instance=\"<urn:uuid:00000000-0000-1000-8000-AABBCCDDEEFF>\"\
        ;+g.3gpp.icsi-ref=\"urn%3Aurn-7%3A3gpp-service.ims.icsi.oma.cpm.msg,\
        urn%3Aurn-7%3A3gpp-service.ims.icsi.oma.cpm.session\"";

    fn bob() -> Identity {
        Identity::new("bob", "im.test")
    }

    fn flow(transport: Transport, serial: u64) -> Flow {
        Flow {
            transport,
            listener: 0,
            remote: "192.0.2.1:5060".parse().unwrap(),
            connection: (transport == Transport::Tcp).then(|| ConnectionId::new(0, serial)),
        }
    }

    struct World {
        registrar: Registrar,
        directory: Directory,
        flow: Flow,
        now: Now,
        call_id: &'static str,
        cseq: u32,
        last: Option<Registered>,
    }

    struct Answer(Message);

    impl Answer {
        fn status(&self) -> u16 {
            self.0.status()
        }

        fn contacts(&self) -> Vec<&str> {
            self.0.headers(HeaderName::Contact).collect()
        }
    }

    impl World {
        fn new(text: &str) -> Self {
            let config: Config = toml::from_str(text).unwrap();
            Self {
                registrar: Registrar::new(Policy::new(&config, 1)),
                directory: Directory::new(&config),
                flow: flow(Transport::Udp, 0),
                now: START,
                call_id: "call-1",
                cseq: 0,
                last: None,
            }
        }

        fn open() -> Self {
            Self::new("")
        }

        fn after(&mut self, seconds: u64) -> &mut Self {
            self.now = self.now.plus(Duration::from_secs(seconds));
            self
        }

        fn registers(&mut self, lines: &str) -> Answer {
            self.sends("bob@im.test", "bob@im.test", None, lines)
        }

        fn sends(&mut self, from: &str, to: &str, who: Option<&Identity>, lines: &str) -> Answer {
            self.cseq += 1;
            let text = format!(
                "REGISTER sip:im.test SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\n{lines}\
                 From: <sip:{from}>;tag=1\r\nTo: <sip:{to}>\r\nCall-ID: {}\r\n\
                 CSeq: {} REGISTER\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n",
                self.call_id, self.cseq
            );
            let request = wire::parse(Bytes::from(text)).unwrap();
            let handled = self.registrar.register(
                &self.directory,
                &Registration {
                    request: &request,
                    flow: self.flow,
                    authenticated: who,
                    to_tag: "tt",
                    now: self.now,
                },
            );
            self.last = handled.registered;
            Answer(wire::parse(handled.response).unwrap())
        }

        fn reachable(&self) -> Vec<String> {
            let reachable = self.registrar.reachable(&bob(), self.now.instant);
            reachable.iter().map(|b| b.uri().to_owned()).collect()
        }

        fn last(&self) -> &Registered {
            self.last.as_ref().expect("accepted")
        }

        fn writes(&self) -> (usize, usize) {
            let store = &self.last().store;
            let put = |r: &&StoreRequest| matches!(r, StoreRequest::PutBinding { .. });
            let puts = store.iter().filter(put).count();
            (puts, store.len() - puts)
        }

        fn stored(&self) -> (String, Bytes) {
            match &self.last().store[0] {
                StoreRequest::PutBinding { key, value, .. } => (key.to_string(), value.clone()),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn who_refreshes_plainly_has_left_nowhere() {
        let mut world = World::open();
        let at = |host: &str| {
            format!("Contact: <sip:bob@{host}>;+sip.instance=\"<urn:uuid:1>\";expires=600\r\n")
        };
        world.registers(&at("192.0.2.1"));
        assert!(!world.last().left, "he came");
        world.after(60).registers(&at("192.0.2.1"));
        assert!(!world.last().left, "he is where he was");
        world.after(60).registers(&at("192.0.2.2"));
        assert!(world.last().left, "another address");
        world.flow = flow(Transport::Tcp, 3);
        world.after(60).registers(&at("192.0.2.2"));
        assert!(world.last().left, "another flow");
        world.registers("Contact: <sip:bob@192.0.2.9>;expires=600\r\n");
        assert!(!world.last().left, "one more device");
        world.registers("Contact: *\r\nExpires: 0\r\n");
        assert!(world.last().left, "all went");
    }

    #[test]
    fn an_rcs_handset_registers_and_is_answered_as_the_rfcs_say() {
        let mut world = World::new(
            "[registrar]\nauthentication = \"digest\"\n\
             [[account]]\nuser = \"bob\"\npassword = \"x\"\ntel = \"+15550100\"\n",
        );
        let lines = format!("Contact: {RCS};expires=600\r\nSupported: path, gruu\r\n");
        let answer = world.sends("bob@im.test", "bob@im.test", Some(&bob()), &lines);
        assert_eq!(answer.status(), 200);
        assert_eq!(
            answer.contacts(),
            [format!(
                "{RCS};expires=600;pub-gruu=\"sip:bob@im.test;\
                 gr=urn:uuid:00000000-0000-1000-8000-AABBCCDDEEFF\""
            )]
        );
        assert_eq!(
            answer.0.header(HeaderName::PAssociatedUri),
            Some("<sip:bob@im.test>, <tel:+15550100>")
        );
        assert_eq!(answer.0.header(HeaderName::Supported), Some("path, gruu"));
        assert_eq!(
            answer.0.header(HeaderName::Date),
            Some("Tue, 14 Nov 2023 22:13:20 GMT")
        );
        assert_eq!(answer.0.to().unwrap().tag(), Some("tt"));
        let binding = &world.registrar.bindings(&bob())[0];
        assert_eq!(binding.capability().profile, Profile::Rcs);
        assert_eq!(world.last().came, [binding.key().clone()]);
        let gr = "urn:uuid:00000000-0000-1000-8000-aabbccddeeff";
        let now = world.now.instant;
        assert!(world.registrar.reachable_by_gruu(&bob(), gr, now).is_some());
        assert!(
            world
                .registrar
                .reachable_by_gruu(&bob(), "x", now)
                .is_none()
        );
    }

    #[test]
    fn expires_comes_from_the_contact_then_the_header_then_the_default() {
        let mut world = World::open();
        let answer =
            world.registers("Contact: <sip:a@h>;expires=100, <sip:b@h>\r\nExpires: 200\r\n");
        assert_eq!(
            answer.contacts(),
            ["<sip:a@h>;expires=100", "<sip:b@h>;expires=200"]
        );
        let answer = world.after(10).registers("Contact: <sip:c@h>\r\n");
        assert_eq!(
            answer.contacts(),
            [
                "<sip:a@h>;expires=90",
                "<sip:b@h>;expires=190",
                "<sip:c@h>;expires=3600"
            ]
        );
        let answer = world.registers("Contact: <sip:c@h>;expires=4294967295\r\n");
        assert!(answer.contacts().contains(&"<sip:c@h>;expires=86400"));
    }

    #[test]
    fn too_brief_an_interval_is_refused_with_the_least_and_changes_nothing() {
        let mut world = World::open();
        let answer = world.registers("Contact: <sip:a@h>, <sip:b@h>;expires=59\r\n");
        assert_eq!(answer.status(), 423);
        assert_eq!(answer.0.header(HeaderName::MinExpires), Some("60"));
        assert!(world.last.is_none() && world.reachable().is_empty());
        assert_eq!(world.registrar.registered_users(), 0);
    }

    #[test]
    fn a_query_lists_the_bindings_and_changes_nothing() {
        let mut world = World::open();
        assert!(world.registers("").contacts().is_empty());
        world.registers("Contact: <sip:a@h>;q=0.5\r\n");
        let answer = world.registers("");
        assert_eq!(answer.contacts(), ["<sip:a@h>;q=0.5;expires=3600"]);
        assert!(world.last.is_none());
    }

    #[test]
    fn a_star_with_expires_zero_removes_all_and_otherwise_is_refused() {
        let mut world = World::open();
        world.registers("Contact: <sip:a@h>, <sip:b@h>\r\n");
        for lines in [
            "Contact: *\r\n",
            "Contact: *\r\nExpires: 60\r\n",
            "Contact: *, <sip:a@h>\r\nExpires: 0\r\n",
            "Contact: *\r\nContact: <sip:a@h>\r\nExpires: 0\r\n",
        ] {
            assert_eq!(world.registers(lines).status(), 400, "{lines}");
        }
        assert_eq!(world.reachable().len(), 2);
        assert_eq!(
            world.registers("Contact: *\r\nExpires: 0\r\n").status(),
            200
        );
        assert_eq!(world.last().gone.len(), 2);
        assert_eq!(world.writes(), (0, 2));
        assert_eq!(world.registrar.registered_users(), 0);
        assert_eq!(world.registrar.next_deadline(), None);
    }

    #[test]
    fn an_old_cseq_of_the_same_call_id_changes_nothing_at_all() {
        let mut world = World::open();
        world.cseq = 10;
        world.registers("Contact: <sip:a@h>\r\n");
        world.cseq = 9;
        let answer = world.registers("Contact: <sip:b@h>, <sip:a@h>;expires=0\r\n");
        assert_eq!(answer.status(), 500);
        assert_eq!(world.reachable(), ["sip:a@h"]);
        world.cseq = 5;
        assert_eq!(
            world.registers("Contact: *\r\nExpires: 0\r\n").status(),
            500
        );
        world.call_id = "call-2";
        assert_eq!(
            world.registers("Contact: <sip:a@h>;expires=0\r\n").status(),
            200
        );
        assert!(world.reachable().is_empty());
    }

    #[test]
    fn a_restarted_device_replaces_its_binding_by_instance() {
        let mut world = World::open();
        world.registers("Contact: <sip:bob@h:1>;+sip.instance=\"<urn:uuid:A>\"\r\n");
        world.call_id = "call-2";
        world.registers("Contact: <sip:bob@h:2>;+sip.instance=\"<urn:uuid:a>\";+g.oma.sip-im\r\n");
        assert_eq!(world.reachable(), ["sip:bob@h:2"]);
        assert_eq!(world.last().refreshed.len(), 1);
        assert_eq!(world.last().tag_set_changed, world.last().refreshed);
        assert!(world.last().came.is_empty() && world.last().gone.is_empty());
    }

    #[test]
    fn a_binding_that_changes_its_name_is_removed_under_the_old_one() {
        let mut world = World::open();
        world.registers("Contact: <sip:bob@h>\r\n");
        world.registers("Contact: <sip:bob@h>;+sip.instance=\"<urn:uuid:a>\"\r\n");
        assert_eq!(world.last().gone, [BindingKey::new("sip:bob@h")]);
        assert_eq!(world.last().came.len(), 1);
        assert_eq!(world.writes(), (1, 1));
        assert_eq!(world.reachable().len(), 1);
    }

    #[test]
    fn a_user_has_a_bounded_number_of_contacts_and_lost_ones_make_room() {
        let mut world = World::new("[registrar]\nmax_contacts = 2\n");
        world.flow = flow(Transport::Tcp, 1);
        world.registers("Contact: <sip:a@h>\r\n");
        world.registers("Contact: <sip:b@h>\r\n");
        let answer = world.registers("Contact: <sip:c@h>\r\n");
        assert_eq!(answer.status(), 403);
        assert!(
            answer
                .0
                .header(HeaderName::Warning)
                .unwrap()
                .contains("122")
        );
        assert_eq!(
            world
                .registers("Contact: <sip:c@h>, <sip:d@h>, <sip:e@h>\r\n")
                .status(),
            403
        );
        let swap = "Contact: <sip:c@h>, <sip:a@h>;expires=0\r\n";
        assert_eq!(world.registers(swap).status(), 200);
        assert_eq!(world.registrar.suspend(ConnectionId::new(0, 1)).len(), 2);
        world.flow = flow(Transport::Tcp, 2);
        assert_eq!(world.registers("Contact: <sip:d@h>\r\n").status(), 200);
        assert_eq!(world.last().gone, [BindingKey::new("sip:b@h")]);
        assert_eq!(world.reachable(), ["sip:d@h"]);
    }

    #[test]
    fn a_full_registrar_says_try_later() {
        let mut world = World::new("[registrar]\nmax_users = 1\n");
        assert_eq!(world.registers("Contact: <sip:a@h>\r\n").status(), 200);
        let answer = world.sends("eve@im.test", "eve@im.test", None, "Contact: <sip:e@h>\r\n");
        assert_eq!(answer.status(), 503);
        assert!(answer.0.header(HeaderName::RetryAfter).is_some());
        assert_eq!(world.registers("Contact: <sip:b@h>\r\n").status(), 200);
    }

    #[test]
    fn nobody_registers_for_somebody_else() {
        let mut world = World::open();
        let contact = "Contact: <sip:a@h>\r\n";
        let answer = world.sends("eve@im.test", "bob@im.test", None, contact);
        assert_eq!(answer.status(), 403);
        assert_eq!(
            answer.0.header(HeaderName::Warning),
            Some("399 im.test \"127 Service not authorised\"")
        );
        let eve = Identity::new("eve", "im.test");
        let answer = world.sends("bob@im.test", "bob@im.test", Some(&eve), contact);
        assert_eq!(answer.status(), 403);
        // Whoever proved to be bob may say in From what he likes.
        let answer = world.sends("eve@im.test", "bob@im.test", Some(&bob()), contact);
        assert_eq!(answer.status(), 200);
        let answer = world.sends("bob@else.test", "bob@else.test", None, contact);
        assert_eq!(answer.status(), 404);
    }

    #[test]
    fn path_is_kept_and_given_back_in_order() {
        let mut world = World::open();
        let lines = "Contact: <sip:a@h>\r\nPath: <sip:p1.test;lr>, <sip:p2.test;lr>\r\n\
                     Path: <sip:p3.test;lr>\r\nRequire: path\r\n";
        let answer = world.registers(lines);
        let path: Vec<&str> = answer.0.headers(HeaderName::Path).collect();
        assert_eq!(
            path,
            ["<sip:p1.test;lr>", "<sip:p2.test;lr>", "<sip:p3.test;lr>"]
        );
        assert_eq!(world.registrar.bindings(&bob())[0].path(), path);
        let long = "Path: <sip:p;lr>\r\n".repeat(9);
        assert_eq!(
            world
                .registers(&format!("Contact: <sip:a@h>\r\n{long}"))
                .status(),
            400
        );
    }

    #[test]
    fn an_unknown_extension_is_refused_by_name() {
        let mut world = World::open();
        let answer = world.registers("Contact: <sip:a@h>\r\nRequire: path, outbound\r\n");
        assert_eq!(answer.status(), 420);
        assert_eq!(answer.0.header(HeaderName::Unsupported), Some("outbound"));
    }

    #[test]
    fn a_lost_connection_suspends_until_the_device_registers_again() {
        let mut world = World::open();
        world.flow = flow(Transport::Tcp, 1);
        world.registers("Contact: <sip:a@h>;+sip.instance=\"<urn:uuid:1>\"\r\n");
        let key = world.last().came[0].clone();
        let other = ConnectionId::new(0, 2);
        assert!(world.registrar.suspend(other).is_empty());
        let lost = world.registrar.suspend(ConnectionId::new(0, 1));
        assert_eq!(lost, [(bob(), key.clone())]);
        assert!(world.reachable().is_empty());
        assert_eq!(world.registrar.bindings(&bob()).len(), 1);
        world.flow = flow(Transport::Tcp, 2);
        world.registers("Contact: <sip:a@h>;+sip.instance=\"<urn:uuid:1>\"\r\n");
        assert_eq!(world.last().came, [key]);
        assert_eq!(world.reachable(), ["sip:a@h"]);
        assert!(world.registrar.suspend(ConnectionId::new(0, 1)).is_empty());
    }

    #[test]
    fn several_flows_to_one_device_count_once_and_the_newest_is_taken() {
        let mut world = World::open();
        let contact = "<sip:a@h>;+sip.instance=\"<urn:uuid:1>\"";
        world.registers(&format!("Contact: {contact};reg-id=1\r\n"));
        world.flow = flow(Transport::Tcp, 1);
        world.registers(&format!("Contact: {contact};reg-id=2\r\n"));
        assert_eq!(world.registrar.bindings(&bob()).len(), 2);
        let reachable = world.registrar.reachable(&bob(), world.now.instant);
        assert_eq!(reachable.len(), 1);
        assert_eq!(reachable[0].flow().transport, Transport::Tcp);
        world.registrar.suspend(ConnectionId::new(0, 1));
        assert_eq!(world.reachable().len(), 1);
    }

    #[test]
    fn bindings_expire_one_by_one() {
        let mut world = World::open();
        world.registers("Contact: <sip:a@h>;expires=60, <sip:b@h>;expires=120\r\n");
        let first = START.instant + Duration::from_secs(60);
        assert_eq!(world.registrar.next_deadline(), Some(first));
        assert!(world.registrar.handle_timeout(START.instant).is_empty());
        world.after(60);
        assert_eq!(world.reachable(), ["sip:b@h"]);
        let expired = world.registrar.handle_timeout(world.now.instant);
        assert_eq!(expired[0].gone, [BindingKey::new("sip:a@h")]);
        assert!(matches!(
            expired[0].store[..],
            [StoreRequest::RemoveBinding { .. }]
        ));
        world.after(60);
        assert_eq!(world.registrar.handle_timeout(world.now.instant).len(), 1);
        assert_eq!(world.registrar.registered_users(), 0);
    }

    #[test]
    fn who_registers_again_in_time_does_not_expire_and_ends_when_he_no_longer_does() {
        let mut world = World::open();
        let contact = "Contact: <sip:a@h>;expires=100\r\n";
        world.registers(contact);
        for _ in 0..3 {
            world.after(60).registers(contact);
            let now = world.now.instant + Duration::from_secs(40);
            let expired = world.registrar.handle_timeout(now);
            assert!(expired.is_empty() && world.registrar.next_deadline() > Some(now));
        }
        world.after(100);
        let due = world.registrar.next_deadline();
        assert_eq!(due, Some(world.now.instant), "when the last one is over");
        let expired = world.registrar.handle_timeout(world.now.instant);
        assert_eq!(expired[0].gone, [BindingKey::new("sip:a@h")]);
        assert_eq!(world.registrar.next_deadline(), None);
    }

    #[test]
    fn a_shorter_lifetime_ends_at_its_own_time() {
        let mut world = World::open();
        world.registers("Contact: <sip:a@h>;expires=600\r\n");
        world.registers("Contact: <sip:a@h>;expires=100\r\n");
        let due = START.instant + Duration::from_secs(100);
        assert_eq!(world.registrar.next_deadline(), Some(due));
        assert_eq!(world.registrar.handle_timeout(due).len(), 1);
    }

    #[test]
    fn a_plain_refresh_is_written_at_most_once_per_half_lifetime() {
        let mut world = World::open();
        world.registers("Contact: <sip:a@h>;expires=600\r\n");
        assert_eq!(world.writes(), (1, 0));
        world
            .after(200)
            .registers("Contact: <sip:a@h>;expires=600\r\n");
        assert_eq!(world.writes(), (0, 0));
        world
            .after(100)
            .registers("Contact: <sip:a@h>;expires=600\r\n");
        assert_eq!(world.writes(), (1, 0));
        world
            .after(1)
            .registers("Contact: <sip:a@h>;expires=600;+g.oma.sip-im\r\n");
        assert_eq!(world.writes(), (1, 0));
        world.flow.remote = "192.0.2.1:7".parse().unwrap();
        world.registers("Contact: <sip:a@h>;expires=600;+g.oma.sip-im\r\n");
        assert_eq!(world.writes(), (1, 0));
    }

    #[test]
    fn a_restart_brings_back_what_was_stored() {
        let mut world = World::open();
        world.registers(&format!("Contact: {RCS}\r\n"));
        let (key, value) = world.stored();
        let mut restarted = World::open();
        restarted.cseq = world.cseq;
        let restore = |world: &mut World| {
            let now = world.now;
            world.registrar.restore(&bob(), &key, &value, now)
        };
        assert!(matches!(restore(&mut restarted), Ok(None)));
        assert_eq!(restarted.reachable(), world.reachable());
        assert!(restarted.registrar.next_deadline().is_some());
        restarted.registers(&format!("Contact: {RCS}\r\n"));
        assert_eq!(restarted.last().refreshed.len(), 1);
        assert_eq!(restarted.writes().0, 1, "its record may be old");
        restarted.registers(&format!("Contact: {RCS}\r\n"));
        assert_eq!(restarted.writes(), (0, 0));
        let mut late = World::open();
        late.after(6_000);
        assert!(matches!(
            restore(&mut late),
            Ok(Some(StoreRequest::RemoveBinding { .. }))
        ));
        assert_eq!(late.registrar.registered_users(), 0);
        let now = late.now;
        assert!(late.registrar.restore(&bob(), &key, b"junk", now).is_err());
    }

    #[test]
    fn a_device_that_is_gone_is_forgotten() {
        let mut world = World::open();
        world.registers("Contact: <sip:a@h>\r\n");
        let key = world.last().came[0].clone();
        let change = world.registrar.forget(&bob(), &key).unwrap();
        assert_eq!(change.gone, std::slice::from_ref(&key));
        assert_eq!(change.store.len(), 1);
        assert!(world.registrar.forget(&bob(), &key).is_none());
        assert_eq!(world.registrar.next_deadline(), None);
    }

    #[test]
    fn a_broken_contact_changes_nothing() {
        let mut world = World::open();
        for value in ["bob", "<tel:+15>", "<sip:a@h>;q=5", "", "<sip:a@h>, broken"] {
            let answer = world.registers(&format!("Contact: {value}\r\n"));
            assert_eq!(answer.status(), 400, "{value}");
        }
        assert_eq!(world.registrar.registered_users(), 0);
    }

    proptest! {
        #[test]
        fn the_tables_agree_with_the_bindings_whatever_happens(
            steps in proptest::collection::vec((0u8..6, 0u64..4, 0u64..90), 1..60),
        ) {
            let mut world = World::new("[registrar]\nmax_contacts = 3\n");
            for (step, serial, seconds) in steps {
                world.after(seconds);
                world.flow = flow(Transport::Tcp, serial);
                match step {
                    0 => drop(world.registers(&format!("Contact: <sip:a@h:{serial}>;expires=100\r\n"))),
                    1 => drop(world.registers("Contact: <sip:a@h:1>;expires=0\r\n")),
                    2 => drop(world.registers("Contact: *\r\nExpires: 0\r\n")),
                    3 => drop(world.registrar.suspend(ConnectionId::new(0, serial))),
                    4 => drop(world.registrar.handle_timeout(world.now.instant)),
                    _ => drop(world.registers("Contact: <sip:i@h>;+sip.instance=\"<u:1>\"\r\n")),
                }
                let bindings = world.registrar.bindings(&bob());
                prop_assert!(bindings.len() <= 3);
                let earliest = bindings.iter().map(|binding| binding.deadline()).min();
                let due = world.registrar.next_deadline();
                prop_assert_eq!(due.is_some(), earliest.is_some());
                prop_assert!(due <= earliest, "nothing ends unseen");
                prop_assert_eq!(world.registrar.registered_users(), usize::from(!bindings.is_empty()));
                let hanging = bindings.iter().filter(|binding| binding.flow().connection.is_some());
                let mut connections: Vec<_> = hanging.filter_map(|b| b.flow().connection).collect();
                connections.sort();
                connections.dedup();
                prop_assert_eq!(world.registrar.connections_in_use(), connections.len());
            }
        }

        #[test]
        fn no_contact_makes_the_registrar_panic(value in "(<sip:a@b>)?\\PC{0,40}") {
            let value: String = value.chars().filter(|c| !c.is_control()).collect();
            let answer = World::open().registers(&format!("Contact: {value}\r\n"));
            prop_assert!([200, 400, 403, 423].contains(&answer.status()));
        }
    }
}
