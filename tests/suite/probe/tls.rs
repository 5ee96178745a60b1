//! TLS: what is wrong with certificates, and with what is no TLS.
//!
//! Certificates are made by openssl(1), once for all tests; without it they are skipped.

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, OnceLock};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use tempfile::TempDir;

use super::peer::{Peer, serve, serve_through};
use super::{probe, shown, verdict};
use crate::service::Outcome;

/// The failures that are tested here.
pub const LABELS: &[&str] = &[
    "tls_not_spoken",
    "tls_version",
    "tls_no_common",
    "tls_alpn",
    "tls_closed",
    "tls_timeout",
    "tls_failed",
    "cert_expired",
    "cert_not_yet_valid",
    "cert_name",
    "cert_self_signed",
    "cert_incomplete",
    "cert_unknown_issuer",
    "cert_unsuitable",
    "client_cert_required",
    "client_cert_refused",
    "no_roots",
];

/// One CA with an intermediate, and what it issues.
const MAKE: &str = r#"
set -e
cat > ca.cnf <<END
[ca]
default_ca = it
[it]
database = index
serial = serial
new_certs_dir = .
default_md = sha256
policy = any
copy_extensions = copy
unique_subject = no
[any]
commonName = supplied
[root]
basicConstraints = critical,CA:TRUE
END
: > index
echo 1000 > serial
key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1.key"; }
request() { # name, common name, extension...
    name=$1 cn=$2; shift 2
    [ -f "$name.key" ] || key "$name"
    set -- $(for extension; do echo -addext "$extension"; done)
    openssl req -new -key "$name.key" -subj "/CN=$cn" "$@" -out "$name.csr"
}
issue() { # name, issuer, from, to
    openssl ca -batch -notext -config ca.cnf -cert "$2.pem" -keyfile "$2.key" \
        -startdate "$3" -enddate "$4" -in "$1.csr" -out "$1.pem"
}
now=20200101000000Z end=20490101000000Z
key root
openssl req -new -x509 -key root.key -subj "/CN=Test Root" -days 9000 -config ca.cnf \
    -extensions root -out root.pem
request inter "Test Intermediate" basicConstraints=critical,CA:TRUE
issue inter root $now $end
names=subjectAltName=DNS:localhost,DNS:*.echo.test,IP:127.0.0.1
leaf=extendedKeyUsage=serverAuth
request good localhost $names $leaf; issue good inter $now $end
request direct localhost $names $leaf; issue direct root $now $end
request expired localhost $names $leaf; issue expired inter $now 20210101000000Z
request early localhost $names $leaf; issue early inter 20400101000000Z $end
request other other.test subjectAltName=DNS:other.test $leaf; issue other inter $now $end
request nameless localhost basicConstraints=CA:FALSE; issue nameless inter $now $end
request both other.test subjectAltName=DNS:other.test; issue both inter $now 20210101000000Z
request client localhost $names extendedKeyUsage=clientAuth; issue client inter $now $end
request aia localhost $names authorityInfoAccess=caIssuers\;URI:http://ca.test/i.cer
issue aia inter $now $end
key self
openssl req -new -x509 -key self.key -subj /CN=localhost -days 9000 -addext $names -out self.pem
key ansi
openssl req -new -x509 -key ansi.key -subj "$(printf '/CN=\033[2Jevil')" -days 9000 \
    -addext $names -out ansi.pem
for name in good expired early other nameless both client; do cat inter.pem >> $name.pem; done
cat good.pem expired.pem > cluttered.pem; cp good.key cluttered.key
# A root that expires before what it issued.
key short
openssl req -new -x509 -key short.key -subj "/CN=Short Root" -days 99 -config ca.cnf \
    -extensions root -out short.pem
request brief localhost $names $leaf; issue brief short $now $end
# A root that has expired, which clients do not mind.
request past "Past Root" basicConstraints=critical,CA:TRUE
openssl ca -batch -notext -config ca.cnf -selfsign -keyfile past.key -startdate $now \
    -enddate "$(date -u -d '60 hours ago' +%Y%m%d%H%M%SZ)" -in past.csr -out past.pem
