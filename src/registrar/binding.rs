//! A user's device: how it is reached, until when, and what it takes.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Instant, Now, UnixMillis};
use crate::config::Tagless;
use crate::registrar::bindings::Granted;
use crate::registrar::capability::Capability;
use crate::registrar::common::Common;
use crate::registrar::contact::{Contact, Identification};
use crate::registrar::feature::FeatureSet;
use crate::sip::header::Parameters;
use crate::sip::transport::flow::{Flow, Transport};
use crate::uri::Uri;

/// The Contact parameter by which a device suspends its login session.
const SUSPENDED: &str = "im-suspended";
/// Octets of a User-Agent that are kept.
const MOST_AGENT: usize = 255;
/// Octets of Contact parameters up to which the features in them are shared.
const MOST_SHARED: usize = 1_024;

/// Names one binding of a user, also in the store: the device's instance, else its URI.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BindingKey(Box<str>);

impl BindingKey {
    pub(super) fn new(key: impl Into<Box<str>>) -> Self {
        Self(key.into())
    }

    pub(super) fn of(identification: &Identification<'_>) -> Self {
        let Identification {
            uri,
            instance,
            reg_id,
        } = identification;
        Self::new(match (instance, reg_id) {
            (Some(instance), Some(id)) => format!("{};{id}", instance.to_ascii_lowercase()),
            (Some(instance), None) => instance.to_ascii_lowercase(),
            (None, _) => (*uri).to_owned(),
        })
    }

    /// As the store keeps it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BindingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The part of a binding that is stored; everything else follows from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub uri: String,
    pub parameters: String,
    pub q: u16,
    pub instance: Option<String>,
    pub reg_id: Option<u32>,
    pub call_id: String,
    pub cseq: u32,
    /// Verbatim, topmost first.
    pub path: Vec<String>,
    pub flow: Flow,
    pub registered_at: UnixMillis,
    pub lifetime: Duration,
    /// The User-Agent of the REGISTER, cut to a sane length.
    pub user_agent: Option<Arc<str>>,
    /// It has stated a messaging service since it was made.
    pub had_service: bool,
}

impl Facts {
    /// Whether key, number, features and capability follow from the same words.
    fn says_the_same_as(&self, other: &Self) -> bool {
        self.uri == other.uri
            && self.parameters == other.parameters
            && self.instance == other.instance
            && self.reg_id == other.reg_id
    }
}

/// What the REGISTER says besides its contacts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Circumstances<'a> {
    pub call_id: &'a str,
    pub cseq: u32,
    pub path: &'a [String],
    pub flow: Flow,
    pub user_agent: Option<&'a str>,
    pub tagless: Tagless,
    pub now: Now,
}

/// The number of the device with this instance, else with this Contact URI.
pub fn device_number(instance: Option<&str>, uri: &str) -> u64 {
    use sha2::{Digest, Sha256};
    let name = instance.map_or_else(|| uri.to_owned(), str::to_ascii_lowercase);
    let digest = Sha256::digest(name.as_bytes());
    let first = digest.iter().take(8);
    first.fold(0, |all, octet| (all << 8) | u64::from(*octet))
}

/// A registered route to a device (RFC 3261 §10).
#[derive(Clone, Debug, PartialEq)]
pub struct Binding {
    pub(super) key: BindingKey,
    /// See [`device_number`].
    pub(super) device: u64,
    pub(super) facts: Facts,
    pub(super) features: Arc<FeatureSet>,
    /// The features are not its own alone.
    shares_features: bool,
    /// Nor is the User-Agent.
    shares_agent: bool,
    pub(super) capability: Capability,
    pub(super) deadline: Instant,
    pub(super) suspended: bool,
    /// When the store last got it, to write plain refreshes rarely; not known of one that was restored.
    pub(super) stored_at: Option<Instant>,
}

impl Binding {
    /// Memory in use, about: what every binding has, and its texts, the parameters a second time as
    /// features of its own.
    pub(super) fn footprint(&self) -> usize {
        let facts = &self.facts;
        let path: usize = facts.path.iter().map(|route| route.len() + 32).sum();
        let instance = facts.instance.as_ref().map_or(0, String::len);
        let agent = match &facts.user_agent {
            Some(agent) if !self.shares_agent => agent.len(),
            _ => 0,
        };
        let parameters = facts.parameters.len();
        let features = match self.shares_features {
            true => 0,
            false => 3 * parameters,
        };
        let texts = facts.uri.len() + facts.call_id.len() + instance + agent + parameters;
        size_of::<Self>() + self.key.0.len() + texts + path + features + 128
    }

