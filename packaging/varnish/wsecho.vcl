# Varnish in front of wsecho: /etc/varnish/default.vcl, or the parts of it that yours lacks; then
# run `varnishd -C -f /etc/varnish/default.vcl` and `varnishreload`. For Varnish 6.0 and newer.
#
# Two limits cannot be set here, only on varnishd's command line (`systemctl edit varnish`):
#   -p pipe_timeout=3600      by default Varnish cuts a connection that has been silent for 60 s
#   -p thread_pool_max=5000   each session takes a thread; by default there are 2 pools of up to 5000
# Lines that start with # and no space are ready to be uncommented.

vcl 4.1;

backend wsecho {
    .host = "127.0.0.1";
    .port = "8888";
    # For the answer to a handshake.
    .first_byte_timeout = 30s;
}

sub vcl_recv {
    # Who the client is; Varnish appends to X-Forwarded-For itself. A client can forge the headers
    # cleared here, and if headers disagree, wsecho believes none.
    set req.http.X-Forwarded-Proto = "http";
    # Instead, if all clients come through a proxy in front that ends TLS:
    #set req.http.X-Forwarded-Proto = "https";
    unset req.http.X-Forwarded-Host;
    unset req.http.X-Real-IP;
    unset req.http.Forwarded;

    # Under a prefix:
    #set req.url = regsub(req.url, "^/ws/", "/");
    set req.backend_hint = wsecho;
    if (req.http.Upgrade ~ "(?i)websocket") { return (pipe); }
    return (pass);
}

sub vcl_pipe {
    # Without these lines Varnish drops both headers.
    set bereq.http.Upgrade = req.http.Upgrade;
    set bereq.http.Connection = req.http.Connection;
}
