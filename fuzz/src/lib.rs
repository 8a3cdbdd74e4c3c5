//! The claims of `tests/claims`, for the targets.

#[path = "../../tests/claims/mod.rs"]
pub mod claims;