    /// Shares with other bindings what they have in common.
    pub(super) fn share(&mut self, common: &mut Common) {
        if !self.shares_agent
            && let Some(agent) = &mut self.facts.user_agent
        {
            self.shares_agent = common.share_agent(agent);
        }
        if !self.shares_features && self.facts.parameters.len() <= MOST_SHARED {
            self.shares_features = common.share_features(&mut self.features);
        }
    }

    /// A binding of this contact. What follows from its text is taken over from one that is alike.
    pub(super) fn new(
        contact: Contact<'_>,
        lifetime: Duration,
        around: &Circumstances<'_>,
        alike: Option<&Self>,
    ) -> Self {
        let flow = way_to(&contact.uri, around.path, around.flow);
        let facts = Facts {
            uri: contact.uri.as_str().to_owned(),
            parameters: contact.parameters,
            q: contact.q,
            instance: contact.instance.map(str::to_owned),
            reg_id: contact.reg_id,
            call_id: around.call_id.to_owned(),
            cseq: around.cseq,
            path: around.path.to_vec(),
            flow,
            registered_at: around.now.wall,
            lifetime,
            user_agent: around.user_agent.map(|agent| shortened(agent).into()),
            had_service: false,
        };
        let deadline = around.now.instant + lifetime;
        match alike.filter(|binding| binding.facts.says_the_same_as(&facts)) {
            None => Self::from_facts(facts, deadline, around.now, around.tagless),
            Some(binding) => Self {
                key: binding.key.clone(),
                device: binding.device,
                features: Arc::clone(&binding.features),
                shares_features: binding.shares_features,
                shares_agent: false,
                capability: binding.capability,
                facts: Facts {
                    had_service: binding.capability.states_service(),
                    ..facts
                },
                deadline,
                suspended: false,
                stored_at: Some(around.now.instant),
            },
        }
    }

    pub(super) fn from_facts(
        mut facts: Facts,
        deadline: Instant,
        now: Now,
        tagless: Tagless,
    ) -> Self {
        let features = Arc::new(FeatureSet::of(&Parameters::new(&facts.parameters)));
        let capability = Capability::of(&features, tagless);
        facts.had_service |= capability.states_service();
        Self {
            key: BindingKey::of(&facts.identification()),
            device: device_number(facts.instance.as_deref(), &facts.uri),
            capability,
            features,
            shares_features: false,
            shares_agent: false,
            facts,
            deadline,
            suspended: false,
            stored_at: Some(now.instant),
        }
    }

    /// Its name.
    pub fn key(&self) -> &BindingKey {
        &self.key
    }

    /// The contact URI: what a request to the device has as its Request-URI.
    pub fn uri(&self) -> &str {
        &self.facts.uri
    }

    /// The Contact parameters exactly as registered, from the first `;`, without `expires`.
    pub fn parameters(&self) -> &str {
        &self.facts.parameters
    }

    /// The callee's preference in thousandths.
    pub fn q(&self) -> u16 {
        self.facts.q
    }

    /// `+sip.instance`, with its angle brackets.
    pub fn instance(&self) -> Option<&str> {
        self.facts.instance.as_deref()
    }

    /// A number that means this device also after a restart: of its instance, else of its Contact URI.
    pub fn device(&self) -> u64 {
        self.device
    }

    /// What a request to the device gets as its Route, topmost first (RFC 3327 §5.4).
    pub fn path(&self) -> &[String] {
        &self.facts.path
    }

    /// The way it registered over, which requests take whatever its Contact says.
    pub fn flow(&self) -> Flow {
        self.facts.flow
    }

    /// Whether what was sent to this binding went to another place than to the other one.
    pub(super) fn is_elsewhere_than(&self, other: &Self) -> bool {
        self.uri() != other.uri() || self.flow() != other.flow()
    }

    /// Its feature tags.
    pub fn features(&self) -> &FeatureSet {
        &self.features
    }

    /// What it accepts.
    pub fn capability(&self) -> &Capability {
        &self.capability
    }

    /// What the device called itself when it registered.
    pub fn user_agent(&self) -> Option<&str> {
        self.facts.user_agent.as_deref()
    }

