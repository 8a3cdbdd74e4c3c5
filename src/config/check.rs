//! Rules between keys, and ranges. Each failure is a key and what is wrong with it.

use super::accounts::{accounts, sending};
use super::address::{HostPort, Listener, Protocol, is_host};
use super::schema::{Authentication, Config, MsrpOffer};
use super::values::{Period, Size};

/// The broken rule: the key, and what is wrong with it.
pub(super) type Checked = Result<(), (String, String)>;

/// The first rule that `config` breaks.
pub(super) fn check(config: &Config) -> Checked {
    domain(config)?;
    open_mode(config)?;
    listeners("sip", &config.sip.listen, &config.sip.advertise)?;
    listeners("msrp", &config.msrp.listen, &config.msrp.advertise)?;
    msrp_over_tcp(config)?;
    sip_without_tls(config)?;
    certificates(config)?;
    sip(config)?;
    msrp(config)?;
    registrar(config)?;
    deferral(config)?;
    store(config)?;
    limits(config)?;
    at_least_one(
        "deferral.replays_per_device",
        config.deferral.replays_per_device.into(),
    )?;
    at_least_one(
        "deferral.replays_per_user",
        config.deferral.replays_per_user.into(),
    )?;
    at_least_one("deferral.replays_at_once", config.deferral.replays_at_once)?;
    at_least_one(
        "deferral.replays_per_second",
        config.deferral.replays_per_second,
    )?;
    admin(config)?;
    clients(config)?;
    sending(&config.users, "users")?;
    at_least_one("traffic.senders", config.traffic.senders)?;
    peers(config)?;
    log(config)?;
    accounts(config)
}

/// A filter that cannot be read would leave the operator without a log.
fn log(config: &Config) -> Checked {
    let filter = &config.log.filter;
    let read = tracing_subscriber::EnvFilter::try_new(filter);
    read.map(|_| ()).map_err(|error| {
        let text =
            format!("\"{filter}\" is not allowed: {error}; allowed: a filter as in RUST_LOG");
        ("log.filter".to_owned(), text)
    })
}

fn peers(config: &Config) -> Checked {
    for (index, peer) in config.peer.iter().enumerate() {
        let one = peer.network.is_some() != peer.domain.is_some();
        rule(one, &format!("peer[{index}].network"), || {
            "a peer is either a network or a domain".to_owned()
        })?;
        if let Some(domain) = &peer.domain {
            rule(is_host(domain), &format!("peer[{index}].domain"), || {
                format!("\"{domain}\" is not allowed; allowed: a host name or an address")
            })?;
        }
    }
    Ok(())
}

fn clients(config: &Config) -> Checked {
    for (index, client) in config.client.iter().enumerate() {
        let length = client.user_agent.len();
        rule(
            (1..=255).contains(&length),
            &format!("client[{index}].user_agent"),
            || "not allowed; allowed: 1 to 255 octets".to_owned(),
        )?;
    }
    Ok(())
}

pub(super) fn rule(holds: bool, key: &str, problem: impl FnOnce() -> String) -> Checked {
    if holds {
        return Ok(());
    }
    Err((key.to_owned(), problem()))
}

pub(super) fn between(key: &str, value: Period, least: Period, most: Period) -> Checked {
    rule(least <= value && value <= most, key, || {
        format!("\"{value}\" is not allowed; allowed: \"{least}\" to \"{most}\"")
    })
}

fn size_between(key: &str, value: Size, least: Size, most: Size) -> Checked {
    rule(least <= value && value <= most, key, || {
        format!("\"{value}\" is not allowed; allowed: \"{least}\" to \"{most}\"")
    })
}

fn at_least_one(key: &str, value: u32) -> Checked {
    rule(value > 0, key, || {
        "0 is not allowed; allowed: 1 or more".to_owned()
    })
}

