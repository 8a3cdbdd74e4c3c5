//! The bearer token of `/admin/v1` (RFC 6750): given, read from a file, or made at the first start.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use subtle::ConstantTimeEq;

use crate::config::{Config, Secret};
use crate::token::Tokens;

/// The file in `data_dir` where nobody names another.
const FILE: &str = "admin.token";
/// A token file that is longer is none.
const LONGEST: u64 = 4096;

/// The token; compared in constant time and never shown.
#[derive(Clone, Debug)]
pub struct Token(Secret);

/// Where the token is kept if the configuration does not give it.
pub fn default_file(config: &Config) -> PathBuf {
    match config.admin.token_file.as_os_str().is_empty() {
        true => config.data_dir.join(FILE),
        false => config.admin.token_file.clone(),
    }
}

impl Token {
    /// The token of the configuration, else that of the file, else a new one written there with mode
    /// 0600. The folder must exist.
    pub fn obtain(config: &Config) -> io::Result<Self> {
        if !config.admin.token.is_empty() {
            return Ok(Self(config.admin.token.clone()));
        }
        let file = default_file(config);
        match Self::read(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::make(&file),
            outcome => outcome,
        }
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.display())))
    }

    /// The first line of a file.
    pub fn read(file: &Path) -> io::Result<Self> {
        let mut text = String::new();
        File::open(file)?.take(LONGEST).read_to_string(&mut text)?;
        match text.lines().next().map(str::trim) {
            Some(token) if !token.is_empty() => Ok(Self(Secret::new(token))),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the first line is empty",
            )),
        }
    }

    /// The file is there with all its octets or not at all, whenever the process or the machine stops.
    fn make(file: &Path) -> io::Result<Self> {
        let mut tokens = Tokens::from_os();
        let token: String = (0..4)
            .map(|_| format!("{:016x}", tokens.number()))
            .collect();
        let unfinished = file.with_extension("unfinished");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut out = options.open(&unfinished)?;
        writeln!(out, "{token}")?;
        out.sync_all()?;
        fs::rename(&unfinished, file)?;
        // A bare file name lies in the folder we are in.
        let folder = file.parent().filter(|it| !it.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
        tracing::info!(file = %file.display(), "a token for the admin interface was made");
        Ok(Self(Secret::new(token)))
    }

    /// The token itself, for the header field of a request.
    pub fn expose(&self) -> &str {
        self.0.expose()
    }

    /// Whether the value of an Authorization header field carries this token.
    pub fn is_in(&self, authorization: &str) -> bool {
        let Some((scheme, given)) = authorization.split_once(' ') else {
            return false;
        };
        let equal = self.expose().as_bytes().ct_eq(given.trim().as_bytes());
        scheme.eq_ignore_ascii_case("bearer") && bool::from(equal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_token_is_made_once_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config {
            data_dir: folder.path().to_owned(),
            ..Config::default()
        };
        let made = Token::obtain(&config).unwrap();
        assert_eq!(made.expose().len(), 64);
        assert_eq!(Token::obtain(&config).unwrap().expose(), made.expose());
        let file = folder.path().join(FILE);
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(made.is_in(&format!("bearer {}", made.expose())));
        assert!(!made.is_in(made.expose()));
        assert!(!made.is_in(&format!("Bearer {}x", made.expose())));
        assert!(!made.is_in(&format!("Basic {}", made.expose())));
        assert!(!format!("{made:?}").contains(made.expose()));
    }

    #[test]
    fn the_configured_token_wins_and_an_empty_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config {
            data_dir: folder.path().to_owned(),
            ..Config::default()
        };
        config.admin.token = Secret::new("0123456789abcdef");
        assert_eq!(Token::obtain(&config).unwrap().expose(), "0123456789abcdef");
        config.admin.token = Secret::default();
        std::fs::write(folder.path().join(FILE), "\n").unwrap();
        let error = Token::obtain(&config).unwrap_err();
        assert!(error.to_string().contains(FILE), "{error}");
    }

    #[test]
    fn what_a_kill_left_of_a_token_is_not_taken_for_one() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config {
            data_dir: folder.path().to_owned(),
            ..Config::default()
        };
        std::fs::write(folder.path().join("admin.unfinished"), "").unwrap();
        let made = Token::obtain(&config).unwrap();
        assert_eq!(Token::obtain(&config).unwrap().expose(), made.expose());
        assert!(!folder.path().join("admin.unfinished").exists());
    }
}
