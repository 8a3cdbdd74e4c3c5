//! A proxy's part (RFC 3261 §16, RFC 5393), without I/O: whether a request may be forwarded
//! ([`check`]), what it looks like when it leaves ([`forward`]), and what its branches' responses
//! amount to ([`fork`]).

mod best;
pub mod check;
pub mod fork;
pub mod forward;

pub use check::{check_forwardable, unsupported_extensions, unsupported_requirements};
pub use fork::{ForkAction, ForkContext};
pub use forward::{
    Forward, breadth_shares, loop_hash, next_hop, prepare_forward, undo_strict_routing,
};