fn domain(config: &Config) -> Checked {
    rule(is_host(&config.domain), "domain", || {
        format!(
            "\"{}\" is not allowed; allowed: a host name or an address",
            config.domain
        )
    })?;
    rule(config.shards <= 1_024, "shards", || {
        format!("{} is not allowed; allowed: 0 to 1024", config.shards)
    })?;
    let realm = &config.registrar.realm;
    let printable = realm
        .chars()
        .all(|c| !c.is_control() && c != '"' && c != '\\');
    rule(printable, "registrar.realm", || {
        "not allowed; allowed: text without quotes, backslashes and control characters".to_owned()
    })?;
    let day = Period::seconds(86_400);
    between(
        "shutdown_timeout",
        config.shutdown_timeout,
        Period::millis(0),
        day,
    )
}

fn listeners(section: &str, listen: &[Listener], advertise: &[HostPort]) -> Checked {
    let key = format!("{section}.listen");
    rule(!listen.is_empty(), &key, || {
        "the list is empty; allowed: one listener or more".to_owned()
    })?;
    for (index, listener) in listen.iter().enumerate() {
        let twice = listener.address.port() != 0 && listen[..index].contains(listener);
        rule(!twice, &key, || format!("\"{listener}\" is listed twice"))?;
    }
    let count = advertise.len();
    let fits = count <= 1 || count == listen.len();
    rule(fits, &format!("{section}.advertise"), || {
        format!(
            "{count} hosts for {} listeners; allowed: none, one for all, or one for each",
            listen.len()
        )
    })?;
    let wildcard = listen.iter().find(|l| l.address.ip().is_unspecified());
    match wildcard {
        Some(listener) if advertise.is_empty() => Err((
            key,
            format!(
                "\"{listener}\" listens on every address; say in {section}.advertise by which \
                 host peers reach it"
            ),
        )),
        _ => Ok(()),
    }
}

fn msrp_over_tcp(config: &Config) -> Checked {
    let udp = config
        .msrp
        .listen
        .iter()
        .find(|l| l.protocol == Protocol::Udp);
    match udp {
        Some(listener) => Err((
            "msrp.listen".to_owned(),
            format!(
                "\"{listener}\" is not allowed; allowed: \"tcp://ADDRESS:PORT\", \"tls://ADDRESS:PORT\""
            ),
        )),
        None => Ok(()),
    }
}

fn sip_without_tls(config: &Config) -> Checked {
    let mut listeners = config.sip.listen.iter();
    let tls = listeners.find(|listener| listener.protocol == Protocol::Tls);
    tls.map_or(Ok(()), |listener| {
        let allowed = "allowed: \"udp://ADDRESS:PORT\", \"tcp://ADDRESS:PORT\"";
        let problem = format!("\"{listener}\" is not allowed; {allowed}");
        Err(("sip.listen".to_owned(), problem))
    })
}

fn certificates(config: &Config) -> Checked {
    let msrp = &config.msrp;
    let given = |path: &std::path::Path| !path.as_os_str().is_empty();
    let both = given(&msrp.certificate) == given(&msrp.private_key);
    rule(both, "msrp.private_key", || {
        "a certificate and its private_key belong together".to_owned()
    })?;
    let secure = (0..msrp.listen.len()).any(|index| msrp.is_secure(index));
    rule(secure || msrp.offer == MsrpOffer::Tcp, "msrp.offer", || {
        "\"tls\" needs a \"tls://ADDRESS:PORT\" in msrp.listen".to_owned()
    })
}

fn open_mode(config: &Config) -> Checked {
    let closed = config.registrar.authentication == Authentication::Digest;
    if closed || config.registrar.allow_open {
        return Ok(());
    }
    let reachable = config
        .sip
        .listen
        .iter()
        .find(|l| !l.address.ip().is_loopback());
    match reachable {
        Some(listener) => Err((
            "sip.listen".to_owned(),
            format!(
                "\"{listener}\" is reachable by other hosts while registrar.authentication is \
                 \"none\"; allowed: loopback addresses, or authentication = \"digest\", or \
                 allow_open = true in [registrar]"
            ),
        )),
        None => Ok(()),
    }
}

