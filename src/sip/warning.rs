//! The texts of `Warning: 399` (cpm-facts §11): three digits, then words. Handsets read the number, and
//! two client families register again at once after a 403 without one, so every 403 of ours has one.

/// The user may not use the service, or not towards this person.
pub const NOT_AUTHORISED: &str = "127 Service not authorised";
/// The recipient takes nothing from people who hide who they are.
pub const NO_ANONYMITY: &str = "119 Anonymity not allowed";
/// The user may do much, but not this.
pub const NOT_ALLOWED: &str = "122 Function not allowed";
/// A user has as many sessions as he may.
pub const TOO_MANY: &str = "102 Too many participants";
/// A message or file has more octets than are taken.
pub const TOO_LARGE: &str = "133 Size exceeded";
