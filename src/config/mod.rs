//! The whole configuration as plain data with defaults: TOML, then the environment, then checks.
//!
//! A key is declared once, in `schema`, with its type, default and comment; `load` reads it,
//! `check` holds the rules between keys, `document` writes it out again. Everything that starts
//! from a configuration gets the part it needs by value. Next stop: `server`.

mod accounts;
mod address;
mod check;
mod document;
mod environment;
mod load;
mod schema;
mod secret;
mod traffic;
mod user;
mod values;

pub use accounts::{check_names, check_settings, is_reserved};
pub use address::{HostPort, Listener, Protocol};
pub use load::{ConfigError, Origin};
pub use schema::{
    Access, Account, Admin, Authentication, Blocked, ClientProfile, Config, CopyTo, Deferral,
    Delivery, DigestAlgorithm, EnvelopeFrom, IncomingRule, Limits, Log, LogFormat, Msrp, MsrpOffer,
    Registrar, Sip, Store, Tagless, Traffic, UserSettings, WhenFull,
};
pub use secret::{Ha1, Secret};
pub use traffic::{PeerRule, TrafficOverrides};
pub use user::{ClientRule, EffectiveSettings, RuleSubject, SenderRule, SettingsOverrides};
pub use values::{Period, Size};
