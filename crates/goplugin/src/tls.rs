//! Mutual TLS between two processes that have just exchanged certificates over a pipe.
//!
//! Each side makes a certificate for one life, tells the other, and takes no other of it. So there is nothing to look up and nobody to trust:
//! the peer's certificate must be *this one, byte for byte*, and the peer must prove with the handshake's signature that it has the key. That is stricter
//! than Go, which asks a verifier whether the certificate leads to itself.
//!
//! Two things keep an ordinary TLS set-up from speaking to Go's:
//! - Go's certificate is a certificate authority that is used as a leaf, which ordinary verifiers refuse. Here none is asked.
//! - Its key is on the curve P-521. Of rustls' two providers only aws-lc-rs knows it; the process's default provider is not used and not set.
//!
//! Our own key is on P-256, which every side takes; P-521 would cost start-up 10 ms and more. The certificate has Go's shape otherwise.

use std::{fmt, sync::Arc};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{
        CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime, pem::PemObject as _,
    },
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

/// The name in every certificate of the protocol.
pub const SERVER_NAME: &str = "localhost";
/// The protocol spoken inside.
const ALPN: &[u8] = b"h2";

/// A certificate and its key, for the life of one plugin.
#[derive(Clone)]
pub struct Identity {
    certificate: CertificateDer<'static>,
    pem: String,
    key_der: Arc<[u8]>,
}

/// Both roles of a connection between an identity and one peer.
#[derive(Clone, Debug)]
pub struct Session {
    /// For whoever connects.
    pub client: Arc<ClientConfig>,
    /// For whoever accepts.
    pub server: Arc<ServerConfig>,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// No key or certificate could be made.
    #[error("no certificate could be made for this plugin's connection")]
    Generate(#[source] rcgen::Error),
    /// The peer's is not one.
    #[error("the certificate that the other side sent is not one: {0}")]
    Peer(String),
    /// The TLS library refused.
    #[error("TLS could not be set up")]
    Setup(#[source] Error),
}

// === impl Identity ===

impl Identity {
    /// Makes a key and its certificate.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub fn generate() -> Result<Self, TlsError> {
        let mut params = CertificateParams::new(vec![SERVER_NAME.to_owned()]).map_err(TlsError::Generate)?;
        params
            .distinguished_name
            .push(DnType::OrganizationName, "Mortise");
        params.distinguished_name.push(DnType::CommonName, SERVER_NAME);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
            KeyUsagePurpose::KeyAgreement,
            KeyUsagePurpose::KeyCertSign,
        ];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(TlsError::Generate)?;
        let certificate = params.self_signed(&key).map_err(TlsError::Generate)?;
        Ok(Self {
            pem: certificate.pem(),
            certificate: certificate.into(),
            key_der: key.serialize_der().into(),
        })
    }

    /// The certificate, for the environment.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The certificate, for the handshake line.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.certificate
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

/// The first certificate of a PEM text.
///
/// # Errors
/// If there is none.
pub fn certificate_of_pem(pem: &str) -> Result<Vec<u8>, TlsError> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map(|it| it.to_vec())
        .map_err(|error| TlsError::Peer(error.to_string()))
}

// === impl Session ===

impl Session {
    /// Between `own` and the peer whose certificate, DER, is `peer`.
    ///
    /// # Errors
    /// If the peer's certificate is none.
    pub fn new(own: &Identity, peer: &[u8]) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let pin = Arc::new(Pin::new(peer, provider.clone())?);
        let chain = || vec![own.certificate.clone()];
        let key = || PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.key_der.to_vec()));
        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Setup)?
            .dangerous()
            .with_custom_certificate_verifier(pin.clone())
            .with_client_auth_cert(chain(), key())
            .map_err(TlsError::Setup)?;
        client.alpn_protocols = vec![ALPN.to_vec()];
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Setup)?
            .with_client_cert_verifier(pin)
            .with_single_cert(chain(), key())
            .map_err(TlsError::Setup)?;
        server.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self {
            client: client.into(),
            server: server.into(),
        })
    }
}