request stale localhost $names $leaf; issue stale past $now $end
# More certificates than anybody sends, and more than fit into a handshake.
for name in padded huge; do cp good.pem $name.pem; cp good.key $name.key; done
for _ in $(seq 80); do cat inter.pem >> padded.pem; done
for _ in $(seq 400); do cat inter.pem >> huge.pem; done
"#;

/// The folder with the certificates, if openssl is there.
pub fn certificates() -> Option<&'static Path> {
    static MADE: OnceLock<Option<TempDir>> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        if Command::new("openssl").arg("version").output().is_err() {
            eprintln!("SKIPPED: openssl is missing, so no certificate can be made");
            return None;
        }
        let dir = tempfile::tempdir().expect("a folder");
        let outcome = Outcome::of(Command::new("sh").args(["-c", MAKE]).current_dir(dir.path()));
        assert_eq!(outcome.code(), 0, "{}", outcome.stderr);
        Some(dir)
    });
    made.as_ref().map(TempDir::path)
}

fn chain(path: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(path).expect("a file").collect::<Result<_, _>>().expect("PEM")
}

/// TLS with this certificate, with or without one of the client.
pub fn config(dir: &Path, name: &str, clients: bool, alpn: &[&[u8]]) -> ServerConfig {
    let key = PrivateKeyDer::from_pem_file(dir.join(name).with_extension("key")).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("there are some");
    let builder = if clients {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(chain(&dir.join("root.pem")));
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        builder.with_client_cert_verifier(verifier.build().expect("there is a root"))
    } else {
        builder.with_no_client_auth()
    };
    let mut config = builder
        .with_single_cert(chain(&dir.join(name).with_extension("pem")), key)
        .expect("they fit");
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config
}

/// Serves TLS with this certificate, and an echo or nothing behind it.
fn serve_tls(dir: &Path, name: &str, clients: bool, script: fn(&mut Peer)) -> u16 {
    let config = Arc::new(config(dir, name, clients, &[b"http/1.1"]));
    serve_through(
        move |tcp| {
            let tls = ServerConnection::new(Arc::clone(&config)).expect("it is valid");
            Box::new(StreamOwned::new(tls, tcp))
        },
        script,
    )
}

fn echo(peer: &mut Peer) {
    peer.accept("");
    peer.echo_but(|_, _, _, _| false);
}

#[test]
fn a_healthy_wss_shows_version_name_and_days_and_without_verification_the_verdict_says_so() {
    let Some(dir) = certificates() else { return };
    let root = format!("--ca={}", dir.join("root.pem").display());
    let port = serve_tls(dir, "good", false, echo);
    let outcome = Outcome::of(&mut probe(&[&root, &format!("wss://127.0.0.1:{port}/")]));
    let text = shown(&outcome, port);
    assert_eq!((outcome.code(), outcome.stderr.as_str()), (0, ""), "{text}");
    let line = text.lines().find(|line| line.contains("✓ tls")).expect("the stage");
    assert!(line.contains(" T ms  TLS 1.3, http/1.1, localhost, "), "{line}");
    assert!(line.ends_with(" days left"), "{line}");
    let (code, text) = verdict(&["--insecure", &format!("wss://127.0.0.1:{port}/")], port);
    let end = "round trip, but the certificate was not verified.";
    assert!(code == 0 && text.ends_with(end), "{text}");
    // A wildcard, through another address.
    let args = [&*root, "--resolve=a.echo.test:127.0.0.1", &format!("wss://a.echo.test:{port}/")];
    let (code, text) = verdict(&args, port);
    assert_eq!(code, 0, "{text}");
}

