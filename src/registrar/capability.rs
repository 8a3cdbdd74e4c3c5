//! Feature tags to what a device accepts (cpm-facts §2).

use crate::config::{ClientProfile, Tagless};
use crate::registrar::feature::FeatureSet;

const ICSI_REF: &str = "+g.3gpp.icsi-ref";
const SERVICE: &str = "urn:urn-7:3gpp-service.ims.icsi.oma.cpm.";

/// In which dialect a device is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// States the CPM session service.
    Rcs,
    /// States only `+g.oma.sip-im`.
    RcsE,
    /// States nothing, but is taken to speak MSRP by configuration.
    Cpm,
    /// Takes SIP MESSAGE only, if that.
    MessageOnly,
}

/// Which of the two methods a device does not rule out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Methods {
    message: bool,
    invite: bool,
}

/// What a device accepts. A service counts only where it is stated: equal, never by prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// In which dialect it is spoken to.
    pub profile: Profile,
    /// `oma.cpm.session`
    pub cpm_session: bool,
    /// `oma.cpm.msg`
    pub cpm_msg: bool,
    /// `oma.cpm.largemsg`
    pub largemsg: bool,
    /// `oma.cpm.deferred`
    pub deferred: bool,
    /// `oma.cpm.filetransfer`
    pub filetransfer: bool,
    /// `+g.oma.sip-im`
    pub sip_im: bool,
    /// Whether a SIP MESSAGE can be sent to it.
    pub message: bool,
    /// Whether an MSRP session with `m=message` can be offered to it.
    pub msrp: bool,
    /// Whether a chat is worth trying though it states no session: it states messages, and takes INVITE.
    maybe_chat: bool,
    /// Whether its stated methods leave room for MESSAGE and for INVITE.
    methods: Methods,
}

impl Capability {
    /// What a device that states `features` accepts. A contact without a tag of the global tree
    /// (`+g.…`) is one that does not speak of messaging at all: SIPp, linphonec, baresip.
    pub fn of(features: &FeatureSet, tagless: Tagless) -> Self {
        let service = |name: &str| features.states(ICSI_REF, &format!("{SERVICE}{name}"));
        let (cpm_session, cpm_msg) = (service("session"), service("msg"));
        let (largemsg, deferred) = (service("largemsg"), service("deferred"));
        let sip_im = features.states("+g.oma.sip-im", "true");
        let silent = !features.states_any("+g.");
        let profile = match tagless {
            _ if cpm_session => Profile::Rcs,
            _ if sip_im => Profile::RcsE,
            Tagless::Msrp if silent => Profile::Cpm,
            Tagless::Message | Tagless::Msrp => Profile::MessageOnly,
        };
        let stated = cpm_session || cpm_msg || largemsg || deferred || sip_im;
        let allows =
            |method: &str| features.find("methods").is_none() || features.states("methods", method);
        let methods = Methods {
            message: allows("message"),
            invite: allows("invite"),
        };
        Self {
            profile,
            cpm_session,
            cpm_msg,
            largemsg,
            deferred,
            filetransfer: service("filetransfer"),
            sip_im,
            message: (silent || stated) && methods.message,
            msrp: (profile != Profile::MessageOnly || largemsg) && methods.invite,
            maybe_chat: profile == Profile::MessageOnly && cpm_msg && methods.invite,
            methods,
        }
    }

    /// Whether it states a messaging service at all.
    pub fn states_service(&self) -> bool {
        self.cpm_session || self.cpm_msg || self.largemsg || self.deferred || self.sip_im
    }

    /// The same device where configuration says how it is spoken to: the profile in effect is decided
    /// here and nowhere else.
    pub fn spoken_to_as(self, forced: Option<ClientProfile>) -> Self {
        let profile = match forced {
            None => return self,
            Some(ClientProfile::Rcs) => Profile::Rcs,
            Some(ClientProfile::RcsE) => Profile::RcsE,
            Some(ClientProfile::Cpm) => Profile::Cpm,
            Some(ClientProfile::Message) => Profile::MessageOnly,
        };
        Self {
            profile,
            message: self.methods.message,
            msrp: profile != Profile::MessageOnly && self.methods.invite,
            maybe_chat: false,
            ..self
        }
    }

    /// Whether it says itself that it takes large standalone messages.
    pub fn states_large(&self) -> bool {
        self.msrp && (self.largemsg || self.deferred)
    }

