//! What the black-box tests stand on: the real binary, agents around it, and one way to play.

#![allow(dead_code, unused_imports, reason = "each test file uses a part of it")]

mod attacker;
mod configuration;
mod families;
mod replays;
mod stage;

pub use attacker::{Attacker, Credentials, nonce_in};
pub use configuration::Configuration;
pub use families::{Family, Shown};
pub use replays::{expect_replay, takes_replay, writes_while_bob_is_away};
pub use stage::{BINARY, Stage, on_every_shard_count, on_stage};
