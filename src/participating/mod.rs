//! The CPM participating function.

pub mod internal;
