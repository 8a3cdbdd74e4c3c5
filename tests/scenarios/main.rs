//! Black-box conversations with the real binary over real sockets, told as sentences. Each plays
//! with one shard and with four.

#[path = "../support/mod.rs"]
mod support;

mod attack_digest;
mod attack_enumeration;
mod attack_flood;
mod attack_identity;
mod attack_injection;
mod attack_msrp;
mod attack_reflection;
mod attack_relay;
mod attack_slow;
mod attack_xml;
mod bad_input;
mod chat;
mod client_families;
mod content;
mod custody;
mod deferral_table;
mod devices;
mod dialogs;
mod first_message;
mod ipv6;
mod large;
mod msrp_hostile;
mod order;
mod pager;
mod privacy;
mod process;
mod proxying;
mod pull;
mod quotas;
mod receipt_rules;
mod receipts;
mod registration;
mod replay;
mod replay_table;
mod rules;
mod secure_media;
mod session_life;
mod standalone;
mod torture;
mod traffic;
mod transports;
mod warnings;
mod whole_service;