/// Takes one certificate and no other.
#[derive(Debug)]
struct Pin {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl Pin {
    fn new(der: &[u8], provider: Arc<CryptoProvider>) -> Result<Self, TlsError> {
        let certificate = CertificateDer::from(der.to_vec());
        rustls::server::ParsedCertificate::try_from(&certificate)
            .map_err(|error| TlsError::Peer(error.to_string()))?;
        Ok(Self {
            certificate,
            provider,
        })
    }

    fn check(&self, shown: &CertificateDer<'_>, further: &[CertificateDer<'_>]) -> Result<(), Error> {
        // A certificate is public: nothing is learned from how long the comparison takes.
        if *shown == self.certificate && further.is_empty() {
            Ok(())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn signature(
        &self,
        tls13: bool,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let verify = if tls13 {
            verify_tls13_signature
        } else {
            verify_tls12_signature
        };
        verify(
            message,
            certificate,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        further: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(shown, further)
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(false, message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(true, message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl ClientCertVerifier for Pin {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        shown: &CertificateDer<'_>,
        further: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(shown, further)
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(false, message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(true, message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn handshake(client: &Session, server: &Session) -> (std::io::Result<()>, std::io::Result<()>) {
        let (left, right) = tokio::io::duplex(64 << 10);
        let name = ServerName::try_from(SERVER_NAME).unwrap();
        let connecting = async {
            let mut stream = tokio_rustls::TlsConnector::from(client.client.clone())
                .connect(name, left)
                .await?;
            stream.write_all(b"x").await?;
            // In TLS 1.3 a refused client learns of it when it reads.
            stream.read_u8().await.map(drop)
        };
        let accepting = async {
            let mut stream = tokio_rustls::TlsAcceptor::from(server.server.clone())
                .accept(right)
                .await?;
            stream.read_u8().await?;
            stream.write_all(b"y").await
        };
        tokio::join!(connecting, accepting)
    }

    #[tokio::test]
    async fn two_sides_that_know_each_other_connect_and_nobody_else() {
        let [host, plugin, stranger] = [(); 3].map(|()| Identity::generate().unwrap());
        let host_side = Session::new(&host, plugin.der()).unwrap();
        let plugin_side = Session::new(&plugin, host.der()).unwrap();
        let (connected, accepted) = handshake(&host_side, &plugin_side).await;
        connected.unwrap();
        accepted.unwrap();
        // A client with another certificate, and one that expects another server.
        let wrong_client = Session::new(&stranger, plugin.der()).unwrap();
        let (connected, accepted) = handshake(&wrong_client, &plugin_side).await;
        assert!(connected.is_err() && accepted.is_err());
        let wrong_pin = Session::new(&host, stranger.der()).unwrap();
        let (connected, accepted) = handshake(&wrong_pin, &plugin_side).await;
        assert!(connected.is_err() && accepted.is_err());
    }

    #[tokio::test]
    async fn showing_the_right_certificate_without_its_key_is_not_enough() {
        let [host, plugin, thief] = [(); 3].map(|()| Identity::generate().unwrap());
        // rustls itself checks that a key fits its certificate, so the thief is put together by hand.
        let stolen = Identity {
            certificate: host.certificate.clone(),
            pem: host.pem.clone(),
            key_der: thief.key_der.clone(),
        };
        let refused = Session::new(&stolen, plugin.der()).is_err();
        assert!(refused, "the library noticed already");
    }

    #[test]
    fn pem_and_der_are_the_same_certificate() {
        let identity = Identity::generate().unwrap();
        assert_eq!(certificate_of_pem(identity.pem()).unwrap(), identity.der());
        assert!(matches!(certificate_of_pem("hello"), Err(TlsError::Peer(_))));
        assert!(matches!(Session::new(&identity, b"junk"), Err(TlsError::Peer(_))));
    }
}
