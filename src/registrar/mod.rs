//! Who the users are, where their devices are, and which device takes what (RFC 3261 §10, RFC 3327,
//! RFC 3840, RFC 3841, RFC 5627 without temporary GRUUs).
//!
//! All of it is pure: time is an argument, what must be stored is returned. A shard has one
//! [`Registrar`] for the users it owns. Next stop: `router`, which asks for target sets, and
//! `participating`, which hears who came and who went.

mod account;
mod binding;
mod bindings;
mod capability;
mod common;
mod contact;
mod directory;
mod feature;
mod preference;
mod reach;
mod record;
mod register;
mod table;

pub use account::StoredAccount;
pub use binding::{Binding, BindingKey, device_number};
pub use capability::{Capability, Profile};
pub use directory::{Directory, Resolved};
pub use feature::{FeatureSet, FeatureValue};
pub use preference::{Preferences, RequestDisposition, Target};
pub use record::DecodeError;
pub use register::{Handled, Registration};
pub use table::{Policy, Registered, Registrar};
