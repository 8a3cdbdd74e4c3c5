//! The CPM participating function: what it does for the users it serves.

pub mod deferral;
pub mod served_user;
