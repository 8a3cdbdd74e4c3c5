//! Sockets and what travels over them.

pub mod flow;
pub mod udp;
