//! TLS (RFC 8446, RFC 5246) below a protocol that knows its peers by the hash of their certificate.
//!
//! We show our certificate whichever side connects, and ask for the peer's. As the client the peer is
//! checked here: by the hash told in advance, else by name. As the server anybody may connect; whom the
//! connection serves is decided above, by the certificate it shows ([`TlsStream::certificate`]).

use bytes::{BufMut, Bytes, BytesMut};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    ClientConfig, ClientConnection, Connection, DigitallySignedStruct, DistinguishedName, Error,
    RootCertStore, ServerConfig, ServerConnection, SignatureScheme,
};
use std::cell::RefCell;
use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

/// Plain octets taken at once.
const READ: usize = 16 * 1024;

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file with a certificate or a key.
    #[error("{0}: {1}")]
    File(String, String),
    /// The key does not fit, or none could be made.
    #[error("{0}")]
    Key(String),
}

/// Our certificate, and whom we believe.
#[derive(Clone)]
pub struct Tls {
    chain: Vec<CertificateDer<'static>>,
    key: Arc<PrivateKeyDer<'static>>,
    authorities: Option<Arc<WebPkiServerVerifier>>,
    server: Arc<ServerConfig>,
}

impl fmt::Debug for Tls {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

/// Whether a certificate, in DER, is the one expected.
pub type Check = Arc<dyn Fn(&[u8]) -> bool + Send + Sync>;

impl Tls {
    /// From PEM files; `authorities` may be empty.
    pub fn load(certificate: &Path, key: &Path, authorities: &Path) -> Result<Self, TlsError> {
        let fault = |path: &Path, error: &dyn fmt::Display| {
            TlsError::File(path.display().to_string(), error.to_string())
        };
        let chain = read_certificates(certificate)?;
        let key = PrivateKeyDer::from_pem_file(key).map_err(|error| fault(key, &error))?;
        Self::new(chain, key, authorities)
    }

    /// With a certificate of our own making for these names: known by its hash alone.
    pub fn self_signed(names: Vec<String>, authorities: &Path) -> Result<Self, TlsError> {
        let made = rcgen::generate_simple_self_signed(names);
        let made = made.map_err(|error| TlsError::Key(error.to_string()))?;
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der());
        let key = key.map_err(|error| TlsError::Key(error.to_owned()))?;
        Self::new(vec![made.cert.der().clone()], key, authorities)
    }

    fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        authorities: &Path,
    ) -> Result<Self, TlsError> {
        let fault = |error: &dyn fmt::Display| TlsError::Key(error.to_string());
        let server = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| fault(&error))?
            .with_client_cert_verifier(Arc::new(Anybody(provider())))
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(|error| fault(&error))?;
        Ok(Self {
            chain,
            key: Arc::new(key),
            authorities: verifier(authorities)?,
            server: Arc::new(server),
        })
    }

    /// Our certificate, in DER.
    pub fn certificate(&self) -> &[u8] {
        self.chain.first().map_or(&[], |certificate| certificate)
    }

    /// A connection that a peer opened.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream> {
        let session = ServerConnection::new(Arc::clone(&self.server)).map_err(io::Error::other)?;
        TlsStream::establish(stream, session.into()).await
    }

    /// A connection that we opened to the peer of this name, whose certificate is checked.
    pub async fn connect(
        &self,
        stream: TcpStream,
        name: &str,
        check: Option<Check>,
    ) -> io::Result<TlsStream> {
        let by_name = self.authorities.clone();
        let verifier = Arc::new(Expected {
            provider: provider(),
            check,
            by_name,
        });
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            .map_err(io::Error::other)?;
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let session = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
        TlsStream::establish(stream, session.into()).await
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let fault =
        |error: &dyn fmt::Display| TlsError::File(path.display().to_string(), error.to_string());
    let all = CertificateDer::pem_file_iter(path).map_err(|error| fault(&error))?;
    let all: Result<Vec<_>, _> = all.collect();
    let all = all.map_err(|error| fault(&error))?;
    if all.is_empty() {
        return Err(fault(&"no certificate"));
    }
    Ok(all)
}

