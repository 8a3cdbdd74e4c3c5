//! A shard: one thread, a pure core, and the shell that connects it with the world.
//!
//! Read `port` (the border), `core_trait` (what a core is), `inbox` (how others reach a shard), then
//! `shell` (the loop).

pub mod alarm;
pub mod assembly;
mod bulk;
pub mod core;
pub mod core_trait;
pub mod deliver;
pub mod door;
pub mod inbox;
pub mod operator_desk;
pub mod outbox;
pub mod perform;
pub mod port;
pub mod shares;
pub mod shell;
pub mod store_queue;
pub mod taken;
pub mod thread;
pub mod waiting_room;
