//! What many scenarios do with a user who was away: write to him, and see what he gets.

use restante::demo::{Chat, Failure, Setup, UserAgent};

/// `author` writes these to Bob in one chat while he is away.
pub fn writes_while_bob_is_away(author: &UserAgent, texts: &[&str]) -> Result<(), Failure> {
    let chat = author.opens_chat("bob")?;
    for text in texts {
        chat.says(text)?;
    }
    chat.hangs_up()
}

/// The session brings these and ends.
pub fn expect_replay(replay: &Chat<'_>, texts: &[&str]) -> Result<(), Failure> {
    for text in texts {
        replay.expect_text(text)?;
    }
    replay.expect_bye()?;
    Ok(())
}

/// The next session that is offered brings these and ends.
pub fn takes_replay(device: &UserAgent, texts: &[&str]) -> Result<(), Failure> {
    let replay = device.expect_invite()?.answers_recvonly(Setup::Active)?;
    expect_replay(&replay, texts)
}
