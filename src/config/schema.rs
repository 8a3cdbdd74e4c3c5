//! Every key: its name, type, default and, as its doc comment, the line `restante config` prints.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::address::{HostPort, Listener, Protocol};
use super::secret::{Ha1, Secret};
use super::traffic::PeerRule;
use super::user::{ClientRule, SettingsOverrides};
use super::values::{Period, Size};
use crate::limits::network::Network;

/// Declares a section: a struct whose defaults and comments the documentation is made from.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        $name:ident {
            $( $(#[doc = $comment:literal])+ $key:ident: $type:ty = $default:expr; )*
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $( $(#[doc = $comment])+ pub $key: $type, )*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $key: $default, )* }
            }
        }

        impl $name {
            /// Every key of this section in order, with its comment.
            pub(super) const KEYS: &[(&str, &str)] = &[
                $( (stringify!($key), concat!($($comment, "\n"),+)), )*
            ];
        }
    };
}

/// Declares an enum written as one of a few words; a wrong word is answered with the list of them.
macro_rules! words {
    (
        $(#[doc = $about:literal])+
        $name:ident { $( $(#[doc = $comment:literal])+ $variant:ident = $word:literal; )+ }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $( $(#[doc = $comment])+ $variant, )+
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(match self { $( Self::$variant => $word, )+ })
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                utoipa::openapi::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::Type::String)
                    .enum_values(Some([$( $word ),+]))
                    .into()
            }
        }

        impl utoipa::ToSchema for $name {}

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let word = String::deserialize(deserializer)?;
                match word.as_str() {
                    $( $word => Ok(Self::$variant), )+
                    _ => Err(de::Error::custom(format_args!(
                        "\"{word}\" is not allowed; allowed: {}",
                        [$( concat!("\"", $word, "\"") ),+].join(", ")
                    ))),
                }
            }
        }
    };
}

section! {
    /// The whole configuration.
    Config {
        /// The SIP domain this server is responsible for.
        domain: String = "im.test".to_owned();
        /// Folder for everything that must survive a restart; created with mode 0700, locked while in use.
        data_dir: PathBuf = PathBuf::from("./restante-data");
        /// Worker threads; 0 means one for each CPU available to the process.
        shards: u16 = 0;
        /// How long running work may take to end after SIGTERM or SIGINT.
        shutdown_timeout: Period = Period::seconds(8);
        /// SIP: listeners, timers and limits of the wire (RFC 3261).
        sip: Sip = Sip::default();
        /// MSRP: listeners and sessions (RFC 4975).
        msrp: Msrp = Msrp::default();
        /// Who may register, and for how long.
        registrar: Registrar = Registrar::default();
        /// Messages for people who are away.
        deferral: Deferral = Deferral::default();
        /// What users get whose account does not say otherwise.
        users: UserSettings = UserSettings::default();
        /// What the operator lets through the whole server.
        traffic: Traffic = Traffic::default();
        /// The log of everything in custody.
        store: Store = Store::default();
        /// Bounds on what the server takes on. Over a bound it answers 503, it never queues without end.
        limits: Limits = Limits::default();
        /// The operator's HTTP interface: /healthz, /readyz, /metrics, and /admin/v1 with a token.
        admin: Admin = Admin::default();
        /// What is told on stderr.
        log: Log = Log::default();
        /// Networks and domains: who may send requests, and how many; the first network and the first domain that fit hold.
        peer: Vec<PeerRule> = Vec::new();
        /// How devices of one make are spoken to; an account's own `profile` wins.
        client: Vec<ClientRule> = Vec::new();
        /// The users of the domain.
        account: Vec<Account> = Vec::new();
    }
}

section! {
    /// SIP: listeners, timers and limits of the wire (RFC 3261).
    Sip {
        /// Where to listen; port 0 means any free port, told in the `ready` line.
        listen: Vec<Listener> = vec![
            Listener::loopback(Protocol::Udp, 5060),
            Listener::loopback(Protocol::Tcp, 5060),
        ];
        /// HOST or HOST:PORT by which peers reach the listeners: one for all, or one for each in order; empty: the listening address.
        advertise: Vec<HostPort> = Vec::new();
        /// Timer T1, the estimated round trip (RFC 3261 §17.1.1.1).
        t1: Period = Period::millis(500);
        /// Timer T2, the longest retransmission interval of requests other than INVITE.
        t2: Period = Period::seconds(4);
        /// Timer T4, how long a message stays in the network.
        t4: Period = Period::seconds(5);
        /// Session interval asked for when the server invites; the peer may choose who refreshes (RFC 4028).
        session_expires: Period = Period::seconds(1_800);
        /// Shortest session interval taken; a shorter one is answered 422.
        min_se: Period = Period::seconds(90);
        /// Largest SIP message taken over TCP; a larger one is answered 513.
        max_message_size: Size = Size::kib(256);
        /// Transactions a shard keeps at once, answered ones that absorb retransmissions included, of which the oldest makes room for a new one.
        max_transactions: u32 = 100_000;
    }
}

