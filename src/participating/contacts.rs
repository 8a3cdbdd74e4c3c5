//! Which of a user's devices a request goes to.

use crate::identity::Identity;
use crate::participating::deferral::Condition;
use crate::participating::service::Service;
use crate::registrar::{Binding, BindingKey, Capability, Preferences, Profile};
use crate::sip::message::Message;
use crate::sip::rejection::Rejection;
use crate::sip::transport::flow::Flow;
use crate::uri::unescape;

/// The largest body that fits into a datagram beside its header fields.
pub const LARGEST_DATAGRAM: u64 = 60_000;

/// A device as a request is sent to it.
#[derive(Clone, Debug)]
pub struct Target {
    /// The Request-URI: its Contact.
    pub uri: String,
    /// How it is reached, whatever its Contact says (decision 13).
    pub flow: Flow,
    /// The proxies in between (RFC 3327).
    pub path: Vec<String>,
    /// In which dialect it is spoken to.
    pub profile: Profile,
    /// Its number in the marks of messages that it has got.
    pub device: u64,
    /// Whether it states a messaging service.
    pub states_service: bool,
    /// Whether it states a service for large standalone messages.
    pub states_large: bool,
    /// The service such a message is offered to it by.
    pub large_service: &'static str,
    /// Its binding, to be forgotten when the device is gone.
    pub binding: Option<BindingKey>,
}

impl Target {
    fn of((binding, capability): &(&Binding, Capability)) -> Self {
        Self {
            uri: binding.uri().to_owned(),
            flow: binding.flow(),
            path: binding.path().to_vec(),
            profile: capability.profile,
            device: binding.device(),
            states_service: capability.states_service(),
            states_large: capability.states_large(),
            large_service: capability.large_service(),
            binding: Some(binding.key().clone()),
        }
    }

    /// Something else than a binding: where a request inside a dialog goes.
    pub fn elsewhere(uri: String, flow: Flow) -> Self {
        Self {
            uri,
            flow,
            path: Vec::new(),
            profile: Profile::MessageOnly,
            device: 0,
            states_service: false,
            states_large: false,
            large_service: "",
            binding: None,
        }
    }
}

impl Service {
    /// Which row holds when there is no device for a request to go to.
    pub(super) fn absence(&self, user: &Identity) -> Condition {
        if !self.may_receive(user) || self.registrar.reachable(user, self.time).is_empty() {
            Condition::NoContact
        } else {
            Condition::NoCapableContact
        }
    }

    /// The contacts of a user that take SIP MESSAGE, best first.
    pub(super) fn message_targets(
        &self,
        user: &Identity,
        request: Option<&Message>,
    ) -> Vec<Target> {
        self.delivery_targets(user, request, |binding, capability| {
            capability.message && !binding.is_paused()
        })
    }

    /// The contacts of a user that a replay or a chat can be offered to, best first.
    pub(super) fn session_targets(&self, user: &Identity) -> Vec<Target> {
        self.delivery_targets(user, None, takes_chat)
    }

    /// The contacts a chat INVITE can go to: those that say so, or if there are none, those that may.
    pub(super) fn session_targets_for(&self, user: &Identity, invite: &Message) -> Vec<Target> {
        let sure = self.delivery_targets(user, Some(invite), takes_chat);
        if !sure.is_empty() || Preferences::of(invite).is_ok_and(|wish| wish.insist()) {
            return sure;
        }
        self.delivery_targets(user, Some(invite), may_take_chat)
    }

    /// The contacts that take a standalone message in an MSRP session of its own: those first that say
    /// so themselves.
    pub(super) fn large_targets(&self, user: &Identity, invite: Option<&Message>) -> Vec<Target> {
        let mut targets = self.delivery_targets(user, invite, takes_large);
        targets.sort_by_key(|target| !target.states_large);
        targets
    }

    /// The contacts any other request goes to by the caller's preferences (RFC 3841); 480 when stated
    /// preferences fit none.
    pub fn relay_targets(
        &self,
        user: &Identity,
        request: &Message,
    ) -> Result<Vec<Target>, Rejection> {
        self.targets(user, Some(request), |_, _| true)
    }

    /// Where messages for a user may go: nowhere while the operator lets nothing be delivered.
    fn delivery_targets(
        &self,
        user: &Identity,
        request: Option<&Message>,
        fits: impl Fn(&Binding, &Capability) -> bool,
    ) -> Vec<Target> {
        match self.may_receive(user) {
            true => self.targets(user, request, fits).unwrap_or_default(),
            false => Vec::new(),
        }
    }

    fn targets(
        &self,
        user: &Identity,
        request: Option<&Message>,
        fits: impl Fn(&Binding, &Capability) -> bool,
    ) -> Result<Vec<Target>, Rejection> {
        if let Some(device) = request.and_then(|request| self.device_named(user, request)) {
            let device = device.map(|binding| (binding, self.capability_of(user, binding)));
            let fitting = device.filter(|(binding, capability)| fits(binding, capability));
            return Ok(fitting.iter().map(Target::of).collect());
        }
        let reachable = self.registrar.reachable(user, self.time).into_iter();
        let reachable: Vec<(&Binding, Capability)> = reachable
            .map(|binding| (binding, self.capability_of(user, binding)))
            .filter(|(binding, capability)| fits(binding, capability))
            .collect();
        let (Some(request), 2..) = (request, reachable.len()) else {
            return Ok(reachable.iter().map(Target::of).collect());
        };
        let preferences = Preferences::of(request)?;
        let contacts = reachable
            .iter()
            .map(|(binding, _)| (binding.features(), binding.q()));
        let ordered = preferences.order(contacts)?;
        let chosen = ordered
            .iter()
            .filter_map(|target| reachable.get(target.index));
        Ok(chosen.map(Target::of).collect())
    }

    /// What a device takes, by its tags or by what the configuration says of it.
    fn capability_of(&self, user: &Identity, binding: &Binding) -> Capability {
        let forced = self.directory.forced_profile(user, binding.user_agent());
        binding.capability().spoken_to_as(forced)
    }

    /// The one device that a GRUU in the Request-URI means, if it can be reached; `None` if the
    /// request is for the user (RFC 5627 §6.1).
    fn device_named(&self, user: &Identity, request: &Message) -> Option<Option<&Binding>> {
        let uri = request.uri().ok()?;
        let gr = uri.parameter("gr")??;
        let gr = unescape(gr);
        Some(self.registrar.reachable_by_gruu(user, &gr, self.time))
    }

    /// The device answered that it is gone: its binding is too (cpm-facts §7.3).
    pub(super) fn forget_device(&mut self, user: &Identity, target: &Target) {
        let Some(key) = &target.binding else { return };
        if let Some(registered) = self.registrar.forget(user, key) {
            for request in registered.store {
                self.custody.tell(request);
            }
            if self.reach(user).is_none()
                && let Some(machine) = self.users.get_mut(user)
            {
                machine.handle_unreachable();
            }
        }
    }
}

fn takes_chat(binding: &Binding, capability: &Capability) -> bool {
    capability.takes_chat() && !binding.is_paused()
}

fn may_take_chat(binding: &Binding, capability: &Capability) -> bool {
    capability.may_take_chat() && !binding.is_paused()
}

fn takes_large(binding: &Binding, capability: &Capability) -> bool {
    capability.takes_large() && !binding.is_paused()
}
