//! Which shard serves a user.

use crate::identity::Identity;

/// The shard of `user` among `shards`: by identity alone, so that every shard, the store and every
/// start with as many shards agree.
pub fn shard_of_user(user: &Identity, shards: u16) -> u16 {
    let hash = u64::from(crc32c::crc32c(user.as_str().as_bytes()));
    // The upper bits of the product, instead of a remainder: no division, and all bits count.
    ((hash * u64::from(shards)) >> 32) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_spread_over_all_shards_and_stay_where_they_are() {
        let mut users = [0_u32; 4];
        for number in 0..4000 {
            let user = Identity::new(&format!("user{number}"), "im.test");
            let shard = shard_of_user(&user, 4);
            assert_eq!(shard, shard_of_user(&user, 4));
            users[usize::from(shard)] += 1;
        }
        assert!(
            users.iter().all(|count| (800..1200).contains(count)),
            "{users:?}"
        );
        assert_eq!(shard_of_user(&Identity::new("bob", "im.test"), 1), 0);
    }
}