section! {
    /// MSRP: listeners and sessions (RFC 4975).
    Msrp {
        /// Where to listen, tcp:// or tls:// (MSRP over TLS, msrps); port 0 means any free port.
        listen: Vec<Listener> = vec![Listener::loopback(Protocol::Tcp, 2855)];
        /// HOST or HOST:PORT by which peers reach the listeners, as for SIP.
        advertise: Vec<HostPort> = Vec::new();
        /// Certificate chain of the tls:// listeners, a PEM file; empty: one is made at each start, known by its fingerprint alone.
        certificate: PathBuf = PathBuf::new();
        /// Private key of the certificate, a PEM file.
        private_key: PathBuf = PathBuf::new();
        /// Certificates (PEM) that vouch for peers without an a=fingerprint; empty: such peers are not connected to.
        authorities: PathBuf = PathBuf::new();
        /// What the server offers to devices: "tcp", or "tls" if there is a tls:// listener. An offer of either is answered alike.
        offer: MsrpOffer = MsrpOffer::Tcp;
        /// Connection establishment for media anchoring (RFC 6714): for networks whose middleboxes change c= and m= lines but no paths.
        cema: bool = false;
        /// Octets in a chunk the server sends.
        chunk_size: Size = Size::kib(16);
        /// Largest message taken; a larger one is answered 413.
        max_message_size: Size = Size::mib(256);
        /// A session in which nothing happens for this long ends.
        idle_timeout: Period = Period::seconds(300);
        /// How long after the ACK a peer may take to connect and send its first request.
        binding_timeout: Period = Period::seconds(15);
    }
}

section! {
    /// Who may register, and for how long.
    Registrar {
        /// "digest": users are the accounts below and prove it (RFC 8760). "none": every user of the domain exists and From is believed.
        authentication: Authentication = Authentication::None;
        /// Realm of the digest challenges; empty: the domain.
        realm: String = String::new();
        /// Digest algorithms offered, SHA-256 first. SIPp 3.6 and baresip 1.0 stop at a SHA-256 challenge; they need ["md5"].
        algorithms: Vec<DigestAlgorithm> = vec![DigestAlgorithm::Sha256, DigestAlgorithm::Md5];
        /// Whom the From of a CPIM envelope may name, of users who have logged in: "own" is the user himself, or nobody (sip:anonymous@anonymous.invalid); else 403. "any": not looked at.
        envelope_from: EnvelopeFrom = EnvelopeFrom::Own;
        /// Allows authentication = "none" on addresses other hosts can reach.
        allow_open: bool = false;
        /// What a contact without feature tags takes: "message" (SIP MESSAGE only) or "msrp" (chat sessions too).
        tagless: Tagless = Tagless::Message;
        /// Shortest registration granted; a shorter wish is answered 423.
        min_expires: Period = Period::seconds(60);
        /// Longest registration granted; a longer wish is cut to it.
        max_expires: Period = Period::seconds(86_400);
        /// Registration granted to a contact that names no time.
        default_expires: Period = Period::seconds(3_600);
        /// Contacts one user may have at once.
        max_contacts: u16 = 10;
        /// Users that may be registered at once.
        max_users: u32 = 1_000_000;
        /// How long a digest nonce can be used.
        nonce_lifetime: Period = Period::seconds(600);
    }
}

