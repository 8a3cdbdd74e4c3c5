//! Sockets and what travels over them.

pub mod connection;
pub mod flow;
pub mod refusal;
pub mod tcp;
pub mod udp;