#[test]
fn a_load_goes_through_tls() {
    let Some(dir) = certificates() else { return };
    let port = serve_tls(dir, "good", false, echo);
    let url = format!("wss://127.0.0.1:{port}/");
    let root = format!("--ca={}", dir.join("root.pem").display());
    let args = [&*root, "--load=1", "--in-flight=3", "--message-size=70kB", "--format=json", &url];
    let outcome = Outcome::of(&mut probe(&args));
    assert_eq!((outcome.code(), outcome.stderr.as_str()), (0, ""), "{}", outcome.stdout);
    let printed: serde_json::Value = serde_json::from_str(&outcome.stdout).expect("JSON");
    let load = &printed["probes"][0]["load"];
    assert!(load["echoed"].as_u64() > Some(3) && load["echoed"] == load["sent"], "{load}");
}

#[test]
fn each_fault_of_a_certificate_is_told_apart_and_several_are_all_named() {
    let Some(dir) = certificates() else { return };
    let root = format!("--ca={}", dir.join("root.pem").display());
    let issuer = "CN=Test Intermediate";
    for (name, ca, label, seen) in [
        ("expired", &*root, "cert_expired", "The certificate expired on 2021-01-01."),
        ("early", &root, "cert_not_yet_valid", "The certificate is not valid before 2040-01-01."),
        ("other", &root, "cert_name", "The certificate is not for 127.0.0.1, but for other.test."),
        (
            "nameless",
            &root,
            "cert_name",
            "The certificate names no host in subjectAltName (its subject is CN=localhost).",
        ),
        ("self", &root, "cert_self_signed", "The certificate is self-signed (CN=localhost)."),
        (
            "aia",
            &root,
            "cert_incomplete",
            &format!("The server sends only its own certificate, issued by {issuer}."),
        ),
        (
            "good",
            &format!("--ca={}", dir.join("self.pem").display()),
            "cert_unknown_issuer",
            "The issuer is not trusted: CN=Test Root.",
        ),
        (
            "client",
            &root,
            "cert_unsuitable",
            "The certificate was rejected: invalid peer certificate: certificate does not allow \
             extended key usage for server authentication, allows client authentication.",
        ),
        (
            "both",
            &format!("--ca={}", dir.join("self.pem").display()),
            "cert_expired",
            "The certificate expired on 2021-01-01. The certificate is not for 127.0.0.1, but for \
             other.test. The issuer is not trusted: CN=Test Root.",
        ),
    ] {
        // Nothing but a handshake is sent to such a server.
        let port = serve_tls(dir, name, false, |peer| assert!(peer.take(1).is_none()));
        let (code, text) = verdict(&[ca, &format!("wss://127.0.0.1:{port}/")], port);
        assert_eq!((code, text), (1, format!("wss://127.0.0.1:PORT/: {seen} ({label})")), "{name}");
        let insecure = serve_tls(dir, name, false, echo);
        let (code, text) = verdict(&["-k", &format!("wss://127.0.0.1:{insecure}/")], insecure);
        assert_eq!(code, 0, "{name}: {text}");
    }
}

#[test]
fn a_refused_certificate_is_still_shown() {
    let Some(dir) = certificates() else { return };
    let root = format!("--ca={}", dir.join("root.pem").display());
    let port = serve_tls(dir, "other", false, Peer::wait);
    let outcome = Outcome::of(&mut probe(&[&root, &format!("wss://127.0.0.1:{port}/")]));
    let text = shown(&outcome, port);
    let line = text.lines().find(|line| line.contains("✗ tls")).expect("the stage");
    assert!(line.contains("TLS 1.3, http/1.1, other.test, ") && line.ends_with("not verified"));
}

#[test]
fn a_certificate_that_is_itself_given_with_ca_is_trusted_for_its_names_only() {
    let Some(dir) = certificates() else { return };
    let ca = format!("--ca={}", dir.join("self.pem").display());
    let port = serve_tls(dir, "self", false, echo);
    let (code, text) = verdict(&[&ca, &format!("wss://127.0.0.1:{port}/")], port);
    assert_eq!(code, 0, "{text}");
    let args = [&*ca, "--resolve=b.test:127.0.0.1", &format!("wss://b.test:{port}/")];
    let (code, text) = verdict(&args, port);
    assert!(code == 1 && text.ends_with("(cert_name)"), "{text}");
}