section! {
    /// Messages for people who are away.
    Deferral {
        /// Whether messages are kept for users without a reachable device; if not, the sender gets 480.
        enabled: bool = true;
        /// How long a message is kept if its sender does not say.
        lifetime: Period = Period::seconds(7 * 86_400);
        /// How long a message is kept at most, whatever its sender says.
        max_lifetime: Period = Period::seconds(30 * 86_400);
        /// Messages that may wait for all users together; beyond it new ones are answered 503.
        max_messages: u32 = 10_000_000;
        /// Octets that may wait for all users together; beyond it new messages are answered 503.
        max_total_size: Size = Size::mib(1_048_576);
        /// Pauses between attempts to deliver; the last one repeats until the message expires. Something new of the same conversation brings the next attempt about.
        retry: Vec<Period> = vec![
            Period::seconds(30),
            Period::seconds(300),
            Period::seconds(1_800),
            Period::seconds(3_600),
        ];
        /// A MESSAGE that no device answered for this long is kept and answered 202.
        answer_within: Period = Period::seconds(4);
        /// How long a device may ring before a replay is cancelled.
        ring_timeout: Period = Period::seconds(70);
        /// How long after a message's own time its receipts are kept track of, and kept for an author who is away.
        receipt_window: Period = Period::seconds(7 * 86_400);
        /// Replays in sessions that one device gets at the same time.
        replays_per_device: u16 = 2;
        /// Replays in sessions that one user gets at the same time, on all devices.
        replays_per_user: u16 = 4;
        /// Users of one shard to whom waiting messages are replayed at the same time; who registers meanwhile stands in line.
        replays_at_once: u32 = 1_000;
        /// Users of one shard whose replay begins within a second, at most.
        replays_per_second: u32 = 1_000;
        /// A kept standalone message over this leaves in an MSRP session of its own (INVITE), up to it as a MESSAGE (RFC 3428 §8). Over TCP to a device that does not state large messages, MESSAGE carries any size.
        switchover_size: Size = Size::octets(1_300);
        /// A live chat peer that confirms nothing for this long is taken as gone; below the sender's own 30s.
        custody_after: Period = Period::seconds(10);
    }
}

section! {
    /// What users get whose account does not say otherwise.
    UserSettings {
        /// When kept messages are delivered: "push" as soon as a device can take them, "pull" when the user asks for them.
        delivery: Delivery = Delivery::Push;
        /// Whether users who fetch are told, when they register and when the first message comes, that messages wait.
        announce_waiting: bool = true;
        /// Which devices get a kept message: the "first" that takes it, or "every" capable one, each once.
        copy_to: CopyTo = CopyTo::First;
        /// Messages from people without a rule: "allow", "unavailable" (480), "unavailable-notify" (480, and the user is told), "block".
        incoming: IncomingRule = IncomingRule::Allow;
        /// The same for senders who hide who they are; "block" answers them 433.
        anonymous: IncomingRule = IncomingRule::Allow;
        /// What a blocked sender hears: "forbidden" (403), or "silent" (as if the message had been taken).
        blocked: Blocked = Blocked::Forbidden;
        /// Messages that may wait for one user.
        max_messages: u32 = 10_000;
        /// Octets that may wait for one user.
        max_size: Size = Size::mib(1_024);
        /// What happens at these bounds: "refuse-new", or "drop-oldest", whose authors are told.
        when_full: WhenFull = WhenFull::RefuseNew;
        /// Whether a user may send messages and begin chats; if not, he hears 403.
        may_send: bool = true;
        /// Whether a user gets messages; if not, what comes for him is kept until he may again.
        may_receive: bool = true;
        /// Whether a user may send PUBLISH and SUBSCRIBE; if not, he hears 403.
        may_use_presence: bool = true;
        /// Largest message a user may send, beside sip.max_message_size and msrp.max_message_size; a larger one is answered 413; 0: no limit of his own.
        max_message_size: Size = Size::octets(0);
        /// Characters of a text a user may send, up to 3500; a longer one is answered 413; 0: no limit.
        max_text_length: u32 = 0;
        /// Messages a user may send in each `period`; one more is answered 503, in a chat 413; 0: no limit.
        messages_per_period: u32 = 0;
        /// Octets of messages a user may send in each `period`; 0: no limit.
        octets_per_period: Size = Size::octets(0);
        /// Begins with the first message after the last one is over. A restart begins new periods.
        period: Period = Period::seconds(86_400);
        /// Content types a user may send, such as "text/plain" or "image/*", in an envelope too; others are answered 415; []: all.
        content_types: Vec<String> = Vec::new();
        /// Content types a user may not send, whatever content_types says.
        barred_types: Vec<String> = Vec::new();
        /// Requests outside dialogs a user may send a second, REGISTER aside; more are answered 503; 0: no limit.
        requests_per_second: u32 = 0;
        /// Of these, so many at once; 0: as many as in a second.
        requests_burst: u32 = 0;
    }
}