fn sip(config: &Config) -> Checked {
    let sip = &config.sip;
    let minute = Period::seconds(60);
    between("sip.t1", sip.t1, Period::millis(1), minute)?;
    between("sip.t2", sip.t2, sip.t1, minute)?;
    between("sip.t4", sip.t4, Period::millis(1), minute)?;
    let (floor, day) = (Period::seconds(90), Period::seconds(86_400));
    between("sip.min_se", sip.min_se, floor, day)?;
    between("sip.session_expires", sip.session_expires, sip.min_se, day)?;
    let (least, most) = (Size::octets(1_300), Size::mib(64));
    size_between("sip.max_message_size", sip.max_message_size, least, most)?;
    at_least_one("sip.max_transactions", sip.max_transactions)
}

fn msrp(config: &Config) -> Checked {
    let msrp = &config.msrp;
    let day = Period::seconds(86_400);
    let second = Period::seconds(1);
    let (least, most) = (Size::octets(256), Size::mib(1));
    size_between("msrp.chunk_size", msrp.chunk_size, least, most)?;
    let (least, most) = (Size::octets(1_300), Size::mib(1 << 20));
    size_between("msrp.max_message_size", msrp.max_message_size, least, most)?;
    between("msrp.idle_timeout", msrp.idle_timeout, second, day)?;
    between("msrp.binding_timeout", msrp.binding_timeout, second, day)
}

fn registrar(config: &Config) -> Checked {
    let registrar = &config.registrar;
    let (second, year) = (Period::seconds(1), Period::seconds(365 * 86_400));
    rule(
        !registrar.algorithms.is_empty(),
        "registrar.algorithms",
        || "the list is empty; allowed: \"sha-256\", \"md5\" or both".to_owned(),
    )?;
    let (least, most) = (registrar.min_expires, registrar.max_expires);
    between("registrar.max_expires", most, second, year)?;
    // RFC 3261 §10.3: only what is shorter than an hour may be refused as too brief.
    between(
        "registrar.min_expires",
        least,
        second,
        most.min(Period::seconds(3_600)),
    )?;
    between(
        "registrar.default_expires",
        registrar.default_expires,
        least,
        most,
    )?;
    between(
        "registrar.nonce_lifetime",
        registrar.nonce_lifetime,
        second,
        year,
    )?;
    at_least_one("registrar.max_contacts", u32::from(registrar.max_contacts))?;
    at_least_one("registrar.max_users", registrar.max_users)
}

fn deferral(config: &Config) -> Checked {
    let deferral = &config.deferral;
    let (second, year) = (Period::seconds(1), Period::seconds(365 * 86_400));
    between("deferral.max_lifetime", deferral.max_lifetime, second, year)?;
    between(
        "deferral.lifetime",
        deferral.lifetime,
        second,
        deferral.max_lifetime,
    )?;
    rule(!deferral.retry.is_empty(), "deferral.retry", || {
        "the list is empty; allowed: one pause or more".to_owned()
    })?;
    for (index, pause) in deferral.retry.iter().enumerate() {
        between(
            &format!("deferral.retry[{index}]"),
            *pause,
            Period::millis(100),
            year,
        )?;
    }
    // The sender's transaction gives up after 64 × T1 (Timer F) and its MSRP request after 30 s
    // (RFC 4975 §7.1.1): both answers must be out before.
    let patience = Period::millis(100);
    between(
        "deferral.answer_within",
        deferral.answer_within,
        patience,
        Period::seconds(25),
    )?;
    between(
        "deferral.custody_after",
        deferral.custody_after,
        patience,
        Period::seconds(25),
    )?;
    between(
        "deferral.ring_timeout",
        deferral.ring_timeout,
        second,
        Period::seconds(600),
    )
}