/// As blackbox_exporter counts: the root expires, too, and what was not verified has no chain.
#[test]
fn the_expiry_of_the_verified_chain_counts_its_root_and_leaves_out_what_is_not_part_of_it() {
    let Some(dir) = certificates() else { return };
    let date = |name: &str| {
        let mut openssl = Command::new("openssl");
        let pem = dir.join(name).with_extension("pem");
        openssl.args(["x509", "-noout", "-enddate", "-dateopt", "iso_8601", "-in"]).arg(pem);
        let text = Outcome::of(&mut openssl).stdout;
        let date = text.trim().strip_prefix("notAfter=").expect("a date").to_owned();
        let mut date_in_seconds = Command::new("date");
        let seconds = Outcome::of(date_in_seconds.args(["+%s", "--date", &date])).stdout;
        seconds.trim().parse::<u64>().expect("seconds")
    };
    let metric = |name: &str, args: &[&str]| {
        let port = serve_tls(dir, name, false, echo);
        let url = format!("wss://127.0.0.1:{port}/");
        let outcome = Outcome::of(&mut probe(&[args, &["--format=prometheus", &url]].concat()));
        let line = |metric: &str| -> Option<u64> {
            let line = outcome.stdout.lines().find(|it| it.starts_with(&format!("{metric}{{")))?;
            line.rsplit(' ').next()?.parse().ok()
        };
        (
            line("probe_ssl_last_chain_expiry_timestamp_seconds"),
            line("probe_ssl_earliest_cert_expiry"),
        )
    };
    let root = format!("--ca={}", dir.join("root.pem").display());
    let itself = format!("--ca={}", dir.join("self.pem").display());
    // The root is valid for 9000 days, and what it issued until 2049.
    assert!(date("root") > date("good"));
    assert_eq!(metric("good", &[&root]), (Some(date("good")), Some(date("good"))));
    // An expired certificate that is not part of the chain counts as sent only.
    assert_eq!(metric("cluttered", &[&root]), (Some(date("good")), Some(date("expired"))));
    assert_eq!(
        metric("brief", &[&format!("--ca={}", dir.join("short.pem").display())]).0,
        Some(date("short"))
    );
    assert_eq!(metric("self", &[&itself]).0, Some(date("self")));
    assert_eq!(metric("good", &["--insecure"]).0, None);
    assert_eq!(metric("good", &[&itself]).0, None);
}

#[test]
fn an_expired_certificate_that_nothing_needs_is_named_and_raises_no_alarm_about_the_chain() {
    let Some(dir) = certificates() else { return };
    let root = format!("--ca={}", dir.join("root.pem").display());
    let port = serve_tls(dir, "cluttered", false, echo);
    let url = format!("wss://127.0.0.1:{port}/");
    let outcome = Outcome::of(&mut probe(&[&root, "--format=nagios", "--warn=days=1000", &url]));
    assert!(!outcome.stdout.contains("days is"), "{}", outcome.stdout);
    let outcome = Outcome::of(&mut probe(&[&root, &url]));
    let warning =
        "The server also sends an expired certificate, which nothing needs: CN=localhost.";
    assert!(outcome.stdout.contains(warning), "{}", outcome.stdout);
    assert!(!outcome.stdout.contains("A certificate expires"), "{}", outcome.stdout);
}

#[test]
fn a_root_that_has_expired_is_said_to_have_expired() {
    let Some(dir) = certificates() else { return };
    let root = format!("--ca={}", dir.join("past.pem").display());
    let port = serve_tls(dir, "stale", false, echo);
    let url = format!("wss://127.0.0.1:{port}/");
    for format in ["--format=terminal", "--format=nagios", "--format=json"] {
        let outcome = Outcome::of(&mut probe(&[&root, format, &url]));
        let warning = "A certificate expired 3 days ago: the root.";
        assert!(outcome.stdout.contains(warning), "{}", outcome.stdout);
    }
}