    /// The service by which a kept standalone message is offered to it in a session: `deferred`, unless
    /// it states only `largemsg`, or is one of RCS-e, which knows sessions alone (cpm-facts §2, §7.1).
    pub fn large_service(&self) -> &'static str {
        match self.profile {
            _ if self.deferred => "oma.cpm.deferred",
            _ if self.largemsg => "oma.cpm.largemsg",
            Profile::RcsE => "oma.cpm.session",
            _ => "oma.cpm.deferred",
        }
    }

    /// Whether a standalone message can be offered to it in an MSRP session of its own.
    pub fn takes_large(&self) -> bool {
        self.msrp
    }

    /// Whether a chat session can be offered to it.
    pub fn takes_chat(&self) -> bool {
        self.msrp && self.profile != Profile::MessageOnly
    }

    /// Whether the INVITE of a caller may be tried although nothing says that it takes chats. An
    /// Accept-Contact without `require` ranks contacts and drops none (RFC 3841 §7.2.4). A replay is not.
    pub fn may_take_chat(&self) -> bool {
        self.maybe_chat
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::header::Parameters;

    fn capability(parameters: &str, tagless: Tagless) -> Capability {
        Capability::of(&FeatureSet::of(&Parameters::new(parameters)), tagless)
    }

    const PREFIX: &str = "urn%3Aurn-7%3A3gpp-service.ims.icsi.oma.cpm";

    #[test]
    fn an_rcs_handset_states_its_services_in_one_list() {
        let text = format!(
            ";+sip.instance=\"<urn:uuid:1>\";+g.3gpp.icsi-ref=\"{PREFIX}.msg,{PREFIX}.largemsg, \
             {PREFIX}.deferred,{PREFIX}.session\";+g.oma.sip-im"
        );
        let all = capability(&text, Tagless::Message);
        assert_eq!(all.profile, Profile::Rcs);
        assert!(all.cpm_session && all.cpm_msg && all.largemsg && all.deferred && all.sip_im);
        assert!(all.message && all.takes_chat() && !all.filetransfer);
    }

    #[test]
    fn with_only_the_im_tag_it_is_rcs_e() {
        let contact = capability(";+g.oma.sip-im;video", Tagless::Message);
        assert_eq!(contact.profile, Profile::RcsE);
        assert!(contact.takes_chat() && contact.message);
    }

    #[test]
    fn a_contact_without_tags_takes_message_only_unless_configured() {
        let text = ";+sip.instance=\"<urn:uuid:1>\";+org.linphone.specs=\"groupchat\"";
        let plain = capability(text, Tagless::Message);
        assert_eq!(plain.profile, Profile::MessageOnly);
        assert!(plain.message && !plain.takes_chat());
        let configured = capability(text, Tagless::Msrp);
        assert_eq!(configured.profile, Profile::Cpm);
        assert!(configured.takes_chat());
    }

    #[test]
    fn a_contact_that_states_other_services_takes_no_messages() {
        let text = ";+g.3gpp.icsi-ref=\"urn%3Aurn-7%3A3gpp-service.ims.icsi.mmtel\"";
        let phone = capability(text, Tagless::Msrp);
        assert_eq!(phone.profile, Profile::MessageOnly);
        assert!(!phone.message && !phone.msrp);
    }

    #[test]
    fn a_group_service_is_not_the_one_to_one_service() {
        let text = format!(";+g.3gpp.icsi-ref=\"{PREFIX}.session.group\"");
        assert!(!capability(&text, Tagless::Msrp).takes_chat());
    }

    #[test]
    fn configuration_wins_over_the_tags() {
        let silent = capability("", Tagless::Message);
        let forced = silent.spoken_to_as(Some(ClientProfile::RcsE));
        assert_eq!(forced.profile, Profile::RcsE);
        assert!(forced.takes_chat() && forced.message);
        let tagged = capability(";+g.oma.sip-im", Tagless::Message);
        let forced = tagged.spoken_to_as(Some(ClientProfile::Message));
        assert_eq!(forced.profile, Profile::MessageOnly);
        assert!(!forced.takes_chat() && forced.message);
        assert_eq!(tagged.spoken_to_as(None), tagged);
        let no_invite = capability(";methods=\"MESSAGE\"", Tagless::Message);
        assert!(
            !no_invite
                .spoken_to_as(Some(ClientProfile::Rcs))
                .takes_chat()
        );
    }

    #[test]
    fn stated_methods_are_believed() {
        let contact = capability(";methods=\"INVITE,ACK,BYE\"", Tagless::Msrp);
        assert!(!contact.message && contact.takes_chat());
        let contact = capability(";methods=\"MESSAGE\"", Tagless::Msrp);
        assert!(contact.message && !contact.takes_chat());
    }
}