fn store(config: &Config) -> Checked {
    let store = &config.store;
    let (least, most) = (Size::kib(64), Size::mib(4_096));
    size_between("store.segment_size", store.segment_size, least, most)?;
    size_between("store.reserve", store.reserve, Size::octets(0), most)?;
    let (least, most) = (Period::millis(100), Period::seconds(25));
    between("store.timeout", store.timeout, least, most)?;
    at_least_one("store.credits", store.credits)
}

fn limits(config: &Config) -> Checked {
    let limits = &config.limits;
    at_least_one("limits.connections", limits.connections)?;
    at_least_one(
        "limits.connections_per_address",
        limits.connections_per_address,
    )?;
    at_least_one("limits.inbox", limits.inbox)?;
    at_least_one("limits.sessions", limits.sessions)?;
    at_least_one("limits.chats_per_user", limits.chats_per_user)?;
    // Less than the process and its queues have to have cannot be held to.
    let (least, most) = (Size::mib(48), Size::mib(1 << 20));
    size_between("limits.memory", limits.memory, least, most)?;
    at_least_one("limits.sources", limits.sources)?;
    let (second, day) = (Period::seconds(1), Period::seconds(86_400));
    between("limits.ban", limits.ban, second, day)?;
    between("limits.lockout", limits.lockout, second, day)?;
    let (least, most) = (Size::kib(64), Size::mib(1 << 20));
    size_between(
        "limits.connection_backlog",
        limits.connection_backlog,
        least,
        most,
    )
}

