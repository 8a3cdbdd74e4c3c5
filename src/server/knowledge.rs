//! What all shards know alike: the accounts, the digest with its key, the names of this server.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use super::listeners::Addresses;
use super::settings::Guards;
use crate::clock;
use crate::config::{Authentication, Config};
use crate::limits::meters::Meters;
use crate::registrar::Directory;
use crate::router::{Knowledge, RouteKey};
use crate::sip::digest::{Digest, DigestSettings};
use crate::token::Tokens;

/// The file in `data_dir` that holds the key of nonces and routes, so that nonces from before a restart
/// are known as stale and not as forged (decision 14), and dialogs outlive it.
const KEY_FILE: &str = "nonce.key";

/// Built once the listeners are bound and the data folder is ours.
pub(super) fn gather(
    config: &Config,
    directory: Arc<Directory>,
    addresses: &Addresses,
    shards: u16,
    limits: &Guards,
) -> io::Result<Knowledge> {
    let own = own_names(config, addresses);
    let secret = key(&config.data_dir)?;
    let digest = match config.registrar.authentication {
        Authentication::None => None,
        Authentication::Digest => {
            let hosts = own.iter().map(|(host, _)| host.clone());
            Some(Arc::new(Digest::new(DigestSettings {
                realm: config.realm().to_owned(),
                key: secret,
                lifetime: config.registrar.nonce_lifetime.duration(),
                algorithms: directory.algorithms(),
                hosts: hosts.chain([config.domain.clone()]).collect(),
                started_at: clock::now().wall,
                logins: Arc::clone(&limits.logins),
            })))
        }
    };
    Ok(Knowledge {
        directory,
        digest,
        own: own.into(),
        route_key: RouteKey {
            secret,
            run: Tokens::from_os().number() as u32,
        },
        meters: Arc::new(Meters::new(config)),
        shards,
        sources: Arc::clone(&limits.sources),
    })
}

/// Every host and port that means this server.
fn own_names(config: &Config, addresses: &Addresses) -> Vec<(String, u16)> {
    let bound = addresses
        .sip
        .iter()
        .map(|(_, address)| (address.ip().to_string(), address.port()));
    let advertised = (0..addresses.sip.len()).filter_map(|index| {
        let (_, address) = addresses.sip.get(index)?;
        let named = config.sip.advertised(index)?;
        Some((named.host.clone(), named.port.unwrap_or(address.port())))
    });
    bound.chain(advertised).collect()
}

fn key(data_dir: &Path) -> io::Result<[u8; 32]> {
    let path = data_dir.join(KEY_FILE);
    key_in(&path).map_err(|error| {
        let text = format!("{}: {error}", path.display());
        io::Error::new(error.kind(), text)
    })
}

fn key_in(path: &Path) -> io::Result<[u8; 32]> {
    let mut key = [0; 32];
    match fs::File::open(path).and_then(|mut file| file.read_exact(&mut key)) {
        Ok(()) => return Ok(key),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
        Err(error) => return Err(error),
    }
    let mut tokens = Tokens::from_os();
    for part in key.chunks_mut(8) {
        part.copy_from_slice(&tokens.number().to_be_bytes());
    }
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(&key)?;
    file.sync_all()?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_the_way_of_the_key_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(key(folder.path()).ok(), key(folder.path()).ok());
        let path = folder.path().join(KEY_FILE);
        fs::remove_file(&path).expect("removed");
        fs::create_dir(&path).expect("made");
        let error = key(folder.path()).expect_err("a folder is no key");
        assert!(error.to_string().contains(KEY_FILE), "{error}");
    }
}
