//! Why a probe fails: one table of labels, meanings and remedies, from which wsecho-probe(1) is
//! generated.
//!
//! Owns every failure. What was seen of one is found by its stage and comes before what it means.

use super::report::Stage;

/// The failure of a probe: what was seen, and what that means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// What kind of failure it is.
    pub failure: Failure,
    /// The stage at which it was seen.
    pub stage: Stage,
    /// What was seen, in one or more sentences.
    pub seen: String,
    /// What the server itself said about it, escaped and cut.
    pub quote: Option<String>,
}

impl Failed {
    /// A failure of which this was seen.
    pub(super) fn new(failure: Failure, seen: impl Into<String>) -> Self {
        Self { failure, stage: failure.stage(), seen: seen.into(), quote: None }
    }

    /// The same, with the server's own words.
    pub(super) fn quoting(self, quote: impl Into<String>) -> Self {
        Self { quote: Some(quote.into()).filter(|quote| !quote.is_empty()), ..self }
    }
}

macro_rules! failures {
    ($($name:ident $label:literal $stage:ident: $meaning:literal $remedy:literal)*) => {
        /// The kinds of failure. Their labels are stable.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Failure {
            $(#[doc = $meaning] $name,)*
        }

        impl Failure {
            /// All of them, in the order of the stages.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The stable name in reports and metrics.
            #[must_use]
            pub fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }

            /// The stage that it belongs to; those of the echo may also come later.
            #[must_use]
            pub fn stage(self) -> Stage {
                match self { $(Self::$name => Stage::$stage,)* }
            }

            /// What it means, with "probably" where that is a guess.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$name => $meaning,)* }
            }

            /// What to do next.
            #[must_use]
            pub fn remedy(self) -> &'static str {
                match self { $(Self::$name => $remedy,)* }
            }
        }
    };
}

