//! The CPM participating function: what it does for the users it serves.

pub mod custody;
pub mod deferral;
pub mod expiry;
pub mod internal;
pub mod served_user;
pub mod spool;
