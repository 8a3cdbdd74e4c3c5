//! Branch parameters: `z9hG4bK-<shard>-<token>`, and for a forwarded request `-<loop hash>` behind it.
//!
//! A response names its transaction by our branch alone (RFC 3261 §17.1.3), so the branch also says
//! which shard holds the transaction. The loop hash is the "second part" of RFC 5393 §4.2.1.

use std::fmt::Write;

use crate::token::Tokens;

/// What the branch of every RFC 3261 transaction begins with (§8.1.1.7).
pub const MAGIC_COOKIE: &str = "z9hG4bK";

/// A fresh branch of `shard`.
pub fn fresh(shard: u16, tokens: &mut Tokens) -> String {
    let mut branch = String::with_capacity(40);
    write!(branch, "{MAGIC_COOKIE}-{shard}-").expect("a String takes all");
    tokens.push_to(&mut branch);
    branch
}

/// A fresh branch of `shard` that carries a loop hash (RFC 5393 §4.2.1).
pub fn with_loop_hash(shard: u16, tokens: &mut Tokens, hash: u32) -> String {
    let mut branch = fresh(shard, tokens);
    write!(branch, "-{hash:08x}").expect("a String takes all");
    branch
}

/// The shard that a branch of ours names; `None` for any other branch.
pub fn shard_of(branch: &str) -> Option<u16> {
    let (shard, token) = own_parts(branch)?.split_once('-')?;
    (!token.is_empty()).then_some(())?;
    shard.parse().ok()
}

/// The loop hash of a branch of ours, if it carries one.
pub fn loop_hash_of(branch: &str) -> Option<u32> {
    let mut parts = own_parts(branch)?.splitn(3, '-').skip(2);
    let hash = parts.next().filter(|hash| hash.len() == 8)?;
    u32::from_str_radix(hash, 16).ok()
}

/// Whether a branch was made by a client that follows RFC 3261.
pub fn has_magic_cookie(branch: &str) -> bool {
    branch.starts_with(MAGIC_COOKIE)
}

/// Whether a branch tells its transaction from all others (RFC 3261 §8.1.1.7): it has the magic cookie, and
/// something behind it.
pub fn is_unique(branch: &str) -> bool {
    let behind = branch.strip_prefix(MAGIC_COOKIE);
    behind.is_some_and(|rest| {
        rest.starts_with(|octet: char| octet.is_ascii_graphic() && octet != ',')
    })
}

fn own_parts(branch: &str) -> Option<&str> {
    branch.strip_prefix(MAGIC_COOKIE)?.strip_prefix('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_branch_names_its_shard() {
        let mut tokens = Tokens::from_seed(1);
        let branch = fresh(17, &mut tokens);
        assert!(branch.starts_with("z9hG4bK-17-"));
        assert_eq!(shard_of(&branch), Some(17));
        assert_eq!(loop_hash_of(&branch), None);
        assert_ne!(branch, fresh(17, &mut tokens));
    }

    #[test]
    fn a_loop_hash_stands_behind_the_token() {
        let branch = with_loop_hash(3, &mut Tokens::from_seed(1), 0x00c0_ffee);
        assert_eq!(shard_of(&branch), Some(3));
        assert_eq!(loop_hash_of(&branch), Some(0x00c0_ffee));
    }

    #[test]
    fn branches_of_others_name_nothing() {
        for branch in [
            "",
            "z9hG4bK",
            "z9hG4bK-",
            "z9hG4bK-1",
            "z9hG4bK-1-",
            "z9hG4bK-70000-abc",
            "z9hG4bK776asdhds",
            "1-2-3",
            "z9hG4bK-é-é",
        ] {
            assert_eq!(shard_of(branch), None, "{branch}");
            assert_eq!(loop_hash_of(branch), None, "{branch}");
        }
    }
}