section! {
    /// What the operator lets through the whole server. The first six can be changed while it runs.
    Traffic {
        /// Whether anybody may send messages and begin chats; if not, everybody hears 403.
        submission: bool = true;
        /// Whether messages are delivered; if not, they are kept until they may be again.
        delivery: bool = true;
        /// Answers 202 instead of 480, 500 and 503 to a MESSAGE that cannot be taken, and tells no author that his message failed. What cannot be kept is lost: for an emergency.
        suppress_errors: bool = false;
        /// Messages through the whole server each second; one more is answered 503, in a chat 413; 0: no limit.
        messages_per_second: u32 = 0;
        /// Octets of messages through the whole server each second; 0: no limit.
        octets_per_second: Size = Size::octets(0);
        /// Notifications each second that a message failed; further ones wait, and with them the messages they speak of; 0: no limit.
        failures_per_second: u32 = 500;
        /// Users with limits of their own that are counted at once, about 200 octets each; one more is answered 503.
        senders: u32 = 1_000_000;
        /// Requests from networks without a `[[peer]]`: "allow" or "deny" (403).
        unlisted_networks: Access = Access::Allow;
        /// Requests by senders of domains without a `[[peer]]`: "allow" or "deny" (403).
        unlisted_domains: Access = Access::Allow;
    }
}

section! {
    /// The log of everything in custody.
    Store {
        /// Size at which a segment, of records or of large bodies, is sealed and a new one begun.
        segment_size: Size = Size::mib(64);
        /// Kept free for settlements, expiry and compaction when the disk is full.
        reserve: Size = Size::mib(16);
        /// A write that takes longer is answered 503 and undone.
        timeout: Period = Period::seconds(5);
        /// Writes a shard may have under way; without a free one new messages are answered 503.
        credits: u32 = 4_096;
    }
}

section! {
    /// Bounds on what the server takes on. Over a bound it answers 503, it never queues without end.
    Limits {
        /// TCP connections, SIP and MSRP together.
        connections: u32 = 16_384;
        /// TCP connections from one address outside of `trusted` (IPv6: one /64).
        connections_per_address: u32 = 2_048;
        /// Messages on their way from one shard to another.
        inbox: u32 = 8_192;
        /// Octets waiting to be written to one connection.
        connection_backlog: Size = Size::mib(1);
        /// MSRP sessions on one shard; also its MESSAGEs, deliveries and proxied requests under way, each.
        sessions: u32 = 16_384;
        /// Chats and large messages in sessions that one user may have open, those he began and those he was called to; one more is answered 503, or 486 if it is the callee who has as many and the INVITE brings no message. One caller may have a quarter of a callee's, at least 16.
        chats_per_user: u32 = 4_096;
        /// Memory for everything that peers and users can make grow; from nine tenths of it on new work is answered 503. The process as a whole stays within 1.2 times it.
        memory: Size = Size::mib(1_024);
        /// Of that, for messages on their way through MSRP sessions, a quarter of `memory` at most. What is over it goes by way of the disk, and so does a message that takes more than a quarter of it.
        spools: Size = Size::mib(128);
        /// How long what peers send may wait for its shard. Of a burst new work that would wait five times longer is answered 503; while a queue stands for five times as long, new work that would wait longer than this.
        queue_delay: Period = Period::millis(200);
        /// Messages a shard keeps track of until their receipts have come, about 800 octets each; beyond it the oldest are forgotten, and a receipt of them passes unchecked.
        receipts: u32 = 200_000;
        /// Networks that the rates and bans of single addresses do not hold for.
        trusted: Vec<Network> = vec![Network::LOOPBACK_V4, Network::LOOPBACK_V6];
        /// SIP messages and connections a second from one address (IPv6: one /64), twice as many at once; 0 is no limit. Datagrams over it are dropped, connections wait.
        source_rate: u32 = 10_000;
        /// Answers a second to one address over UDP before its requests have proved who sent them, twice as many at once; 0 is no limit.
        unproven_rate: u32 = 5_000;
        /// Points a minute after which an address is banned: 1 for octets that are no message, 2 for a failed login, 5 for an MSRP session that does not exist; 0 bans nobody.
        offences: u32 = 200;
        /// The first ban of an address; each further one is twice as long, up to 64 times.
        ban: Period = Period::seconds(60);
        /// Addresses kept track of at once, and as many users with failed logins.
        sources: u32 = 16_384;
        /// Failed logins of one user from one address after which he is locked out there; 0 locks nobody out. Holds for trusted networks too.
        failed_logins: u32 = 5;
        /// Failed logins of one user from anywhere within an hour, after which one more locks him out where it comes from.
        failed_logins_per_user: u32 = 100;
        /// The first lockout, answered 403 with Retry-After; each further one is twice as long, up to 64 times.
        lockout: Period = Period::seconds(60);
    }
}

