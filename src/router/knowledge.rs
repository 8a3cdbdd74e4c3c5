//! What every shard knows alike, and what follows from it alone: whom a request is for, and which
//! shard it belongs to.

use std::net::IpAddr;
use std::sync::Arc;

use super::dialog_end::{DialogEnd, RouteKey};
use crate::clock::UnixMillis;
use crate::identity::{Identity, shard_of};
use crate::limits::meters::Meters;
use crate::limits::sources::Sources;
use crate::participating::callee;
use crate::participating::outgoing::FUNCTION;
use crate::participating::pull::DEFERRED;
use crate::registrar::{Directory, Resolved};
use crate::sip::digest::Digest;
use crate::sip::header::NameAddr;
use crate::sip::message::{HeaderName, Message, Method};
use crate::sip::transaction::branch;
use crate::uri::{Scheme, Uri};

/// What every shard knows alike.
#[derive(Clone)]
pub struct Knowledge {
    /// Who the users are.
    pub directory: Arc<Directory>,
    /// Checks credentials; `None` in open mode.
    pub digest: Option<Arc<Digest>>,
    /// `host:port` of our SIP listeners, bound and advertised.
    pub own: Arc<[(String, u16)]>,
    /// What our Record-Route values are written with.
    pub route_key: RouteKey,
    /// Who may send how much.
    pub meters: Arc<Meters>,
    /// Shards in this process.
    pub shards: u16,
    /// How busy and how harmful each source is.
    pub sources: Arc<Sources>,
}

/// Whom a request is for.
pub(super) enum Destination {
    /// This server.
    Server,
    /// A user of the domain.
    User(Identity),
    /// The domain has no such user.
    Unknown,
    /// Somebody elsewhere.
    Foreign,
}

/// A request on its way through us, inside a dialog.
#[derive(Debug)]
pub(super) struct Passing {
    /// The end it goes to.
    pub end: DialogEnd,
    /// Whether we let the dialog begin.
    pub trusted: bool,
    /// How many of its first routes are ours.
    pub popped: usize,
}

impl Knowledge {
    /// Whether credentials answer a challenge that was given to whoever sends from `address`.
    pub fn is_answer(&self, credentials: &str, address: IpAddr, now: UnixMillis) -> bool {
        let digest = self.digest.as_ref();
        digest.is_some_and(|digest| digest.is_answer(credentials, address, now))
    }

    /// The shard that owns a message: a response belongs to who made its branch, a request inside one
    /// of our dialogs to who holds it, every other one to its user.
    pub fn owner_of(&self, message: &Message) -> u16 {
        if self.shards == 1 {
            return 0;
        }
        let named = if message.is_request() {
            self.owner_of_request(message)
        } else {
            let via = message.top_via().ok();
            via.and_then(|via| branch::shard_of(via.branch?))
        };
        named
            .filter(|shard| *shard < self.shards)
            .unwrap_or_default()
    }

    fn owner_of_request(&self, request: &Message) -> Option<u16> {
        if let Some(passing) = self.passing(request) {
            return Some(passing.end.shard);
        }
        let uri = request.uri().ok()?;
        if self.is_us(&uri)
            && let Some(shard) = uri.user().and_then(callee::shard_of_contact)
        {
            return Some(shard);
        }
        let identity = if request.method() == Method::Register || self.is_about_sender(&uri) {
            let about = match request.method() {
                Method::Register => request.to_uri(),
                _ => request.from_uri(),
            };
            self.identity_of(&about?)?
        } else {
            self.identity_of(&uri)?
        };
        Some(shard_of(&identity, self.shards))
    }

    /// Whether what a request to this address is about belongs to its sender: what waits for him, or a
    /// message he got from somebody who hides.
    fn is_about_sender(&self, uri: &Uri<'_>) -> bool {
        self.is_deferred(uri) || uri.host().eq_ignore_ascii_case("anonymous.invalid")
    }

    /// Whether a URI is the address at which users fetch what waits for them.
    pub(super) fn is_deferred(&self, uri: &Uri<'_>) -> bool {
        let domain = self.directory.domain();
        let named = uri
            .user()
            .is_some_and(|user| user.eq_ignore_ascii_case(DEFERRED));
        let is_sip = matches!(uri.scheme(), Scheme::Sip | Scheme::Sips);
        named && is_sip && (self.is_us(uri) || uri.host().eq_ignore_ascii_case(domain))
    }

    /// The user a URI names, by the domain or by our own address.
    pub(super) fn identity_of(&self, uri: &Uri<'_>) -> Option<Identity> {
        match self.destination(uri) {
            Destination::User(identity) => Some(identity),
            _ => None,
        }
    }

    pub(super) fn destination(&self, uri: &Uri<'_>) -> Destination {
        let domain = self.directory.domain();
        if self.is_us(uri) {
            return match uri.user() {
                None => Destination::Server,
                Some(user) => {
                    let written = format!("sip:{user}@{domain}");
                    Uri::parse(&written).map_or(Destination::Unknown, |uri| self.resolve(&uri))
                }
            };
        }
        if uri.user().is_none() && uri.host().eq_ignore_ascii_case(domain) {
            return Destination::Server;
        }
        self.resolve(uri)
    }

    fn resolve(&self, uri: &Uri<'_>) -> Destination {
        match self.directory.resolve(uri) {
            Resolved::Local(identity) => Destination::User(identity),
            Resolved::Unknown => Destination::Unknown,
            Resolved::Foreign => Destination::Foreign,
        }
    }

    /// Whether a URI names the participating function: the server, or what our own receipts come from.
    pub(super) fn is_function(&self, uri: &Uri<'_>) -> bool {
        let is_home = uri.host().eq_ignore_ascii_case(self.directory.domain());
        matches!(self.destination(uri), Destination::Server)
            || (is_home && uri.user() == Some(FUNCTION))
    }

    pub(super) fn is_us(&self, uri: &Uri<'_>) -> bool {
        let port = uri.port().unwrap_or(5060);
        let other = uri.host();
        // Only a literal can be written in two ways.
        let may_be_literal = other.starts_with(|c: char| c.is_ascii_digit()) || other.contains(':');
        let same_address = |host: &str| {
            let other = other.parse::<IpAddr>();
            other.is_ok_and(|other| host.parse() == Ok(other))
        };
        let same =
            |host: &str| host.eq_ignore_ascii_case(other) || (may_be_literal && same_address(host));
        self.own
            .iter()
            .any(|(host, own_port)| *own_port == port && same(host))
    }

    /// Where a request goes by the routes of ours that it carries first; `None` if it carries none.
    pub(super) fn passing(&self, request: &Message) -> Option<Passing> {
        let call_id = request.call_id().ok()?;
        let end_of = |uri: &str| {
            let uri = Uri::parse(uri).ok().filter(|uri| self.is_us(uri))?;
            DialogEnd::read(uri.user()?, &self.route_key, call_id)
        };
        let routes = request.values(HeaderName::Route);
        let routes = routes.map_while(|value| end_of(NameAddr::parse(value).ok()?.uri));
        let mut passing = None;
        for (popped, (end, trusted)) in (1..=2).zip(routes) {
            passing = Some(Passing {
                end,
                trusted,
                popped,
            });
        }
        passing
    }

    /// Whether a strict router put a value of our Record-Route into the Request-URI (RFC 3261 §16.4).
    pub(super) fn is_strictly_routed(&self, request: &Message) -> bool {
        let uri = request.uri().ok();
        uri.is_some_and(|uri| {
            let user = uri.user().unwrap_or_default();
            self.is_us(&uri) && DialogEnd::read(user, &self.route_key, "").is_some()
        })
    }
}
