//! Which identities exist, and by which names a user proves to be one.

use std::fmt::Write;

use crate::config::{
    Account, Authentication, ClientProfile, ClientRule, Config, DigestAlgorithm, EffectiveSettings,
    SettingsOverrides, is_reserved,
};
use crate::identity::Identity;
use crate::registrar::account::StoredAccount;
use crate::sip::digest::{Algorithms, Hashes};
use crate::uri::{Scheme, Uri, tel_digits, unescape};

/// The longest user part that can be an identity.
const MOST_USER_OCTETS: usize = 255;

/// Whose address a URI is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolved {
    /// A user of this domain.
    Local(Identity),
    /// An address of this domain that nobody has; also a URI of the domain without a user part,
    /// which means the server itself.
    Unknown,
    /// An address of another domain, or of no domain.
    Foreign,
}

/// A map whose copies share what they have in common, so that a million users need not be copied for
/// one that is new.
type Shared<K, V> =
    imbl::GenericHashMap<K, V, foldhash::fast::RandomState, imbl::shared_ptr::DefaultSharedPtr>;

/// The accounts of the domain; in open mode every user of the domain exists besides. Never changed: who
/// wants another account takes a copy with it, which is cheap.
#[derive(Clone, Debug)]
pub struct Directory {
    domain: String,
    open: bool,
    users: Shared<Identity, Option<String>>,
    numbers: Shared<String, Identity>,
    credentials: Shared<String, (Identity, Hashes)>,
    /// Of users whose account says something else than `[users]`.
    settings: Shared<Identity, EffectiveSettings>,
    /// Of everybody else.
    default_settings: EffectiveSettings,
    /// What the server offers: what the configuration allows and every account of it can answer.
    offered: Algorithms,
    /// How devices of one make are spoken to.
    clients: Vec<ClientRule>,
}

impl Directory {
    /// Built once from a checked configuration.
    pub fn new(config: &Config) -> Self {
        let mut directory = Self {
            domain: config.domain.to_ascii_lowercase(),
            open: config.registrar.authentication == Authentication::None,
            users: Shared::default(),
            numbers: Shared::default(),
            credentials: Shared::default(),
            settings: Shared::default(),
            default_settings: SettingsOverrides::default().over(&config.users),
            clients: config.client.clone(),
            offered: Algorithms {
                md5: config.registrar.algorithms.contains(&DigestAlgorithm::Md5),
                sha256: config
                    .registrar
                    .algorithms
                    .contains(&DigestAlgorithm::Sha256),
            },
        };
        for account in &config.account {
            directory.add(account, config.realm());
        }
        for (_, hashes) in directory.credentials.values() {
            directory.offered.md5 &= hashes.md5.is_some();
            directory.offered.sha256 &= hashes.sha256.is_some();
        }
        directory
    }

    /// A copy in which this account, made while the server runs, stands in the place of an earlier one
    /// of the same user.
    #[must_use]
    pub fn with(&self, account: &StoredAccount) -> Self {
        let identity = Identity::new(&account.user, &self.domain);
        let mut changed = self.without(&identity);
        if let Some(tel) = &account.tel {
            changed.numbers.insert(tel_digits(tel), identity.clone());
        }
        changed.users.insert(identity.clone(), account.tel.clone());
        if account.settings != SettingsOverrides::default() {
            let settings = account.settings.over(&self.default_settings.settings);
            changed.settings.insert(identity.clone(), settings);
        }
        for (name, hashes) in account.credentials() {
            changed
                .credentials
                .insert(name.to_owned(), (identity.clone(), hashes));
        }
        changed
    }

    /// A copy without this user's account.
    #[must_use]
    pub fn without(&self, identity: &Identity) -> Self {
        let mut changed = self.clone();
        if let Some(Some(tel)) = changed.users.remove(identity) {
            changed.numbers.remove(&tel_digits(&tel));
        }
        changed.settings.remove(identity);
        for name in [identity.user(), identity.as_str()] {
            changed.credentials.remove(name);
        }
        changed
    }

    /// Whether a user exists.
    pub fn knows(&self, identity: &Identity) -> bool {
        self.open || self.users.contains_key(identity)
    }

    /// Whether a user has an account.
    pub fn has_account(&self, identity: &Identity) -> bool {
        self.users.contains_key(identity)
    }

