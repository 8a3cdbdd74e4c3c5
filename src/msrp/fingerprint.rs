//! `a=fingerprint`: the hash of a certificate, told in the session description (RFC 8122 §5, RFC 4975
//! §14.4). It stands for trust where no authority vouches for a certificate.

use sha1::Sha1;
use sha2::{Digest, Sha256, Sha384, Sha512};

/// A hash function of RFC 8122 §5. SHA-1 is weak, and common in the field; MD5 is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hash {
    Sha1,
    Sha256,
    Sha384,
    Sha512,
}

impl Hash {
    fn of(self, octets: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha1 => Sha1::digest(octets).to_vec(),
            Self::Sha256 => Sha256::digest(octets).to_vec(),
            Self::Sha384 => Sha384::digest(octets).to_vec(),
            Self::Sha512 => Sha512::digest(octets).to_vec(),
        }
    }
}

/// What a peer says that its certificate hashes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    hash: Hash,
    octets: Vec<u8>,
}

impl Fingerprint {
    /// Reads `SHA-256 4A:AD:...`, in any case; `None` for another hash or another length.
    pub fn parse(value: &str) -> Option<Self> {
        let (name, digits) = value.trim().split_once(' ')?;
        let hash = match name.to_ascii_lowercase().as_str() {
            "sha-1" => Hash::Sha1,
            "sha-256" => Hash::Sha256,
            "sha-384" => Hash::Sha384,
            "sha-512" => Hash::Sha512,
            _ => return None,
        };
        let octet = |pair: &str| (pair.len() == 2).then(|| u8::from_str_radix(pair, 16).ok())?;
        let octets: Option<Vec<u8>> = digits.trim().split(':').map(octet).collect();
        let octets = octets?;
        let fits = octets.len() == hash.of(&[]).len();
        fits.then_some(Self { hash, octets })
    }

    /// Whether a certificate, in DER, is the one meant.
    pub fn matches(&self, certificate: &[u8]) -> bool {
        self.hash.of(certificate) == self.octets
    }
}

/// The value of our own attribute: SHA-256, upper case.
pub fn fingerprint_of(certificate: &[u8]) -> String {
    let octets = Sha256::digest(certificate);
    let digits: Vec<String> = octets.iter().map(|octet| format!("{octet:02X}")).collect();
    format!("SHA-256 {}", digits.join(":"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_known_by_its_fingerprint_in_any_case() {
        let value = fingerprint_of(b"certificate");
        for written in [value.clone(), value.to_ascii_lowercase()] {
            let fingerprint = Fingerprint::parse(&written).unwrap();
            assert!(fingerprint.matches(b"certificate"));
            assert!(!fingerprint.matches(b"another"));
        }
    }

    #[test]
    fn sha_1_is_taken_and_md5_is_not() {
        let sha1 = "sha-1 a9:99:3e:36:47:06:81:6a:ba:3e:25:71:78:50:c2:6c:9c:d0:d8:9d";
        assert!(Fingerprint::parse(sha1).unwrap().matches(b"abc"));
        let md5 = "md5 90:01:50:98:3c:d2:4f:b0:d6:96:3f:7d:28:e1:7f:72";
        assert_eq!(Fingerprint::parse(md5), None);
    }

    #[test]
    fn what_is_no_fingerprint_is_none() {
        for value in ["", "SHA-256", "SHA-256 AB", "SHA-1 zz:zz", "SHA-1 A:B"] {
            assert_eq!(Fingerprint::parse(value), None, "{value}");
        }
    }
}