section! {
    /// The operator's HTTP interface: /healthz, /readyz, /metrics, and /admin/v1 with a token.
    Admin {
        /// Where to listen, TCP only and without TLS; port 0 means any free port, told in the `ready` line; [] turns it off.
        listen: Vec<Listener> = vec![Listener::loopback(Protocol::Tcp, 8060)];
        /// The bearer token of /admin/v1, 16 characters or more; empty: that in `token_file`.
        token: Secret = Secret::default();
        /// A file whose first line is the token, made at the first start; relative to this file; empty: admin.token in data_dir.
        token_file: PathBuf = PathBuf::new();
        /// Connections at once; one more is closed.
        max_connections: u32 = 64;
        /// Largest body of a request; a larger one is answered 413.
        max_body_size: Size = Size::kib(256);
        /// How long a client may take to send the head of a request.
        header_timeout: Period = Period::seconds(5);
        /// How long a request may take; a slower one is answered 408.
        request_timeout: Period = Period::seconds(10);
    }
}

section! {
    /// What is told on stderr.
    Log {
        /// "text" for people, "json" for machines.
        format: LogFormat = LogFormat::Text;
        /// What is told, as in RUST_LOG, which wins over it.
        filter: String = "info".to_owned();
    }
}

words! {
    /// How users prove who they are.
    Authentication {
        /// HTTP digest (RFC 3261 §22, RFC 8760).
        Digest = "digest";
        /// Not at all.
        None = "none";
    }
}

words! {
    /// What the server offers for MSRP.
    MsrpOffer {
        /// Plain TCP.
        Tcp = "tcp";
        /// TLS.
        Tls = "tls";
    }
}

words! {
    /// What a contact without feature tags takes.
    Tagless {
        /// SIP MESSAGE only.
        Message = "message";
        /// Chat sessions over MSRP as well.
        Msrp = "msrp";
    }
}

words! {
    /// Whom the From of an envelope may name (RFC 3862 §2.2.1).
    EnvelopeFrom {
        /// Its author, or nobody.
        Own = "own";
        /// Anybody.
        Any = "any";
    }
}

words! {
    /// A hash that proves a password (RFC 8760 §2.1).
    DigestAlgorithm {
        /// SHA-256.
        Sha256 = "sha-256";
        /// MD5.
        Md5 = "md5";
    }
}

words! {
    /// When kept messages are delivered.
    Delivery {
        /// As soon as a device can take them.
        Push = "push";
        /// When the user asks.
        Pull = "pull";
    }
}

words! {
    /// Which devices get a kept message.
    CopyTo {
        /// The first that takes it.
        First = "first";
        /// Every capable one, each once.
        Every = "every";
    }
}

words! {
    /// What becomes of a message, by the recipient's wish (cpm-facts §6 rows 8, 9, 14).
    IncomingRule {
        /// It is delivered.
        Allow = "allow";
        /// The sender hears 480, as if nobody were there and nothing were kept.
        Unavailable = "unavailable";
        /// The same, and the recipient is told of the attempt.
        UnavailableNotify = "unavailable-notify";
        /// It is refused, or vanishes: see `blocked`.
        Block = "block";
    }
}

words! {
    /// What a blocked sender hears.
    Blocked {
        /// 403.
        Forbidden = "forbidden";
        /// 202, and the message is dropped.
        Silent = "silent";
    }
}

words! {
    /// Whether a peer is let in.
    Access {
        /// It is.
        Allow = "allow";
        /// It hears 403.
        Deny = "deny";
    }
}

words! {
    /// What happens when a user's quota is reached.
    WhenFull {
        /// The new message is refused.
        RefuseNew = "refuse-new";
        /// The oldest waiting ones make room; their authors are told.
        DropOldest = "drop-oldest";
    }
}