    /// Whose telephone number this is.
    pub fn owner_of_number(&self, tel: &str) -> Option<&Identity> {
        self.numbers.get(&tel_digits(tel))
    }

    /// How many accounts there are.
    pub fn accounts(&self) -> usize {
        self.users.len()
    }

    fn add(&mut self, account: &Account, realm: &str) {
        let identity = Identity::new(&account.user, &self.domain);
        if let Some(tel) = &account.tel {
            self.numbers.insert(tel_digits(tel), identity.clone());
        }
        self.users.insert(identity.clone(), account.tel.clone());
        if account.settings != SettingsOverrides::default() {
            let settings = account.settings.over(&self.default_settings.settings);
            self.settings.insert(identity.clone(), settings);
        }
        if let Some(password) = &account.password {
            // IMS clients prove to be user@domain, others to be user.
            for name in [account.user.clone(), identity.as_str().to_owned()] {
                let hashes = Hashes::of_password(&name, realm, password.expose());
                self.credentials.insert(name, (identity.clone(), hashes));
            }
        } else if let Some(ha1) = &account.ha1 {
            let hashes = Hashes {
                md5: ha1.md5().map(Into::into),
                sha256: ha1.sha256().map(Into::into),
            };
            self.credentials
                .insert(account.user.clone(), (identity, hashes));
        }
    }

    /// The domain in lower case.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Whether users exist without an account and From is believed.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Whose address `uri` is. Parameters do not count (RFC 3261 §10.3 step 5), nor does the port.
    pub fn resolve(&self, uri: &Uri<'_>) -> Resolved {
        match uri.scheme() {
            Scheme::Sip | Scheme::Sips => {
                let host = uri.host();
                let host = host.strip_suffix('.').unwrap_or(host);
                if !host.eq_ignore_ascii_case(&self.domain) {
                    return Resolved::Foreign;
                }
                let user = uri.user().map(unescape).unwrap_or_default();
                self.resolve_user(&user)
            }
            Scheme::Tel => self.resolve_number(uri.user().unwrap_or_default()),
            Scheme::Other => Resolved::Foreign,
        }
    }

    fn resolve_user(&self, user: &str) -> Resolved {
        if user.is_empty() || user.len() > MOST_USER_OCTETS || has_illegal(user) {
            return Resolved::Unknown;
        }
        let identity = Identity::new(user, &self.domain);
        if self.users.contains_key(&identity) {
            return Resolved::Local(identity);
        }
        if is_global_number(user) {
            // sip:+1-555@domain is the telephone number as well (RFC 3261 §19.1.6).
            return self.resolve_number(user);
        }
        match self.open && !is_reserved(user) {
            true => Resolved::Local(identity),
            false => Resolved::Unknown,
        }
    }

    fn resolve_number(&self, number: &str) -> Resolved {
        if !is_global_number(number) {
            return Resolved::Foreign;
        }
        let digits = tel_digits(number);
        match self.numbers.get(&digits) {
            Some(identity) => Resolved::Local(identity.clone()),
            None if self.open => Resolved::Local(Identity::new(&digits, &self.domain)),
            None => Resolved::Unknown,
        }
    }

    /// The user that proves itself by `username`, and its hashes.
    pub fn credentials(&self, username: &str) -> Option<(Identity, &Hashes)> {
        let (identity, hashes) = self.credentials.get(username)?;
        Some((identity.clone(), hashes))
    }

    /// The configured digest algorithms that every account can answer. Accounts made while the server
    /// runs can answer all.
    pub fn algorithms(&self) -> Algorithms {
        self.offered
    }

    /// What a user wants.
    pub fn settings(&self, identity: &Identity) -> &EffectiveSettings {
        let own = self.settings.get(identity);
        own.unwrap_or(&self.default_settings)
    }

    /// In which dialect a device is spoken to by configuration: the account's, else that of the first
    /// rule for its User-Agent; `None` leaves it to the tags.
    pub fn forced_profile(
        &self,
        user: &Identity,
        user_agent: Option<&str>,
    ) -> Option<ClientProfile> {
        let by_account = self.settings(user).profile;
        by_account.or_else(|| {
            if self.clients.is_empty() {
                return None;
            }
            let agent = user_agent?.to_ascii_lowercase();
            let names = |rule: &&ClientRule| agent.contains(&rule.user_agent.to_ascii_lowercase());
            Some(self.clients.iter().find(names)?.profile)
        })
    }

