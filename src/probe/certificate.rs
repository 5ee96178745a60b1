//! The certificates that a server sends: what they say, and everything that is wrong with them.
//!
//! Owns the X.509 parser. Whether a chain leads to a trusted root is for webpki to say; it names one
//! fault only, so names, dates and issuers are looked at again here.
//!
//! Source: RFC 5280, section 4.

use std::net::IpAddr;
use std::time::Duration;

use data_encoding::HEXLOWER;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, Error};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::failure::{Failed, Failure};
use super::report::{Certificate, days_until, printable};

/// The most certificates of one chain that are looked at for paths to a root, and the most of them
/// between the server's own and the root.
const MAX_SENT: usize = 10;
const MAX_PATH: usize = 4;
/// The most names that are kept of one certificate.
const MAX_NAMES: usize = 100;

/// What a certificate says.
pub(super) fn read(der: &[u8], now: UnixTime) -> Certificate {
    let sha256 = sha256(der);
    let Ok((_, certificate)) = X509Certificate::from_der(der) else {
        return Certificate { sha256, ..Certificate::default() };
    };
    let validity = certificate.validity();
    let not_after = validity.not_after.timestamp();
    Certificate {
        subject: printable(certificate.subject().to_string().as_bytes()),
        issuer: printable(certificate.issuer().to_string().as_bytes()),
        names: names(&certificate),
        not_before_unix_seconds: validity.not_before.timestamp(),
        not_after_unix_seconds: not_after,
        days_left: days_until(not_after, seconds(now)),
        serial: HEXLOWER.encode(certificate.raw_serial()),
        sha256,
    }
}

/// When a verified chain expires, its root included, in seconds of Unix time: where several paths lead
/// from the server's certificate to a root, that which lasts longest counts.
pub(super) fn last_expiry(
    chain: &[CertificateDer<'static>],
    roots: &[CertificateDer<'static>],
) -> Option<i64> {
    let read = |ders: &[CertificateDer<'static>]| -> Vec<Link> {
        ders.iter().filter_map(|der| Link::read(der)).collect()
    };
    let sent = read(&chain[..chain.len().min(MAX_SENT)]);
    let first = sent.first()?;
    if roots.contains(chain.first()?) {
        return Some(first.not_after);
    }
    first.last_expiry(&sent[1..], &read(roots), MAX_PATH)
}

/// A certificate as a part of a chain.
struct Link {
    subject: Vec<u8>,
    issuer: Vec<u8>,
    not_after: i64,
}

impl Link {
    fn read(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        Some(Self {
            subject: certificate.subject().as_raw().to_vec(),
            issuer: certificate.issuer().as_raw().to_vec(),
            not_after: certificate.validity().not_after.timestamp(),
        })
    }

    /// When the path to a root that lasts longest expires; `None` if none leads there.
    fn last_expiry(&self, sent: &[Self], roots: &[Self], depth: usize) -> Option<i64> {
        let rooted = roots.iter().filter(|it| it.subject == self.issuer).map(|it| it.not_after);
        let between = sent.iter().filter(|it| depth > 0 && it.subject == self.issuer);
        let longer = between.filter_map(|it| it.last_expiry(sent, roots, depth - 1));
        rooted.chain(longer).max().map(|above| above.min(self.not_after))
    }
}

fn seconds(time: UnixTime) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(alternative)) = certificate.subject_alternative_name() else { return Vec::new() };
    let names = alternative.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(printable(name.as_bytes())),
        GeneralName::IPAddress(bytes) => address(bytes).map(|ip| ip.to_string()),
        _ => None,
    });
    names.take(MAX_NAMES).collect()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// rustls brings a hash function, but no other name for it.
fn sha256(bytes: &[u8]) -> String {
    let hash = TLS13_AES_128_GCM_SHA256.tls13().map(|suite| suite.common.hash_provider);
    hash.map(|hash| HEXLOWER.encode(hash.hash(bytes).as_ref())).unwrap_or_default()
}