#[test]
fn client_certificates_are_asked_for_refused_and_accepted() {
    let Some(dir) = certificates() else { return };
    let root = format!("--ca={}", dir.join("root.pem").display());
    let port = serve_tls(dir, "good", true, echo);
    let url = format!("wss://127.0.0.1:{port}/");
    let (code, text) = verdict(&[&root, &url], port);
    let seen = "The server closed TLS with the alert CertificateRequired. (client_cert_required)";
    assert_eq!((code, text), (1, format!("wss://127.0.0.1:PORT/: {seen}")));
    for (name, code, end) in [("client", 0, "round trip."), ("self", 1, "(client_cert_refused)")] {
        let pem = format!("--cert={}", dir.join(name).with_extension("pem").display());
        let key = format!("--key={}", dir.join(name).with_extension("key").display());
        let (exit, text) = verdict(&[&root, &pem, &key, &url], port);
        assert!(exit == code && text.ends_with(end), "{text}");
    }
    let pem = format!("--cert={}", dir.join("client.pem").display());
    let outcome =
        Outcome::of(&mut probe(&[&pem, "--key", dir.join("self.key").to_str().unwrap(), &url]));
    assert_eq!(outcome.code(), 2, "a key of another certificate: {}", outcome.stdout);
}

#[test]
fn without_roots_the_path_is_named() {
    let mut command = probe(&["-q", "wss://127.0.0.1:1/"]);
    let port = serve(Peer::wait);
    command.arg(format!("wss://127.0.0.1:{port}/"));
    command.env("SSL_CERT_FILE", "/nonexistent/roots.pem").env_remove("SSL_CERT_DIR");
    let outcome = Outcome::of(&mut command);
    let last = outcome.stdout.lines().last().unwrap_or_default();
    assert!(last.contains("/nonexistent/roots.pem") && last.ends_with(" (no_roots)"), "{last}");
}

#[test]
fn what_is_no_handshake_is_told_apart() {
    let alert = |code: u8| {
        move |peer: &mut Peer| {
            peer.say([0x15, 3, 3, 0, 2, 2, code]);
            peer.linger();
        }
    };
    let seen = |alert| format!("The server aborted the TLS handshake with the alert {alert}.");
    for (label, port, seen) in [
        ("tls_version", serve(alert(70)), seen("ProtocolVersion")),
        ("tls_no_common", serve(alert(40)), seen("HandshakeFailure")),
        ("tls_alpn", serve(alert(120)), seen("NoApplicationProtocol")),
        ("tls_failed", serve(alert(80)), seen("InternalError")),
        (
            "tls_not_spoken",
            serve(|peer| {
                peer.say("HTTP/1.1 400 Bad Request\r\n\r\n");
                peer.linger();
            }),
            "The answer to the TLS handshake is not TLS.".to_owned(),
        ),
        (
            "tls_not_spoken",
            serve(|peer| {
                peer.say("SSH-2.0-OpenSSH_7.4\r\n");
                peer.linger();
            }),
            "The answer to the TLS handshake is not TLS.".to_owned(),
        ),
        (
            "tls_closed",
            serve(Peer::linger),
            "The server closed the connection during the TLS handshake.".to_owned(),
        ),
        (
            "tls_closed",
            serve(|peer| {
                peer.take(1);
                peer.reset();
            }),
            "The connection was reset during the TLS handshake.".to_owned(),
        ),
        (
            "tls_timeout",
            serve(Peer::wait),
            "The TLS handshake did not finish in time; 0 bytes were received.".to_owned(),
        ),
    ] {
        let url = format!("wss://127.0.0.1:{port}/");
        let (code, text) = verdict(&["-k", "-t", "700ms", &url], port);
        assert_eq!((code, text), (1, format!("wss://127.0.0.1:PORT/: {seen} ({label})")));
    }
}