    /// The URIs of a user as P-Associated-URI lists them (RFC 7315 §4.1): the SIP one first, then the
    /// telephone number.
    pub fn associated_uris(&self, identity: &Identity) -> String {
        let mut out = String::with_capacity(identity.as_str().len() + 40);
        out.push('<');
        push_sip_uri(&mut out, identity);
        out.push('>');
        if let Some(Some(tel)) = self.users.get(identity) {
            out.extend([", <tel:", &tel_digits(tel), ">"]);
        }
        out
    }
}

/// `sip:user@host`, the user part escaped where RFC 3261 §25.1 wants it.
pub(super) fn sip_uri(identity: &Identity) -> String {
    let mut out = String::with_capacity(identity.as_str().len() + 8);
    push_sip_uri(&mut out, identity);
    out
}

fn push_sip_uri(out: &mut String, identity: &Identity) {
    let text = identity.as_str();
    let (user, host) = text.rsplit_once('@').unwrap_or(("", text));
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.!~*'()&=+$,;?/".contains(&byte);
    out.push_str("sip:");
    let plain = user.bytes().take_while(|byte| is_plain(*byte)).count();
    out.push_str(&user[..plain]);
    for byte in user.bytes().skip(plain) {
        match is_plain(byte) {
            true => out.push(char::from(byte)),
            false => write!(out, "%{byte:02X}").expect("a String takes all"),
        }
    }
    out.push('@');
    let (open, close) = if host.contains(':') {
        ("[", "]")
    } else {
        ("", "")
    };
    out.extend([open, host, close]);
}

/// Whether a user part holds what cannot stand in an identity.
fn has_illegal(user: &str) -> bool {
    if user.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return false;
    }
    user.contains(|c: char| c.is_control() || c.is_whitespace() || "<>\"@".contains(c))
}

