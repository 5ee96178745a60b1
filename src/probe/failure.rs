//! Why a probe fails: one table of labels, meanings and remedies, from which wsecho-probe(1) is
//! generated.
//!
//! Owns every failure. What was seen of one is found by its stage and comes before what it means.

use super::report::Stage;
use crate::ws::handshake::split_label;

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

    /// What wsecho itself says, if it is wsecho that refused: its text, and its label.
    #[must_use]
    pub fn diagnosis(&self) -> Option<(&str, &str)> {
        let quote = self.quote.as_deref().filter(|_| self.failure == Failure::RefusedByWsecho)?;
        split_label(quote)
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
        "The name does not exist, at least not in the DNS that this host uses."
        "Check the spelling, and compare `getent hosts NAME` here and elsewhere; --resolve HOST:IP bypasses DNS."
    NoAddress "no_address" Resolve:
        "The name exists, but has no address of the family that was asked for."
        "Add an A or AAAA record, or drop -4 or -6."
    ResolverFailed "resolver_failed" Resolve:
        "Either this host's resolver or the name servers of the domain do not work."
        "Check /etc/resolv.conf and `getent hosts NAME`; --resolve HOST:IP bypasses DNS."
    Refused "tcp_refused" Tcp:
        "The host is up, but nothing listens on this port, or a firewall rejects the connection."
        "Run `ss -ltn` on the server: something must listen on this port, and not only on 127.0.0.1."
    TcpTimeout "tcp_timeout" Tcp:
        "Probably a firewall or security group drops the packets, or the host is down."
        "Open the port in every firewall on the path; on the server, see `firewall-cmd --list-all` or `nft list ruleset`."
    Unreachable "tcp_unreachable" Tcp:
        "There is no route to the host, or a firewall rejects the connection."
        "Check `ip route get ADDRESS`, or try the other family with -4 or -6."
    SocketMissing "unix_missing" Tcp:
        "The Unix socket does not exist, or nothing listens on it any more."
        "Check the path, and that the service is running."
    SocketDenied "unix_denied" Tcp:
        "This user has no permission to connect to the Unix socket."
        "Run the probe as a member of the socket's group, or change the mode of the socket (unix_mode)."
    ConnectFailed "tcp_failed" Tcp:
        "The connection failed for the reason above."
        "Check the address and the network of this host."
    TunnelUnreachable "proxy_unreachable" Tcp:
        "The HTTP proxy for outgoing connections cannot be reached."
        "Check --proxy, or HTTPS_PROXY and HTTP_PROXY; hosts in NO_PROXY are reached directly."
    TunnelAuth "proxy_auth" Tcp:
        "The HTTP proxy for outgoing connections requires a user and password, or rejects those it got."
        "Use --proxy http://USER:PASSWORD@HOST:PORT, with special characters percent-encoded."
    TunnelRefused "proxy_refused" Tcp:
        "The HTTP proxy for outgoing connections refuses to open a tunnel to this host and port."
        "Allow CONNECT to it (in Squid: SSL_ports and http_access), or add the host to NO_PROXY."
    TunnelBroken "proxy_broken" Tcp:
        "Whatever --proxy or the environment names is not a working HTTP proxy."
        "Check its address and port; SOCKS proxies and https:// proxies are not supported."
    NotTls "tls_not_spoken" Tls:
        "This port does not speak TLS."
        "Use ws:// or another port, or enable TLS there (nginx: `listen 443 ssl;`)."
    TlsVersion "tls_version" Tls:
        "The server supports no TLS version above 1.1, and current clients require 1.2."
        "Enable TLS 1.2 and 1.3 on the server (nginx: `ssl_protocols TLSv1.2 TLSv1.3;`)."
    TlsNoCommon "tls_no_common" Tls:
        "Client and server have no cipher, curve or signature algorithm in common."
        "Allow ECDHE with AES-GCM or ChaCha20 on the server, with an RSA key of 2048 bits or more, or P-256; if it requires a client certificate, use --cert and --key."
    TlsAlpn "tls_alpn" Tls:
        "The server refuses HTTP/1.1 in ALPN, which most WebSocket clients need."
        "Allow http/1.1 next to h2 (HAProxy: `alpn h2,http/1.1`)."
    TlsClosed "tls_closed" Tls:
        "Probably a firewall filters by server name, the server has no certificate for this name, or the listener expects a PROXY header."
        "Read the server's error log; if it sits behind a load balancer, try --proxy-protocol v2."
    TlsTimeout "tls_timeout" Tls:
        "Probably the server is overloaded or stopped, or the path drops large packets."
        "On the server, check Recv-Q of the listener in `ss -ltn`; check the MTU of the path."
    TlsAlert "tls_failed" Tls:
        "The TLS handshake failed for the reason above."
        "Read the server's error log, which has its side of the story."
    CertificateExpired "cert_expired" Tls:
        "No client accepts an expired certificate."
        "Renew the certificate, then reload the server: it keeps the old one in memory."
    CertificateTooEarly "cert_not_yet_valid" Tls:
        "The certificate is not valid yet, or one of the clocks is wrong."
        "Compare `date -u` on both hosts."
    CertificateName "cert_name" Tls:
        "No client accepts a certificate for another name."
        "Connect to a name in the certificate, have one issued for this name, or fix the server's choice by SNI (server_name)."
    CertificateSelfSigned "cert_self_signed" Tls:
        "No client trusts a self-signed certificate unless it is told to."
        "Pass it with --ca FILE to trust it here; for browsers, get one from a CA."
    CertificateIncomplete "cert_incomplete" Tls:
        "The intermediate certificate is missing. Browsers often find it by themselves; other clients fail."
        "Serve the full chain, the server's certificate first (nginx: ssl_certificate)."
    CertificateUnknownIssuer "cert_unknown_issuer" Tls:
        "This host does not trust the CA that issued the certificate, or an intermediate certificate is missing."
        "Pass the CA's certificate with --ca FILE, or install it (EL: copy it to /etc/pki/ca-trust/source/anchors, then run update-ca-trust)."
    CertificateUnsuitable "cert_unsuitable" Tls:
        "Clients reject this kind of certificate."
        "Issue an X.509 v3 certificate for TLS servers, signed with SHA-256, with an RSA key of 2048 bits or more, or P-256."
    ClientCertificate "client_cert_required" Tls:
        "The server requires a client certificate."
        "Pass one with --cert FILE and --key FILE."
    ClientCertificateRefused "client_cert_refused" Tls:
        "The server rejects this client certificate."
        "Check its dates, and that the server trusts the CA that issued it."
    NoRoots "no_roots" Tls:
        "This host has no root certificates to verify the server with."
        "Install the package ca-certificates, or use --ca FILE."
    PlainToTls "plain_to_tls" Http:
        "This port speaks TLS."
        "Use wss:// instead of ws://."
    HttpTimeout "http_timeout" Http:
        "Probably the proxy is waiting for its backend, or does not support upgrades."
        "Probe the backend directly from the proxy's host, and read the proxy's error log."
    HttpClosed "http_closed" Http:
        "Probably the listener expects TLS or a PROXY header, or the server crashed."
        "Read the server's error log; if it sits behind a load balancer, try --proxy-protocol v2."
    NotHttp "not_http" Http:
        "Something other than HTTP/1.1 listens on this port."
        "Check the port."
    BadRedirect "bad_redirect" Http:
        "The redirect does not lead to a URL that can be probed."
        "Correct its Location."
    Redirected "redirected" Http:
        "Browsers do not follow redirects when they open a WebSocket."
        "Use the URL that the redirect leads to, or --follow to probe it."
    RedirectLoop "redirect_loop" Http:
        "The redirects do not end."
        "Correct them; a common cause is a redirect to HTTPS behind a proxy that terminates TLS."
    RefusedByWsecho "refused_by_wsecho" Http:
        "The request reached wsecho, whose answer says what is wrong."
        "Do what it says."
    UpgradeIgnored "upgrade_ignored" Http:
        "The request was treated as an ordinary one: probably a proxy drops `Upgrade` and `Connection`, or the path is not a WebSocket endpoint."
        "Check the path, and the proxy's configuration: `wsecho snippet nginx` (or haproxy, apache) prints a complete one."
    BadRequest "http_400" Http:
        "Probably a proxy drops `Upgrade` or `Connection`, or replaces `Host`."
        "Probe the backend directly to compare; -v shows both heads."
    Unauthorized "http_401" Http:
        "The server requires authentication."
        "Pass credentials with --header 'Authorization: …' or --header 'Cookie: …'."
    Forbidden "http_403" Http:
        "Probably the origin is not allowed, the client's address is blocked, or a proxy does not allow upgrades."
        "Try --origin https://SITE, as a page of that site would send it; in Envoy, add `upgrade_type: websocket`."
    NotFound "http_404" Http:
        "Probably the path is wrong, or a proxy rewrites it."
        "Check the path; in nginx, a path or slash after the upstream's name in proxy_pass replaces what `location` matches."
    MethodRefused "http_405" Http:
        "The path does not accept GET, so it is probably not a WebSocket endpoint."
        "Check the path."
    UpgradeRequired "http_426" Http:
        "The server supports WebSockets but did not see an upgrade: probably a proxy drops `Upgrade` or `Connection`."
        "Fix the proxy's configuration: `wsecho snippet nginx` (or haproxy, apache) prints a complete one."
    TooMany "http_429" Http:
        "The server limits connections, or their rate, per client."
        "Probe less often, or raise the limit for this address."
    BadGateway "http_502" Http:
        "The proxy is up but cannot use its backend, which is probably down or listens elsewhere. On EL, SELinux may forbid the proxy to connect."
        "Read the proxy's error log; if it says \"Permission denied\", run `setsebool -P httpd_can_network_connect 1`."
    Unavailable "http_503" Http:
        "The proxy considers its backends down, or the server is full or shutting down."
        "Check the proxy's health checks and the backend's log."
    GatewayTimeout "http_504" Http:
        "The backend does not answer the proxy: probably a firewall between them drops packets, or the backend hangs."
        "Probe the backend directly from the proxy's host."
    ServerError "http_5xx" Http:
        "The server failed to handle the request."
        "Read the server's error log."
    OtherStatus "http_other" Http:
        "This status is not an answer to a WebSocket handshake."
        "Check the path, and what answers there: -v shows both heads."
    AcceptMissing "accept_missing" Upgrade:
        "Every client rejects this answer. Probably a proxy drops the header, or whatever answers is not a WebSocket server."
        "Make the proxy forward the backend's headers unchanged."
    AcceptWrong "accept_wrong" Upgrade:
        "Every client rejects this answer. Probably a cache returns the answer to another request, or the server computes the value wrongly."
        "Disable caching for this path, or fix the server."
    UpgradeMissing "upgrade_header_missing" Upgrade:
        "Clients reject a 101 without `Upgrade: websocket`. Probably a proxy drops it from the answer."
        "Make the proxy forward the backend's `Upgrade`."
    ConnectionMissing "connection_header_missing" Upgrade:
        "Clients reject a 101 without `Connection: Upgrade`. Probably a proxy replaces it in the answer."
        "Make the proxy forward the backend's `Connection`."
    Http10 "upgrade_http_1_0" Upgrade:
        "HTTP/1.0 has no upgrades, so clients reject this answer."
        "Make the server or proxy answer with HTTP/1.1."
    ExtensionUnasked "extension_not_offered" Upgrade:
        "Clients reject an extension that they did not offer. Probably a proxy rewrites `Sec-WebSocket-Extensions`."
        "Make the proxy forward `Sec-WebSocket-Extensions` unchanged in both directions."
    SubprotocolUnasked "subprotocol_not_offered" Upgrade:
        "Clients reject a subprotocol that they did not offer."
        "Offer the server's with --subprotocol, or make the server choose one of those offered."
    SubprotocolIgnored "subprotocol_ignored" Upgrade:
        "The server confirms none of the subprotocols, and browsers then fail the connection."
        "Offer a subprotocol that the server supports, or none."
    EchoLate "echo_late" Echo:
        "The message or its echo is lost or held back: probably a proxy buffers it, or the server is not an echo."
        "If the server is not an echo, use --send and --expect, or --connect-only; otherwise probe the backend directly."
    EchoAltered "echo_altered" Echo:
        "Something on the path changes messages, or the server is not an echo."
        "If the server is not an echo, use --send and --expect, or --connect-only; otherwise probe the backend directly."
    EchoType "echo_type" Echo:
        "Something on the path, or the server, confuses text and binary messages."
        "Probe the backend directly."
    EchoDoubled "echo_doubled" Echo:
        "Something repeats messages: probably the server broadcasts, or it answers twice."
        "Probe the backend directly."
    EchoOrder "echo_order" Echo:
        "A WebSocket keeps messages in order. Probably the server answers them in parallel."
        "Probe the backend directly."
    ExpectationUnmet "expectation_unmet" Echo:
        "No message matched --expect in time."
        "Compare --expect with what arrived; the server may need another --send, or more --timeout."
    TooBig "message_too_big" Echo:
        "The server, or something on the path, does not accept messages of 70 KB."
        "Raise its limit: `limits.max_message_size` in wsecho, maxPayload or max_size elsewhere."
    CompressionBroken "compression_broken" Echo:
        "permessage-deflate was agreed, but compressed messages do not survive. Probably a proxy rewrites `Sec-WebSocket-Extensions` or clears RSV1."
        "Make the proxy forward `Sec-WebSocket-Extensions` unchanged, or remove it from requests."
    FrameBroken "frame_broken" Echo:
        "The server, or something on the path, breaks the WebSocket protocol."
        "Probe the backend directly."
    ClosedEarly "closed_early" Echo:
        "The server ended the session; the close code and the reason say why."
        "Read the server's log."
    Cut "cut" Echo:
        "There was no Close frame: something on the path ended the connection, or the server crashed."
        "Read the logs of the server and of every proxy on the path."
    Reset "reset" Echo:
        "Probably a firewall reset the connection, or the server crashed."
        "Read the logs of the server and of every proxy on the path."
    MessagesLost "messages_lost" Echo:
        "Probably the server drops messages under load, or the path stalls for longer than --timeout."
        "Try a longer --interval and --timeout, and probe the backend directly."
    LoadStalled "load_stalled" Echo:
        "The server, or something on the path, stalls under this load or cannot keep up with it."
        "Find the load that it sustains with a lower --rate or --in-flight or fewer --connections, and watch the server's CPU."
    LoadCut "load_cut" Echo:
        "The server, or something on the path, ends sessions under load: probably a rate or memory limit, or a crash."
        "Read the logs of the server and of every proxy on the path, and probe the backend directly."
    LoadAltered "load_altered" Echo:
        "Messages that come back intact one at a time do not under load: probably the server mixes up sessions or buffers."
        "Probe the backend directly, and see whether it takes several connections or several messages in flight."
    PongLate "pong_late" Ping:
        "Pings or pongs are lost, so keep-alive by ping fails on this path."
        "Probe the backend directly; proxies must forward control frames."
    PongAltered "pong_altered" Ping:
        "A pong must carry the payload of its ping."
        "Probe the backend directly."
    CloseLate "close_late" Close:
        "Probably a proxy does not forward Close frames, or the server does not finish the closing handshake."
        "Probe the backend directly."
    CloseAltered "close_altered" Close:
        "Applications see another reason than the one that was sent."
        "Probe the backend directly."
    CloseCut "close_cut" Close:
        "Applications see close code 1006 although the session ended normally."
        "Probe the backend directly."
    Http2NotOffered "http2_not_offered" Http2:
        "The server speaks only HTTP/1.1 here, and browsers use that for WebSockets, too."
        "There is nothing to fix; to offer HTTP/2, enable it on the server (HAProxy: `alpn h2,http/1.1`)."
    Http2NotAnnounced "http2_not_announced" Http2:
        "The server does not support WebSockets over HTTP/2 (RFC 8441), and browsers open them over HTTP/1.1."
        "There is nothing to fix unless you need them: HAProxy and Envoy support them."
    Http2Failed "http2_failed" Http2:
        "Browsers that hold an HTTP/2 connection to this host fail, even where curl succeeds over HTTP/1.1."
        "Read the proxy's error log. Until this works, disable h2 there, or extended CONNECT (HAProxy: h2-workaround-bogus-websocket-clients)."
    Http2Timeout "http2_timeout" Http2:
        "Browsers that hold an HTTP/2 connection to this host wait in vain, even where curl succeeds over HTTP/1.1."
        "Read the proxy's error log. Until this works, disable h2 there, or extended CONNECT (HAProxy: h2-workaround-bogus-websocket-clients)."
    Http2Refused "http2_refused" Http2:
        "Browsers that hold an HTTP/2 connection to this host fail, even where curl succeeds over HTTP/1.1. Probably the proxy routes CONNECT elsewhere than GET, or its backend does not support it."
        "Route CONNECT as GET is routed. Until this works, disable h2 on the proxy, or extended CONNECT (HAProxy: h2-workaround-bogus-websocket-clients)."
    Http2Key "http2_key" Http2:
        "The proxy forwards the CONNECT to an HTTP/1.1 backend but adds no key, as Envoy does. Browsers that hold an HTTP/2 connection to this host fail, even where curl succeeds over HTTP/1.1."
        "Remove allow_connect from http2_protocol_options of Envoy's listener; browsers then use HTTP/1.1."
    Http2Session "http2_session" Http2:
        "Browsers that hold an HTTP/2 connection to this host fail, even where curl succeeds over HTTP/1.1."
        "Read the proxy's error log. Until this works, disable h2 there, or extended CONNECT (HAProxy: h2-workaround-bogus-websocket-clients)."
}