    /// Whether its user has suspended the login session: it says so by `im-suspended`, or has registered
    /// again without the services it had. It stays bound and gets no messages until it resumes.
    pub fn is_paused(&self) -> bool {
        let says_so = Parameters::new(&self.facts.parameters)
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case(SUSPENDED));
        says_so || (self.facts.had_service && !self.capability.states_service())
    }

    /// Whether its TCP connection is lost: it cannot be reached until it registers again.
    pub fn is_suspended(&self) -> bool {
        self.suspended
    }

    /// When it is over.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Seconds left, rounded up.
    pub fn seconds_left(&self, now: Instant) -> u64 {
        self.deadline.since(now).as_millis().div_ceil(1000) as u64
    }

    /// Whether a lost connection makes it unreachable: one with a Path is reached over the proxy
    /// that wrote the Path.
    pub(super) fn hangs_on_connection(&self) -> bool {
        self.facts.flow.transport == Transport::Tcp && self.facts.path.is_empty()
    }

    /// Whether a contact, with all that the REGISTER says besides, is what this binding was made of, and the store
    /// need not hear of it: then only its time has to be moved.
    pub(super) fn is_said_again(&self, granted: &Granted<'_>, around: &Circumstances<'_>) -> bool {
        let (facts, contact) = (&self.facts, &granted.contact);
        // The preference, the instance and all features stand in the parameters.
        !self.suspended
            && (contact.uri.as_str(), contact.parameters.as_str())
                == (facts.uri.as_str(), facts.parameters.as_str())
            && facts.call_id == around.call_id
            && facts.cseq < around.cseq
            && facts.path == around.path
            && facts.user_agent.as_deref() == around.user_agent.map(shortened)
            && facts.flow == way_to(&contact.uri, around.path, around.flow)
            && facts.lifetime == granted.lifetime
            && self.is_stored_lately(around.now.instant)
    }

    /// It was registered once more, and [`Self::is_said_again`].
    pub(super) fn renew(&mut self, around: &Circumstances<'_>) {
        self.facts.cseq = around.cseq;
        self.facts.registered_at = around.now.wall;
        self.deadline = around.now.instant + self.facts.lifetime;
    }

    fn is_stored_lately(&self, now: Instant) -> bool {
        let is_recent = |at| now.since(at) < self.facts.lifetime / 2;
        self.stored_at.is_some_and(is_recent)
    }

    /// Whether `new`, which replaces this one, needs no writing: the same but for its time, and
    /// written less than half a lifetime ago.
    pub(super) fn is_plainly_refreshed_by(&self, new: &Self, now: Instant) -> bool {
        let is_stored_lately = self.is_stored_lately(now);
        let (old, new) = (&self.facts, &new.facts);
        let same_way = match new.flow.transport {
            Transport::Udp => old.flow == new.flow,
            // The connection is not stored anyway.
            Transport::Tcp => old.flow.transport == Transport::Tcp,
        };
        same_way
            && (&old.uri, &old.parameters, &old.path) == (&new.uri, &new.parameters, &new.path)
            && old.lifetime == new.lifetime
            && old.user_agent == new.user_agent
            && is_stored_lately
    }
}

impl Facts {
    pub(super) fn identification(&self) -> Identification<'_> {
        Identification {
            uri: &self.uri,
            instance: self.instance.as_deref(),
            reg_id: self.reg_id,
        }
    }
}

fn shortened(text: &str) -> &str {
    let end = text.floor_char_boundary(MOST_AGENT);
    text.get(..end).unwrap_or_default()
}

/// How a device is reached: by the flow it registered over, whatever its Contact says (decision 13),
/// because that is the way through every middlebox. One case is plain: over UDP, with a Contact that
/// names another port of the very host that registered, somebody registers for another program there,
/// as test tools do, and no middlebox stands between.
fn way_to(uri: &Uri<'_>, path: &[String], flow: Flow) -> Flow {
    if flow.transport != Transport::Udp || !path.is_empty() {
        return flow;
    }
    let by_tcp = uri.parameter("transport").flatten();
    let elsewhere = by_tcp.is_some_and(|value| !value.eq_ignore_ascii_case("udp"));
    let port = uri.port().unwrap_or(5060);
    let is_there = !elsewhere && port != 0 && uri.host().parse() == Ok(flow.remote.ip());
    match is_there {
        true => Flow {
            remote: SocketAddr::new(flow.remote.ip(), port),
            ..flow
        },
        false => flow,
    }
}
