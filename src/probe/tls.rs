//! The TLS handshake of a client that wants to know what it is shown.
//!
//! Owns rustls. Whatever certificates come are recorded first and judged after the handshake, so that
//! version, names and dates are known of those that are refused, too; nothing but the handshake is
//! sent to such a server.
//!
//! Sources: RFC 8446; RFC 7301 for ALPN.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{
    AlertDescription, ClientConfig, DigitallySignedStruct, Error, ProtocolVersion, RootCertStore,
    SignatureScheme,
};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::certificate::{judge, last_expiry, read};
use super::failure::{Failed, Failure};
use super::report::{Tls, printable, printable_start};
use super::wire::{End, Recorded, Recorder, Stream};

/// What TLS is to use, and whether certificates count.
#[derive(Debug, Default)]
pub struct Trust {
    /// The only roots, instead of those of this host (`--ca`).
    pub roots: Option<Vec<CertificateDer<'static>>>,
    /// Whether any certificate will do (`--insecure`).
    pub insecure: bool,
    /// The certificate of this client and its key (`--cert`, `--key`).
    pub identity: Option<Arc<CertifiedKey>>,
    /// Made once, when first needed: reading the roots of a host takes time.
    anchors: OnceLock<Result<Anchors, String>>,
}

/// The roots that a chain must lead to.
#[derive(Debug)]
struct Anchors {
    roots: Vec<CertificateDer<'static>>,
    verifier: Arc<WebPkiServerVerifier>,
}

impl Trust {
    /// With nothing made yet.
    #[must_use]
    pub fn new(
        roots: Option<Vec<CertificateDer<'static>>>,
        insecure: bool,
        identity: Option<Arc<CertifiedKey>>,
    ) -> Self {
        Self { roots, insecure, identity, anchors: OnceLock::new() }
    }

    fn anchors(&self) -> Result<&Anchors, Failed> {
        let made = self.anchors.get_or_init(|| {
            let mut store = RootCertStore::empty();
            let (roots, errors) = if let Some(roots) = &self.roots {
                (roots.clone(), Vec::new())
            } else {
                let found = rustls_native_certs::load_native_certs();
                (found.certs, found.errors)
            };
            store.add_parsable_certificates(roots.iter().cloned());
            WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider())
                .build()
                .map(|verifier| Anchors { roots, verifier })
                .map_err(|error| match errors.first() {
                    Some(first) => format!("No root certificate can be read: {first}."),
                    None => format!("No root certificate is usable: {error}."),
                })
        });
        made.as_ref().map_err(|seen| Failed::new(Failure::NoRoots, seen.clone()))
    }
}

/// The only cryptography that is linked in; none is installed for the process as a whole.
pub(super) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(ring::default_provider())))
}

/// A TLS handshake on a stream. `facts` are set as soon as there are any.
pub(super) async fn handshake(
    stream: Stream,
    host: &str,
    alpn: &[&[u8]],
    trust: &Trust,
    deadline: Instant,
    facts: &mut Option<Tls>,
) -> Result<Stream, Failed> {
    let anchors = if trust.insecure { None } else { Some(trust.anchors()?) };
    let name = ServerName::try_from(host.to_owned()).map_err(|_| {
        let seen = format!("No certificate can be for {host:?}.");
        Failed::new(Failure::CertificateName, seen)
    })?;
    let witness = Arc::new(Witness::default());
    let asked = Arc::new(Identity { key: trust.identity.clone(), asked: AtomicBool::new(false) });
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| Failed::new(Failure::TlsAlert, format!("TLS cannot be used: {error}.")))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::<Witness>::clone(&witness))
        .with_client_cert_resolver(Arc::<Identity>::clone(&asked));
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let (stream, recorder) = Recorded::new(stream, usize::MAX);
    let connecting = TlsConnector::from(Arc::new(config)).connect(name.clone(), stream);
    let stream = match timeout_at(deadline, connecting).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            return Err(unspoken(&(&error).into(), &recorder, asked.was_asked(), trust));
        }
        Err(_) => {
            let came = recorder.get().received_bytes;
            let seen =
                format!("The TLS handshake did not finish in time; {came} bytes were received.");
            return Err(Failed::new(Failure::TlsTimeout, seen));
        }
    };
    let (_, session) = stream.get_ref();
    let now = UnixTime::now();
    let chain = witness.chain();
    let known = facts.insert(Tls {
        version: version(session.protocol_version()),
        cipher: session.negotiated_cipher_suite().map_or_else(String::new, |suite| {
            format!("{:?}", suite.suite()).replace("TLS13_", "TLS_")
        }),
        alpn: session.alpn_protocol().map(printable),
        chain: chain.iter().map(|der| read(der, now)).collect(),
        verified: false,
        last_expiry_unix_seconds: None,
        client_certificate_asked: asked.was_asked(),
    });
    if let Some(Anchors { roots, verifier }) = anchors {
        let trusted = trust.roots.as_deref().unwrap_or_default();
        if let Some(failed) = judge(&chain, &name, verifier, trusted, now) {
            return Err(failed);
        }
        known.verified = true;
        known.last_expiry_unix_seconds = last_expiry(&chain, roots);
    }
    Ok(Box::new(stream))
}

