//! A server that runs already, and the people who use it.

use std::convert::Infallible;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use super::failure::Failure;
use super::transcript::Transcript;
use super::user_agent::{Profile, Settings, UserAgent};
use super::wire::Transport;

/// Where the server is, and who plays.
#[derive(Clone, Debug)]
pub struct Elsewhere {
    /// `HOST:PORT`; the same for UDP and TCP.
    pub server: String,
    /// The domain it serves.
    pub domain: String,
    /// Who writes.
    pub alice: Login,
    /// Who is away at first.
    pub bob: Login,
}

/// A user with the password, if the server asks for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The user part of the identity.
    pub user: String,
    /// For Digest.
    pub password: Option<String>,
}

impl Login {
    /// A user of the story, whose password is `USER-secret`.
    pub fn of(user: &str) -> Self {
        Self {
            user: user.to_owned(),
            password: Some(format!("{user}-secret")),
        }
    }
}

impl FromStr for Login {
    type Err = Infallible;

    /// `USER:PASSWORD`, or `USER` with the password of the story.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text.split_once(':') {
            None => Self::of(text),
            Some((user, password)) => Self {
                user: user.to_owned(),
                password: Some(password.to_owned()),
            },
        })
    }
}

impl Elsewhere {
    /// The server's first address.
    pub(super) fn look_up(&self) -> Result<SocketAddr, Failure> {
        let found = self.server.to_socket_addrs();
        let found = found.map_err(|error| format!("{}: {error}", self.server));
        found
            .and_then(|mut found| {
                let first = found.next();
                first.ok_or_else(|| format!("{} has no address", self.server))
            })
            .map_err(Failure::plain)
    }

    /// An RCS phone of this user.
    pub(super) fn agent(
        &self,
        login: &Login,
        server: SocketAddr,
        transport: Transport,
        transcript: &Transcript,
    ) -> Result<UserAgent, Failure> {
        UserAgent::new(Settings {
            user: login.user.clone(),
            domain: self.domain.clone(),
            password: login.password.clone(),
            transport,
            profile: Profile::Rcs,
            server,
            transcript: transcript.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_may_hold_colons_and_the_story_has_one_for_everybody() {
        let login = |text: &str| text.parse::<Login>().unwrap();
        assert_eq!(login("ann").password.as_deref(), Some("ann-secret"));
        let told = login("ben:a:b");
        assert_eq!(
            (told.user.as_str(), told.password.as_deref()),
            ("ben", Some("a:b"))
        );
    }
}
