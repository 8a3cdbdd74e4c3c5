//! Digest authentication (RFC 3261 §22, RFC 7616, RFC 8760): challenge and check.
//!
//! `credentials` reads what a client sends, `nonce` makes nonces that need no memory until they are
//! used and remembers which counts were, `check` puts both together. Who the users are and what
//! their hashes are is the caller's: see `registrar::directory`.
//!
//! Not supported, and refused with 400: the `-sess` algorithms, `auth-int`, `userhash`,
//! `username*`, and credentials without `qop`. None of them is ever offered.

mod check;
mod credentials;
mod nonce;

pub use check::{
    Algorithms, Challenger, Digest, DigestSettings, Hashes, MOST_CREDENTIALS, Verdict,
};