fn admin(config: &Config) -> Checked {
    let admin = &config.admin;
    let udp = admin.listen.iter().find(|l| l.protocol == Protocol::Udp);
    rule(udp.is_none(), "admin.listen", || {
        "UDP is not allowed; allowed: \"tcp://ADDRESS:PORT\"".to_owned()
    })?;
    let token = admin.token.expose();
    let is_token = token.len() >= 16 && token.bytes().all(|byte| byte.is_ascii_graphic());
    rule(token.is_empty() || is_token, "admin.token", || {
        "not allowed; allowed: 16 printable ASCII characters or more, without spaces".to_owned()
    })?;
    let both = !token.is_empty() && !admin.token_file.as_os_str().is_empty();
    rule(!both, "admin.token_file", || {
        "not allowed together with token".to_owned()
    })?;
    at_least_one("admin.max_connections", admin.max_connections)?;
    let (least, most) = (Size::kib(1), Size::mib(64));
    size_between("admin.max_body_size", admin.max_body_size, least, most)?;
    let (least, most) = (Period::millis(100), Period::seconds(600));
    between("admin.header_timeout", admin.header_timeout, least, most)?;
    between("admin.request_timeout", admin.request_timeout, least, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(text: &str) -> (String, String) {
        let config: Config = toml::from_str(text).unwrap();
        check(&config).unwrap_err()
    }

    fn holds(text: &str) {
        let config: Config = toml::from_str(text).unwrap();
        assert_eq!(check(&config), Ok(()));
    }

    #[test]
    fn the_defaults_break_no_rule() {
        holds("");
    }

    #[test]
    fn a_filter_of_the_log_can_be_read() {
        holds("[log]\nfilter = \"warn,restante::participating=debug\"\n");
        let (key, text) = broken("[log]\nfilter = \"foo=bar=baz\"\n");
        assert_eq!(key, "log.filter");
        assert!(text.contains("RUST_LOG"), "{text}");
    }

    #[test]
    fn a_peer_is_a_network_or_a_domain() {
        holds("[[peer]]\nnetwork = \"10.0.0.0/8\"\naction = \"deny\"\n");
        holds("[[peer]]\ndomain = \"other.test\"\nrate = 5\n");
        for text in ["", "network = \"::1\"\ndomain = \"a.test\"\n"] {
            let (key, _) = broken(&format!("[[peer]]\n{text}"));
            assert_eq!(key, "peer[0].network");
        }
        let (key, _) = broken("[[peer]]\ndomain = \"a b\"\n");
        assert_eq!(key, "peer[0].domain");
    }

    #[test]
    fn what_a_user_may_send_has_bounds_that_can_be_held() {
        let (key, _) = broken("[users]\nmax_text_length = 4000\n");
        assert_eq!(key, "users.max_text_length");
        let (key, _) = broken("[users]\nbarred_types = [\"image/*\", \"image\"]\n");
        assert_eq!(key, "users.barred_types[1]");
        let account = "[[account]]\nuser = \"a\"\n[account.settings]\nperiod = \"0s\"\n";
        assert_eq!(broken(account).0, "account[0].settings.period");
    }

    #[test]
    fn open_mode_stays_on_loopback_unless_allowed() {
        let listen = "[sip]\nlisten = [\"udp://192.0.2.1:5060\"]\n";
        assert_eq!(broken(listen).0, "sip.listen");
        holds(&format!("{listen}[registrar]\nallow_open = true\n"));
        holds(&format!(
            "{listen}[registrar]\nauthentication = \"digest\"\n"
        ));
        holds("[sip]\nlisten = [\"udp://[::1]:5060\"]\n");
    }

    #[test]
    fn a_wildcard_listener_needs_an_advertised_host() {
        let open = "[registrar]\nallow_open = true\n[sip]\nlisten = [\"udp://0.0.0.0:5060\"]\n";
        assert!(broken(open).1.contains("sip.advertise"));
        holds(&format!("{open}advertise = [\"sip.example.com\"]\n"));
    }

    #[test]
    fn listeners_are_neither_missing_nor_doubled_nor_of_the_wrong_kind() {
        assert_eq!(broken("[sip]\nlisten = []").0, "sip.listen");
        assert_eq!(broken("[msrp]\nlisten = []").0, "msrp.listen");
        assert_eq!(
            broken("[msrp]\nlisten = [\"udp://127.0.0.1:1\"]").0,
            "msrp.listen"
        );
        let twice = "[sip]\nlisten = [\"udp://127.0.0.1:1\", \"udp://127.0.0.1:1\"]";
        assert!(broken(twice).1.contains("twice"));
        holds("[sip]\nlisten = [\"udp://127.0.0.1:0\", \"udp://127.0.0.1:0\"]");
    }

    #[test]
    fn advertised_hosts_match_the_listeners_in_number() {
        let three = "[sip]\nadvertise = [\"a\", \"b\", \"c\"]";
        assert_eq!(broken(three).0, "sip.advertise");
        holds("[sip]\nadvertise = [\"a\", \"b\"]");
    }

    #[test]
    fn the_admin_listener_has_a_token_that_is_hard_to_guess() {
        assert_eq!(broken("[admin]\ntoken = \"short\"").0, "admin.token");
        let token = "token = \"0123456789abcdef\"\n";
        holds(&format!("[admin]\n{token}"));
        let both = format!("[admin]\n{token}token_file = \"x\"");
        assert_eq!(broken(&both).0, "admin.token_file");
        holds("[admin]\nlisten = []");
        let udp = "[admin]\nlisten = [\"udp://127.0.0.1:1\"]";
        assert_eq!(broken(udp).0, "admin.listen");
    }

    #[test]
    fn expiry_bounds_are_in_order() {
        assert_eq!(
            broken("[registrar]\ndefault_expires = \"30s\"").0,
            "registrar.default_expires"
        );
        assert_eq!(
            broken("[deferral]\nlifetime = \"31d\"").0,
            "deferral.lifetime"
        );
        assert_eq!(
            broken("[deferral]\nretry = [\"1h\", \"0s\"]").0,
            "deferral.retry[1]"
        );
        assert_eq!(
            broken("[deferral]\ncustody_after = \"30s\"").0,
            "deferral.custody_after"
        );
    }
}
