//! TLS for the agents' MSRP: a certificate of their own, told by its fingerprint, and the server's
//! checked by the fingerprint it tells (RFC 4975 §14.4).

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    ClientConfig, ClientConnection, Connection, DigitallySignedStruct, DistinguishedName, Error,
    ServerConfig, ServerConnection, SignatureScheme,
};
use sha2::{Digest, Sha256};

use super::failure::Failure;
use super::wire::lock;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// An agent's certificate, and what it says its fingerprint is.
pub struct MediaTls {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    /// The value of its `a=fingerprint`.
    pub told: String,
}

impl MediaTls {
    /// A fresh certificate, told as it is, in lower case.
    pub fn fresh() -> Result<Self, Failure> {
        let made = rcgen::generate_simple_self_signed(["agent.invalid".to_owned()]);
        let made = made.map_err(|error| Failure::plain(error.to_string()))?;
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der());
        let certificate = made.cert.der().clone();
        Ok(Self {
            told: format!("sha-256 {}", digits_of(&certificate)),
            key: key.map_err(|error| Failure::plain(error.to_owned()))?,
            certificate,
        })
    }

    /// A fresh certificate, told as if it were another.
    pub fn impostor() -> Result<Self, Failure> {
        let told = Self::fresh()?.told;
        Ok(Self {
            told,
            ..Self::fresh()?
        })
    }

    fn client(&self) -> Result<Connection, Error> {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody))
            .with_client_auth_cert(vec![self.certificate.clone()], self.key.clone_key())?;
        let name = ServerName::try_from("server.invalid").expect("a name");
        Ok(ClientConnection::new(Arc::new(config), name)?.into())
    }

    fn server(&self) -> Result<Connection, Error> {
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(Arc::new(Anybody))
            .with_single_cert(vec![self.certificate.clone()], self.key.clone_key())?;
        Ok(ServerConnection::new(Arc::new(config))?.into())
    }
}

fn digits_of(certificate: &[u8]) -> String {
    let mut digits = String::new();
    for octet in Sha256::digest(certificate) {
        let colon = if digits.is_empty() { "" } else { ":" };
        let _ = write!(digits, "{colon}{octet:02x}");
    }
    digits
}

/// An agent's MSRP connection, with or without TLS.
pub(super) struct MediaStream {
    tcp: TcpStream,
    tls: Option<Mutex<Session>>,
}

struct Session {
    machine: Connection,
    /// Octets from the socket that the machine has not taken yet.
    raw: Vec<u8>,
}

impl Session {
    /// Octets for the reader; `None` when the socket has to give more first.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match self.machine.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return outcome.map(Some),
            }
            if self.raw.is_empty() {
                return Ok(None);
            }
            let taken = self.machine.read_tls(&mut self.raw.as_slice())?;
            self.raw.drain(..taken);
            let processed = self.machine.process_new_packets();
            processed.map_err(io::Error::other)?;
        }
    }
}

impl MediaStream {
    pub(super) fn plain(tcp: TcpStream) -> Self {
        Self { tcp, tls: None }
    }

    /// Shakes hands; the peer's certificate must have the fingerprint it told.
    pub(super) fn secure(
        mut tcp: TcpStream,
        tls: &MediaTls,
        connects: bool,
        expected: &str,
    ) -> Result<Self, Failure> {
        let session = if connects { tls.client() } else { tls.server() };
        let mut session = session.map_err(|error| Failure::plain(error.to_string()))?;
        tcp.set_read_timeout(Some(HANDSHAKE))?;
        while session.is_handshaking() {
            session.complete_io(&mut tcp)?;
        }
        let shown = session.peer_certificates().and_then(<[_]>::first);
        let shown = shown.map(|certificate| format!("sha-256 {}", digits_of(certificate)));
        if shown.as_deref() != Some(&expected.to_ascii_lowercase()) {
            let step = format!("the server showed {shown:?} and told \"{expected}\"");
            return Err(Failure::plain(step));
        }
        Ok(Self {
            tcp,
            tls: Some(Mutex::new(Session {
                machine: session,
                raw: Vec::new(),
            })),
        })
    }

    pub(super) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    pub(super) fn close(&self) {
        let _ = self.tcp.shutdown(Shutdown::Both);
    }

    pub(super) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &self.tls else {
            return (&self.tcp).read(buffer);
        };
        loop {
            let ready = lock(tls).read(buffer)?;
            if let Some(length) = ready {
                return Ok(length);
            }
            let mut raw = [0; 16_384];
            let length = (&self.tcp).read(&mut raw)?;
            if length == 0 {
                return Ok(0);
            }
            lock(tls).raw.extend_from_slice(&raw[..length]);
        }
    }

    pub(super) fn write_all(&self, octets: &[u8]) -> io::Result<()> {
        let Some(tls) = &self.tls else {
            return (&self.tcp).write_all(octets);
        };
        let session = &mut lock(tls).machine;
        let mut left = octets;
        while !left.is_empty() {
            let taken = session.writer().write(left)?;
            left = &left[taken..];
            while session.wants_write() {
                session.write_tls(&mut &self.tcp)?;
            }
        }
        Ok(())
    }
}

/// Takes every certificate; the fingerprint is looked at afterwards.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

impl ClientCertVerifier for Anybody {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

fn schemes() -> Vec<SignatureScheme> {
    let known = ring::default_provider().signature_verification_algorithms;
    known.supported_schemes()
}