fn is_global_number(number: &str) -> bool {
    number.strip_prefix('+').is_some_and(|rest| {
        let digits = rest.bytes().filter(u8::is_ascii_digit).count();
        (1..=32).contains(&digits)
            && rest
                .bytes()
                .all(|byte| byte.is_ascii_digit() || b"-.()".contains(&byte))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ACCOUNTS: &str = "[registrar]\nauthentication = \"digest\"\n\
        [[account]]\nuser = \"alice\"\npassword = \"a\"\ntel = \"+1-555-0100\"\n\
        [[account]]\nuser = \"j ö\"\npassword = \"b\"\n";

    fn directory(text: &str) -> Directory {
        Directory::new(&toml::from_str(text).unwrap())
    }

    fn resolve(directory: &Directory, uri: &str) -> Resolved {
        directory.resolve(&Uri::parse(uri).unwrap())
    }

    fn local(user: &str) -> Resolved {
        Resolved::Local(Identity::new(user, "im.test"))
    }

    #[test]
    fn an_account_is_found_by_user_and_by_number() {
        let directory = directory(ACCOUNTS);
        for uri in [
            "sip:alice@im.test",
            "sips:%61lice@IM.test.:5061;transport=tcp",
            "tel:+15550100",
            "tel:+1.555.0100;isub=1",
            "sip:+1-555-0100@im.test;user=phone",
        ] {
            assert_eq!(resolve(&directory, uri), local("alice"), "{uri}");
        }
    }

    #[test]
    fn who_has_no_account_is_unknown_and_other_domains_are_foreign() {
        let directory = directory(ACCOUNTS);
        for uri in [
            "sip:bob@im.test",
            "sip:im.test",
            "tel:+15550199",
            "sip:Alice@im.test",
        ] {
            assert_eq!(resolve(&directory, uri), Resolved::Unknown, "{uri}");
        }
        for uri in [
            "sip:alice@elsewhere.test",
            "tel:5550100",
            "mailto:alice@im.test",
        ] {
            assert_eq!(resolve(&directory, uri), Resolved::Foreign, "{uri}");
        }
    }

    #[test]
    fn in_open_mode_every_user_of_the_domain_exists() {
        let directory = directory("");
        assert_eq!(resolve(&directory, "sip:anyone@im.test"), local("anyone"));
        assert_eq!(resolve(&directory, "tel:+1-555"), local("+1555"));
        assert_eq!(resolve(&directory, "sip:+1-555@im.test"), local("+1555"));
        assert_eq!(resolve(&directory, "sip:x@else.test"), Resolved::Foreign);
        assert_eq!(
            resolve(&directory, "sip:a%0d%0ab@im.test"),
            Resolved::Unknown
        );
        assert_eq!(resolve(&directory, "sip:a%40b@im.test"), Resolved::Unknown);
    }

    #[test]
    fn a_user_proves_itself_by_short_or_full_name() {
        let directory = directory(ACCOUNTS);
        let (short, _) = directory.credentials("alice").unwrap();
        let (full, _) = directory.credentials("alice@im.test").unwrap();
        assert_eq!(short, full);
        assert!(directory.credentials("bob").is_none());
    }

    #[test]
    fn an_algorithm_one_account_lacks_or_the_configuration_leaves_out_is_not_offered() {
        let hash = "0".repeat(64);
        let text = format!("{ACCOUNTS}[[account]]\nuser = \"c\"\nha1 = \"{hash}\"\n");
        let algorithms = directory(&text).algorithms();
        assert!(algorithms.sha256 && !algorithms.md5);
        let algorithms = directory(ACCOUNTS).algorithms();
        assert!(algorithms.sha256 && algorithms.md5);
        let text = ACCOUNTS.replacen('\n', "\nalgorithms = [\"md5\"]\n", 1);
        let algorithms = directory(&text).algorithms();
        assert!(algorithms.md5 && !algorithms.sha256);
    }

    #[test]
    fn an_account_is_added_changed_and_removed_in_copies() {
        let before = directory(ACCOUNTS);
        let mut carol = StoredAccount::new("carol", "im.test", Some("secret"), "im.test");
        carol.tel = Some("+1-555-0123".to_owned());
        carol.settings.delivery = Some(crate::config::Delivery::Pull);
        let after = before.with(&carol);
        assert_eq!(resolve(&before, "sip:carol@im.test"), Resolved::Unknown);
        assert_eq!(resolve(&after, "sip:carol@im.test"), local("carol"));
        assert_eq!(resolve(&after, "tel:+15550123"), local("carol"));
        let identity = Identity::new("carol", "im.test");
        let pull = crate::config::Delivery::Pull;
        assert_eq!(after.settings(&identity).settings.delivery, pull);
        for name in ["carol", "carol@im.test"] {
            let (user, hashes) = after.credentials(name).unwrap();
            assert_eq!(user, identity);
            assert_eq!(*hashes, Hashes::of_password(name, "im.test", "secret"));
        }
        carol.tel = None;
        let changed = after.with(&carol);
        assert_eq!(resolve(&changed, "tel:+15550123"), Resolved::Unknown);
        let gone = after.without(&identity);
        assert_eq!(resolve(&gone, "sip:carol@im.test"), Resolved::Unknown);
        assert_eq!(resolve(&gone, "tel:+15550123"), Resolved::Unknown);
        assert!(gone.credentials("carol").is_none());
        assert_eq!(gone.accounts(), before.accounts());
        assert_eq!(gone.algorithms(), before.algorithms());
    }

    #[test]
    fn the_uris_of_a_user_are_well_formed() {
        let directory = directory(ACCOUNTS);
        let alice = Identity::new("alice", "im.test");
        assert_eq!(
            directory.associated_uris(&alice),
            "<sip:alice@im.test>, <tel:+15550100>"
        );
        assert_eq!(
            sip_uri(&Identity::new("j ö", "im.test")),
            "sip:j%20%C3%B6@im.test"
        );
        assert_eq!(sip_uri(&Identity::new("a", "::1")), "sip:a@[::1]");
    }

    proptest! {
        #[test]
        fn an_identity_written_as_a_uri_resolves_to_itself(user in "[^@\\s\\x00-\\x1f\\x7f-\\x9f<>\"+]{1,40}") {
            let directory = directory("");
            let identity = Identity::new(&user, "im.test");
            let uri = sip_uri(&identity);
            prop_assert_eq!(resolve(&directory, &uri), Resolved::Local(identity));
        }
    }
}