failures! {
    NoSuchName "no_such_name" Resolve:
        "The name does not exist, or not in the DNS that this host asks."
        "Check the spelling; compare `getent hosts NAME` here and elsewhere. --resolve HOST:IP does without DNS."
    NoAddress "no_address" Resolve:
        "The name exists, but has no address of a usable family."
        "Add an A or AAAA record, or leave out -4 or -6."
    ResolverFailed "resolver_failed" Resolve:
        "The resolver of this host does not work, or the name's own DNS servers do not."
        "Check /etc/resolv.conf and `getent hosts NAME`. --resolve HOST:IP does without DNS."
    Refused "tcp_refused" Tcp:
        "The host is up, but nothing listens on this port, or a firewall rejects it."
        "Check with `ss -ltn` on the server that something listens there, and not on 127.0.0.1 only."
    TcpTimeout "tcp_timeout" Tcp:
        "Packets are dropped on the way, probably by a firewall or security group, or the host is down."
        "Open the port in the firewalls on the way: on the server, `firewall-cmd --list-all` or `nft list ruleset`."
    Unreachable "tcp_unreachable" Tcp:
        "There is no route to the host, or a firewall says so."
        "Compare `ip route get ADDRESS` here; try -4 or -6."
    SocketMissing "unix_missing" Tcp:
        "There is no such Unix socket, or nobody listens on it."
        "Check the path, and that the service runs."
    SocketDenied "unix_denied" Tcp:
        "This user may not connect to the Unix socket."
        "Probe as a user of the socket's group, or change its mode (unix_mode)."
    ConnectFailed "tcp_failed" Tcp:
        "The system could not connect for another reason."
        "See the error above."
    TunnelUnreachable "proxy_unreachable" Tcp:
        "The HTTP proxy that this host uses for outgoing connections cannot be reached."
        "Check --proxy, or HTTPS_PROXY and HTTP_PROXY; NO_PROXY names hosts that need none."
    TunnelAuth "proxy_auth" Tcp:
        "The outgoing HTTP proxy wants a user and a password, or refuses those given."
        "Write --proxy http://USER:PASSWORD@HOST:PORT, with special characters percent-encoded."
    TunnelRefused "proxy_refused" Tcp:
        "The outgoing HTTP proxy does not open a tunnel to this host and port."
        "Let it CONNECT there (in Squid: SSL_ports and the http_access rules), or list the host in NO_PROXY."
    TunnelBroken "proxy_broken" Tcp:
        "What --proxy or the environment names does not answer CONNECT as an HTTP proxy does."
        "Check its address and port, and that it is an HTTP proxy, not a SOCKS one."
    NotTls "tls_not_spoken" Tls:
        "This port does not speak TLS."
        "Use ws:// if that is meant, the port of the TLS listener, or turn TLS on there (nginx: `listen 443 ssl;`)."
    TlsVersion "tls_version" Tls:
        "The server only offers TLS 1.1 or older, which clients of today refuse."
        "Turn on TLS 1.2 and 1.3 there (nginx: `ssl_protocols TLSv1.2 TLSv1.3;`)."
    TlsNoCommon "tls_no_common" Tls:
        "Both sides speak TLS, but share no cipher, curve or signature; over TLS 1.2 the server may also want a client certificate."
        "Allow ECDHE with AES-GCM or ChaCha20 and a P-256 or RSA key of 2048 bits there; give --cert and --key where they are due."
    TlsAlpn "tls_alpn" Tls:
        "The server does not take HTTP/1.1 by ALPN on this port, without which WebSockets do not open everywhere."
        "Allow http/1.1 beside h2 (HAProxy: `alpn h2,http/1.1`)."
    TlsClosed "tls_closed" Tls:
        "Something ends the connection in the middle of the TLS handshake: probably a firewall that filters by name, a server without a certificate for it, or a listener that expects a PROXY header."
        "Read the server's error log; try --proxy-protocol v2 where a load balancer usually comes first."
    TlsTimeout "tls_timeout" Tls:
        "The port is open, but no TLS handshake follows: probably a full or stopped server, or a path that drops large packets."
        "Check that the server accepts (`ss -ltn`: Recv-Q near 0), and the path's MTU."
    TlsAlert "tls_failed" Tls:
        "The TLS handshake fails for another reason."
        "The server's error log says the same from its side."
    CertificateExpired "cert_expired" Tls:
        "Every client refuses this certificate."
        "Renew it, and reload the server: the old one stays in memory until then."
    CertificateTooEarly "cert_not_yet_valid" Tls:
        "The certificate is not valid yet, or a clock is wrong."
        "Compare `date -u` here and there."
    CertificateName "cert_name" Tls:
        "The certificate is for other names, so every client refuses it."
        "Use one of its names, issue one for this name, or check that the server picks it by SNI (server_name)."
    CertificateSelfSigned "cert_self_signed" Tls:
        "Nobody but the server itself vouches for the certificate."
        "Give it with --ca FILE to trust it here; browsers want one from a CA."
    CertificateIncomplete "cert_incomplete" Tls:
        "The server sends its certificate without the intermediate one; browsers often know it from elsewhere, other clients fail."
        "Serve the whole chain (nginx: the file in ssl_certificate with both, the server's first)."
    CertificateUnknownIssuer "cert_unknown_issuer" Tls:
        "The CA that signed the chain is not trusted on this host."
        "Give its certificate with --ca FILE, or install it (EL: /etc/pki/ca-trust/source/anchors, update-ca-trust)."
    CertificateUnsuitable "cert_unsuitable" Tls:
        "The certificate is of a kind that clients refuse."
        "Issue one for TLS servers: X.509 v3, SHA-256, RSA of 2048 bits or P-256."
    ClientCertificate "client_cert_required" Tls:
        "The server admits only clients with a certificate."
        "Give --cert FILE and --key FILE."
    ClientCertificateRefused "client_cert_refused" Tls:
        "The server does not accept the client certificate given."
        "Check that a CA that the server trusts has signed it, and its dates."
    NoRoots "no_roots" Tls:
        "This host has no root certificates to judge a server by."
        "Install ca-certificates, or give --ca FILE."
    PlainToTls "plain_to_tls" Http:
        "This port speaks TLS."
        "Use wss:// instead of ws://."
    HttpTimeout "http_timeout" Http:
        "The connection is open, but the request is not answered: probably the proxy waits for a backend, or holds back the upgrade as it does not know it."
        "Probe the backend itself from the proxy's host; read the proxy's error log."
    HttpClosed "http_closed" Http:
        "The connection was ended instead of an answer: probably by a listener that expects a PROXY header or TLS, or by a crash."
        "Read the error log there; try --proxy-protocol v2 where a load balancer usually comes first."
    NotHttp "not_http" Http:
        "Something else than HTTP listens here."
        "Check the port."
    BadRedirect "bad_redirect" Http:
        "A redirect leads nowhere that can be probed."
        "Correct its Location."
    Redirected "redirected" Http:
        "Browsers follow no redirect when they open a WebSocket."
        "Use the address it leads to, or --follow to probe that."
    RedirectLoop "redirect_loop" Http:
        "The redirects go on and on."
        "Correct them on the server; HTTP and HTTPS often redirect to each other behind a proxy that ends TLS."
    RefusedByWsecho "refused_by_wsecho" Http:
        "The path leads to wsecho, which says what is wrong."
        "Follow what it says."
    UpgradeIgnored "upgrade_ignored" Http:
        "The request was answered as an ordinary one: probably the proxy does not pass `Upgrade` and `Connection` on, or the path is no WebSocket endpoint."
        "Check the path; in nginx, next to proxy_pass: `proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection \"upgrade\";`. `wsecho snippet nginx|haproxy|apache` prints the whole."
    BadRequest "http_400" Http:
        "The request arrived changed or is not what the server expects: probably the proxy dropped `Upgrade` or `Connection`, or sends another `Host`."
        "Compare with a probe of the backend itself; -v shows both heads."
    Unauthorized "http_401" Http:
        "The server wants credentials."
        "Give them with --header 'Authorization: …' or --header 'Cookie: …'."
    Forbidden "http_403" Http:
        "The server or a firewall for web applications refuses this client: probably its origin, its address, or missing credentials."
        "Try --origin https://SITE as its pages send it; behind Envoy, allow `upgrade_type: websocket`."
    NotFound "http_404" Http:
        "Nothing answers at this path: probably it is not the endpoint's, or a proxy changes it."
        "Check the path; in nginx, a path or slash behind proxy_pass replaces what `location` matches."
    MethodRefused "http_405" Http:
        "The path exists, but takes no GET: it is probably no WebSocket endpoint."
        "Check the path."
    UpgradeRequired "http_426" Http:
        "The server speaks WebSocket, but saw no complete upgrade: probably the proxy in front dropped `Upgrade` or `Connection`."
        "In nginx, next to proxy_pass: `proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection \"upgrade\";`."
    TooMany "http_429" Http:
        "The server limits how often or how many times this client may connect."
        "Probe less often, or raise the limit for this address."
    BadGateway "http_502" Http:
        "The proxy is alive, but cannot use its backend: it is not running, or listens elsewhere; on EL, SELinux often forbids the proxy to connect."
        "Read the proxy's error log. For \"Permission denied\" there: `setsebool -P httpd_can_network_connect 1`."
    Unavailable "http_503" Http:
        "The proxy has no backend that is up, or the server is full or stopping."
        "Check the backend's health checks in the proxy, and the backend's own log."
    GatewayTimeout "http_504" Http:
        "The proxy waits for a backend that does not answer: probably a firewall between them, or a stuck server."
        "Probe the backend itself from the proxy's host."
    ServerError "http_5xx" Http:
        "The server failed at this request."
        "Read its error log."
    OtherStatus "http_other" Http:
        "This is no answer to a WebSocket handshake."
        "Check the path, and what answers there: -v shows both heads."
    AcceptMissing "accept_missing" Upgrade:
        "Who answered 101 does not speak WebSocket, or a proxy drops the header; every client refuses this."
        "Pass the backend's headers on unchanged."
    AcceptWrong "accept_wrong" Upgrade:
        "The answer belongs to another request: probably a cache, or a server that computes it wrongly; every client refuses this."
        "Switch caching off for this path; correct the server."
    UpgradeMissing "upgrade_header_missing" Upgrade:
        "The answer lacks `Upgrade: websocket`, so clients refuse it: probably a proxy drops it on the way back."
        "Pass the backend's Upgrade on unchanged."
    ConnectionMissing "connection_header_missing" Upgrade:
        "The answer lacks `Connection: Upgrade`, so clients refuse it: probably a proxy replaces it on the way back."
        "Pass the backend's Connection on unchanged."
    Http10 "upgrade_http_1_0" Upgrade:
        "HTTP/1.0 knows no upgrade, so clients refuse the answer."
        "Have the proxy or server answer with HTTP/1.1."
    ExtensionUnasked "extension_not_offered" Upgrade:
        "The answer agrees to an extension that was not offered, or in a form that was not; clients refuse this: probably a proxy rewrote the offer."
        "Pass Sec-WebSocket-Extensions on unchanged, in both directions."
    SubprotocolUnasked "subprotocol_not_offered" Upgrade:
        "The answer names a subprotocol that was not offered; clients refuse this."
        "Give the server's with --subprotocol, or have it choose among those offered."
    SubprotocolIgnored "subprotocol_ignored" Upgrade:
        "The server confirms none of the subprotocols offered; browsers then fail the connection."
        "Offer one that the server knows, or none."
    EchoLate "echo_late" Echo:
        "The message or its answer is lost or held back: probably a proxy that buffers or inspects, or a server that does not echo."
        "For a server that is no echo use --send and --expect, or --connect-only; else probe the backend itself."
    EchoAltered "echo_altered" Echo:
        "Something on the path changes messages, or the server is no echo."
        "For a server that is no echo use --send and --expect, or --connect-only; else probe the backend itself."
    EchoType "echo_type" Echo:
        "Text comes back as binary or binary as text: something on the path or the server mixes the types up."
        "Probe the backend itself."
    EchoDoubled "echo_doubled" Echo:
        "Something repeats messages: probably two backends behind one address, or a server that broadcasts."
        "Probe the backend itself."
    EchoOrder "echo_order" Echo:
        "Something reorders messages, which WebSocket forbids: probably a server that answers them in parallel."
        "Probe the backend itself."
    ExpectationUnmet "expectation_unmet" Echo:
        "No message matches --expect."
        "Compare --expect with what came."
    TooBig "message_too_big" Echo:
        "Something on the path has a limit below 70 KB for one message."
        "Raise it: `limits.max_message_size` in wsecho, max_size or maxPayload elsewhere."
    CompressionBroken "compression_broken" Echo:
        "permessage-deflate was agreed, but compressed messages do not survive: probably a proxy rewrites Sec-WebSocket-Extensions or clears RSV1."
        "Pass Sec-WebSocket-Extensions on unchanged, or remove it from requests."
    FrameBroken "frame_broken" Echo:
        "What came is not a legal frame: the server, or something that changes bytes, breaks the protocol."
        "Probe the backend itself."
    ClosedEarly "closed_early" Echo:
        "The server ended the WebSocket by itself; the code and the reason say why."
        "See the server's log."
    Cut "cut" Echo:
        "The connection was ended without a Close frame: by something in between, or by a crash of the server."
        "Read the error logs of the proxies on the way, and the server's."
    Reset "reset" Echo:
        "The connection was reset: probably by a firewall, or by a server that crashed or gave up on it."
        "Read the error logs of the proxies on the way, and the server's."
    PongLate "pong_late" Ping:
        "Pings or pongs do not get through: keep-alives by ping fail on this path."
        "Probe the backend itself; a proxy in between must pass control frames on."
    PongAltered "pong_altered" Ping:
        "A pong must carry the payload of its ping."
        "Probe the backend itself."
    CloseLate "close_late" Close:
        "The Close frame is not answered: probably a proxy does not pass it on, or the server does not end sessions properly."
        "Probe the backend itself."
    CloseAltered "close_altered" Close:
        "The Close frame was answered with another code, so applications see another reason."
        "Probe the backend itself."
    CloseCut "close_cut" Close:
        "The connection ended before the Close frame was answered, which applications see as 1006."
        "Probe the backend itself."
}