fn version(version: Option<ProtocolVersion>) -> String {
    match version {
        Some(ProtocolVersion::TLSv1_3) => "TLS 1.3".to_owned(),
        Some(ProtocolVersion::TLSv1_2) => "TLS 1.2".to_owned(),
        other => format!("{other:?}"),
    }
}

/// Why there was no handshake.
fn unspoken(end: &End, recorder: &Recorder, asked: bool, trust: &Trust) -> Failed {
    use AlertDescription as Alert;
    let recording = recorder.get();
    let first = printable_start(&recording.received);
    let failed = |failure, seen: &str| Failed::new(failure, seen);
    match end {
        End::Tls(Error::AlertReceived(alert)) => {
            let seen = format!("The server aborted the TLS handshake with the alert {alert:?}.");
            match alert {
                Alert::ProtocolVersion => failed(Failure::TlsVersion, &seen),
                Alert::NoApplicationProtocol => failed(Failure::TlsAlpn, &seen),
                _ if asked => failed(certificate_failure(trust), &seen),
                Alert::HandshakeFailure | Alert::InsufficientSecurity => {
                    failed(Failure::TlsNoCommon, &seen)
                }
                _ => failed(Failure::TlsAlert, &seen),
            }
        }
        End::Tls(Error::InvalidMessage(_)) if !recording.received.starts_with(&[0x16, 3]) => {
            failed(Failure::NotTls, "The answer to the TLS handshake is not TLS.").quoting(first)
        }
        End::Tls(error @ Error::InvalidCertificate(_)) => failed(
            Failure::CertificateUnsuitable,
            &format!("The certificate was rejected: {error}."),
        ),
        End::Tls(error @ Error::PeerIncompatible(_)) => {
            failed(Failure::TlsNoCommon, &format!("Client and server are incompatible: {error}."))
        }
        End::Tls(error) => failed(Failure::TlsAlert, &format!("TLS fails: {error}.")),
        End::Fin => {
            failed(Failure::TlsClosed, "The server closed the connection during the TLS handshake.")
        }
        End::Reset => {
            failed(Failure::TlsClosed, "The connection was reset during the TLS handshake.")
        }
        End::Other(error) => failed(Failure::TlsAlert, &format!("The connection fails: {error}.")),
    }
}

/// What an alert after a request for a client certificate means.
pub(super) fn certificate_failure(trust: &Trust) -> Failure {
    match trust.identity {
        None => Failure::ClientCertificate,
        Some(_) => Failure::ClientCertificateRefused,
    }
}

/// Accepts every chain and remembers it, to be judged later.
#[derive(Debug, Default)]
struct Witness(Mutex<Vec<CertificateDer<'static>>>);

impl Witness {
    fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain = std::iter::once(end_entity).chain(intermediates);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) =
            chain.map(|der| der.clone().into_owned()).collect();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &provider().signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &provider().signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// The certificate of this client, and whether the server asked for one.
#[derive(Debug)]
struct Identity {
    key: Option<Arc<CertifiedKey>>,
    asked: AtomicBool,
}

impl Identity {
    fn was_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }
}

impl ResolvesClientCert for Identity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        self.key.clone()
    }

    /// Also without one, so that the request is seen.
    fn has_certs(&self) -> bool {
        true
    }
}
