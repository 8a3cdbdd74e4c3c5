//! The paths that are measured, driven in this process: by `times.rs` in time, by
//! `tests/instructions.rs` in instructions.

pub mod chunks;
pub mod core;
pub mod store;
pub mod texts;