/// Everything that is wrong with a chain; `None` if a client would accept it.
///
/// `trusted` are the certificates of `--ca`: one that is the server's own needs no issuer.
pub(super) fn judge(
    chain: &[CertificateDer<'static>],
    name: &ServerName<'static>,
    verifier: &WebPkiServerVerifier,
    trusted: &[CertificateDer<'static>],
    now: UnixTime,
) -> Option<Failed> {
    let (leaf, intermediates) = chain.split_first()?;
    let verify = |now| verifier.verify_server_cert(leaf, intermediates, name, &[], now).err();
    let verdict = verify(now)?;
    let read: Vec<Certificate> = chain.iter().map(|der| read(der, now)).collect();
    let mut faults = dates(&read, now);
    let named = ParsedCertificate::try_from(leaf).and_then(|leaf| verify_server_name(&leaf, name));
    if let Err(Error::InvalidCertificate(
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
    )) = named
    {
        faults.push((Failure::CertificateName, misnamed(&read[0], name)));
    }
    if !trusted.contains(leaf) {
        // At a time at which all of them are valid, only the issuer can be wrong.
        let valid = read.iter().map(|it| it.not_before_unix_seconds).max().unwrap_or_default();
        let valid = Duration::from_secs(u64::try_from(valid).unwrap_or_default());
        let verdict = verify(UnixTime::since_unix_epoch(valid));
        faults.extend(verdict.and_then(|error| issuer(&error, &read, leaf)));
    } else if faults.is_empty() {
        return None;
    }
    if faults.is_empty() {
        faults.push((
            Failure::CertificateUnsuitable,
            format!("The certificate was rejected: {verdict}."),
        ));
    }
    let (failure, _) = faults[0];
    let seen = faults.into_iter().map(|(_, seen)| seen).collect::<Vec<_>>().join(" ");
    Some(Failed::new(failure, seen))
}

type Fault = (Failure, String);

fn dates(chain: &[Certificate], now: UnixTime) -> Vec<Fault> {
    let now = seconds(now);
    let judged = chain.iter().enumerate().filter_map(|(index, certificate)| {
        let which = if index == 0 {
            "The certificate".to_owned()
        } else {
            format!("The intermediate certificate {}", certificate.subject)
        };
        let date = |unix| date(unix).unwrap_or_default();
        if certificate.not_after_unix_seconds < now {
            let seen = format!("{which} expired on {}.", date(certificate.not_after_unix_seconds));
            Some((Failure::CertificateExpired, seen))
        } else if certificate.not_before_unix_seconds > now {
            let valid = date(certificate.not_before_unix_seconds);
            Some((Failure::CertificateTooEarly, format!("{which} is not valid before {valid}.")))
        } else {
            None
        }
    });
    judged.collect()
}

/// A date such as `2026-11-22`.
pub(super) fn date(unix_seconds: i64) -> Option<String> {
    let time = x509_parser::time::ASN1Time::from_timestamp(unix_seconds).ok()?;
    let date = time.to_datetime().date();
    Some(format!("{}-{:02}-{:02}", date.year(), u8::from(date.month()), date.day()))
}

fn misnamed(leaf: &Certificate, name: &ServerName<'static>) -> String {
    let (shown, rest) = leaf.names.split_at(leaf.names.len().min(5));
    let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
    let name = name.to_str();
    if shown.is_empty() {
        let subject = &leaf.subject;
        format!("The certificate names no host in subjectAltName (its subject is {subject}).")
    } else {
        format!("The certificate is not for {name}, but for {}{more}.", shown.join(", "))
    }
}

/// What an issuer is to blame for.
fn issuer(error: &Error, chain: &[Certificate], leaf: &CertificateDer<'_>) -> Option<Fault> {
    let Error::InvalidCertificate(kind) = error else { return None };
    let first = chain.first()?;
    let issuer = &chain.last()?.issuer;
    let self_signed = first.subject == first.issuer;
    Some(match kind {
        CertificateError::NotValidForName
        | CertificateError::NotValidForNameContext { .. }
        | CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => return None,
        _ if self_signed => {
            let seen = format!("The certificate is self-signed ({issuer}).");
            (Failure::CertificateSelfSigned, seen)
        }
        CertificateError::UnknownIssuer if chain.len() == 1 && names_issuer(leaf) => {
            let seen = format!("The server sends only its own certificate, issued by {issuer}.");
            (Failure::CertificateIncomplete, seen)
        }
        CertificateError::UnknownIssuer => {
            (Failure::CertificateUnknownIssuer, format!("The issuer is not trusted: {issuer}."))
        }
        _ => (Failure::CertificateUnsuitable, format!("The certificate was rejected: {error}.")),
    })
}

/// Whether a certificate says where its issuer's can be downloaded, as those of public CAs do: then
/// the issuer is no root.
fn names_issuer(der: &CertificateDer<'_>) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return false };
    certificate
        .extensions()
        .iter()
        .any(|it| matches!(it.parsed_extension(), ParsedExtension::AuthorityInfoAccess(_)))
}
