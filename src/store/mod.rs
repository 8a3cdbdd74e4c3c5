//! The store: what was acknowledged survives.

pub mod request;
