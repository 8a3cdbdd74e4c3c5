//! SIP (RFC 3261), knowing nothing of CPM.

pub mod transport;