words! {
    /// The dialect in which a device is spoken to (cpm-facts §7.2).
    ClientProfile {
        /// Store-and-forward identity, plain session description.
        Rcs = "rcs";
        /// Store-and-forward identity, the first message inside the INVITE.
        RcsE = "rcs-e";
        /// The author's identity, plain session description.
        Cpm = "cpm";
        /// SIP MESSAGE only.
        Message = "message";
    }
}

words! {
    /// The form of the log.
    LogFormat {
        /// Lines for people.
        Text = "text";
        /// An object a line.
        Json = "json";
    }
}

/// A user of the domain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// The user part of the address, unescaped.
    pub user: String,
    /// The password itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// Hashes instead of the password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ha1: Option<Ha1>,
    /// A file whose first line is the password; relative to the configuration file. Loading the
    /// configuration puts the password into `password`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// A telephone number in the global form that is an address of the same user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tel: Option<String>,
    /// What this user wants otherwise than `[users]` says.
    #[serde(default, skip_serializing_if = "is_default")]
    pub settings: SettingsOverrides,
}

fn is_default(settings: &SettingsOverrides) -> bool {
    *settings == SettingsOverrides::default()
}

impl Config {
    /// What is allowed and hardly meant, a sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.limits.queue_delay.duration().is_zero() {
            warnings.push(
                "limits.queue_delay: with \"0s\" whatever has to wait at all is answered 503"
                    .to_owned(),
            );
        }
        let is_closed = self.registrar.authentication == Authentication::Digest;
        if is_closed && self.account.is_empty() {
            warnings.push(
                "registrar.authentication: with \"digest\" and no [[account]] nobody can log in but by \
                 accounts made with `restante accounts`"
                    .to_owned(),
            );
        }
        warnings
    }

    /// The sections by name, each with its keys.
    pub(super) const SECTIONS: &[(&str, &[(&str, &str)])] = &[
        ("sip", Sip::KEYS),
        ("msrp", Msrp::KEYS),
        ("registrar", Registrar::KEYS),
        ("deferral", Deferral::KEYS),
        ("users", UserSettings::KEYS),
        ("traffic", Traffic::KEYS),
        ("store", Store::KEYS),
        ("limits", Limits::KEYS),
        ("admin", Admin::KEYS),
        ("log", Log::KEYS),
    ];

    /// The realm of digest challenges: `registrar.realm`, else the domain.
    pub fn realm(&self) -> &str {
        match self.registrar.realm.as_str() {
            "" => &self.domain,
            realm => realm,
        }
    }
}

impl Sip {
    /// What listener number `index` is advertised as, if not as its own address.
    pub fn advertised(&self, index: usize) -> Option<&HostPort> {
        advertised(&self.advertise, index)
    }
}

impl Msrp {
    /// Whether listener number `index` speaks TLS.
    pub fn is_secure(&self, index: usize) -> bool {
        let listener = self.listen.get(index);
        listener.is_some_and(|listener| listener.protocol == Protocol::Tls)
    }

    /// What listener number `index` is advertised as, if not as its own address.
    pub fn advertised(&self, index: usize) -> Option<&HostPort> {
        advertised(&self.advertise, index)
    }
}

fn advertised(advertise: &[HostPort], index: usize) -> Option<&HostPort> {
    match advertise {
        [one] => Some(one),
        several => several.get(index),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_section_of_the_configuration_is_in_the_list() {
        let written = toml::Table::try_from(Config::default()).unwrap();
        let tables = written.iter().filter(|(_, value)| value.is_table());
        assert_eq!(tables.count(), Config::SECTIONS.len());
        for (section, keys) in Config::SECTIONS {
            let table = written[*section].as_table().unwrap();
            assert_eq!(table.len(), keys.len(), "{section}");
        }
    }

    #[test]
    fn one_advertised_host_serves_all_listeners() {
        let mut sip = Sip::default();
        assert_eq!(sip.advertised(0), None);
        sip.advertise = vec!["a.test".parse().unwrap()];
        assert_eq!(sip.advertised(1).unwrap().host, "a.test");
        sip.advertise.push("b.test:5070".parse().unwrap());
        assert_eq!(sip.advertised(1).unwrap().host, "b.test");
        assert_eq!(sip.advertised(2), None);
    }
}
