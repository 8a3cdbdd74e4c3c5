//! What the shell asks of a shard's pure core.

use std::net::IpAddr;

use super::port::{Action, Input};
use crate::clock::{Instant, Now};
use crate::limits::load::Load;
use crate::sip::message::Message;

/// Everything a shard decides. It is called by one thread; time is an argument.
pub trait ShardCore {
    /// Takes what happened.
    fn handle_input(&mut self, input: Input, now: Now);

    /// What to do next, in order; `None` when there is nothing more to do.
    fn poll_action(&mut self) -> Option<Action>;

    /// When to call [`ShardCore::handle_timeout`].
    fn next_deadline(&self) -> Option<Instant>;

    /// Lets what is due happen.
    fn handle_timeout(&mut self, now: Now);

    /// How far the shard keeps up; the shell writes it down, the core goes by it.
    fn load(&mut self) -> &mut Load;

    /// Whether credentials answer a challenge that was given to whoever sends from `address`.
    fn is_answer(&self, credentials: &str, address: IpAddr, now: Now) -> bool;

    /// Counts what the core uses of memory.
    fn account(&mut self);

    /// The shard that owns a message that has just arrived: the one that made its transaction,
    /// dialog, or serves its user. Must not depend on anything but the message.
    fn owner_of(&self, message: &Message) -> u16;
}