fn verifier(authorities: &Path) -> Result<Option<Arc<WebPkiServerVerifier>>, TlsError> {
    if authorities.as_os_str().is_empty() {
        return Ok(None);
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(read_certificates(authorities)?);
    let built = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build();
    built
        .map(Some)
        .map_err(|error| TlsError::File(authorities.display().to_string(), error.to_string()))
}

/// Every client may show the certificate it likes, or none.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ClientCertVerifier for Anybody {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

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
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The peer we connect to.
struct Expected {
    provider: Arc<CryptoProvider>,
    check: Option<Check>,
    by_name: Option<Arc<WebPkiServerVerifier>>,
}

impl fmt::Debug for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expected").finish_non_exhaustive()
    }
}

impl ServerCertVerifier for Expected {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match (&self.check, &self.by_name) {
            (Some(check), _) if check(certificate) => Ok(ServerCertVerified::assertion()),
            (Some(_), _) => Err(Error::General("another certificate than described".into())),
            (None, Some(by_name)) => {
                by_name.verify_server_cert(certificate, intermediates, name, ocsp, now)
            }
            (None, None) => Err(Error::General("nobody vouches for the certificate".into())),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// A connection whose handshake is done.
pub struct TlsStream {
    tcp: TcpStream,
    /// Never borrowed across a wait.
    session: RefCell<Connection>,
}

impl fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream").finish_non_exhaustive()
    }
}

impl TlsStream {
    async fn establish(tcp: TcpStream, session: Connection) -> io::Result<Self> {
        let stream = Self {
            tcp,
            session: RefCell::new(session),
        };
        loop {
            let flushed = stream.flush().await;
            flushed?;
            if !stream.session.borrow().is_handshaking() {
                return Ok(stream);
            }
            stream.tcp.readable().await?;
            let outcome = stream.take_records();
            if outcome.is_err() {
                // The peer is told what was wrong.
                let _ = stream.try_flush();
            }
            if outcome? == Some(0) {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// The socket below.
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// The certificate that the peer showed, in DER.
    pub fn certificate(&self) -> Option<Bytes> {
        let session = self.session.borrow();
        let first = session.peer_certificates()?.first()?;
        Some(Bytes::copy_from_slice(first))
    }

    /// Waits for octets and appends them; 0 at their end.
    pub async fn read(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        loop {
            match self.take_plain(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return outcome,
            }
            self.tcp.readable().await?;
            self.take_records()?;
            // Answers to key updates; what does not fit goes with the next octets of ours.
            self.try_flush()?;
        }
    }

    fn take_plain(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        let mut chunk = [0; READ];
        let read = self.session.borrow_mut().reader().read(&mut chunk)?;
        buffer.put_slice(chunk.get(..read).unwrap_or_default());
        Ok(read)
    }

    /// Takes what the socket has; `None` if that is nothing yet.
    fn take_records(&self) -> io::Result<Option<usize>> {
        let mut session = self.session.borrow_mut();
        let read = match session.read_tls(&mut Socket(&self.tcp)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            outcome => outcome?,
        };
        let processed = session.process_new_packets();
        processed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(Some(read))
    }

    /// Writes as much of `octets` as there is room for, and says how much; fails when the peer takes
    /// nothing for `stall`.
    pub async fn write(&self, octets: &[IoSlice<'_>], stall: Duration) -> io::Result<usize> {
        let taken = self.session.borrow_mut().writer().write_vectored(octets)?;
        let flushed = tokio::time::timeout(stall, self.flush()).await;
        flushed.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        Ok(taken)
    }

    async fn flush(&self) -> io::Result<()> {
        while !self.try_flush()? {
            self.tcp.writable().await?;
        }
        Ok(())
    }

    /// Writes what fits into the socket; whether that was all.
    fn try_flush(&self) -> io::Result<bool> {
        let mut session = self.session.borrow_mut();
        while session.wants_write() {
            match session.write_tls(&mut Socket(&self.tcp)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Tells the peer that nothing more comes.
    pub fn say_goodbye(&self) {
        self.session.borrow_mut().send_close_notify();
        // Whoever does not read it sees the end of the connection.
        let _ = self.try_flush();
    }
}

/// The socket as the TLS machine wants it: it never waits.
struct Socket<'a>(&'a TcpStream);

impl Read for Socket<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.0.try_write(octets)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
