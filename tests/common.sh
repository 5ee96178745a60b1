# Shared by the suites' scripts: how peers are installed, and where. Sourced.
#
# Peers are kept outside the clone, each in a directory named after its versions: a fresh clone
# finds them again, a new machine builds them once, and a new version gets its own directory.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Python imports must not leave files in the clone.
export PYTHONDONTWRITEBYTECODE=1
cache=${XDG_CACHE_HOME:-$HOME/.cache}/wsecho-tests

# skip REASON: ends the suite as skipped; tests/run shows the reason.
skip() {
    echo "SKIPPED: $*"
    exit 77
}

# need COMMAND PACKAGE...: installs the Debian packages if COMMAND is missing.
need() {
    command -v "$1" >/dev/null || debian "${@:2}"
}

# Runs a command while no package may start its daemon, which would keep running and take a port.
# A policy of the machine's own stays in place; one that a killed run has left is replaced.
# shellcheck disable=SC2016  # the inner shell expands it
without_daemons='
    policy=/usr/sbin/policy-rc.d
    exec 9> /run/lock/wsecho-tests-policy
    flock 9
    if [ ! -e $policy ] || grep -q "^# wsecho tests" $policy; then
        trap "rm -f $policy" EXIT
        trap "exit 143" HUP INT TERM
        printf "#!/bin/sh\\n# wsecho tests: for as long as they install packages\\nexit 101\\n" > $policy
        chmod 755 $policy
    fi
    "$@" 9>&-'

# debian PACKAGE...: installs Debian packages, without starting their daemons.
debian() {
    command -v apt-get >/dev/null || skip "there is no apt-get to install $*"
    local as=()
    if [ "$(id -u)" != 0 ]; then
        sudo -n true 2>/dev/null || skip "only root can do this: apt-get install $*"
        as=(sudo -n)
    fi
    local install=("${as[@]}" env DEBIAN_FRONTEND=noninteractive sh -c "$without_daemons" -
        apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=300 "$@")
    # The package lists may be missing on a new machine, or outdated on an old one.
    "${install[@]}" || { "${as[@]}" apt-get update && "${install[@]}"; } ||
        skip "Debian's $* cannot be installed"
}

# keep NAME FUNCTION: sets $kept to a directory that FUNCTION, called with the directory, has filled
# now or in an earlier run. FUNCTION must join its commands with &&: `set -e` has no effect in a
# condition.
keep() {
    kept=$cache/$1
    mkdir -p "$cache"
    local lock
    exec {lock}>"$kept.lock"
    flock "$lock"
    if [ ! -e "$kept/.whole" ]; then
        rm -rf "$kept"
        mkdir "$kept"
        # Background processes must not inherit the lock.
        if ! "$2" "$kept" {lock}>&-; then
            rm -rf "$kept"
            skip "$1 cannot be installed: see above"
        fi
        touch "$kept/.whole"
    fi
    exec {lock}>&-
}

# key FILE...: a short name for the contents of files.
key() {
    cat "$@" | sha256sum | cut -c1-12
}

# need_clients: provides a Python with the client libraries of tests/peers: $kept/bin/python.
need_clients() {
    need_python "$root/tests/peers/requirements.txt"
}

# need_python FILE...: provides a Python with what is in these requirements: $kept/bin/python.
need_python() {
    need python3 python3
    # Debian's python3 cannot create a venv on its own.
    python3 -c 'import ensurepip' || debian python3-venv
    requirements=("$@")
    keep "python-$(python3 --version | key - "$@")" install_python
}

install_python() { # FOLDER
    python3 -m venv "$1" &&
        "$1/bin/pip" install --quiet --require-hashes "${requirements[@]/#/--requirement=}"
}

# need_ws: provides Node with `ws`: $kept/node_modules.
need_ws() {
    need node nodejs
    need npm npm
    keep "node-$(key "$root"/tests/peers/package*.json)" install_ws
}

install_ws() { # FOLDER
    cp "$root"/tests/peers/package*.json "$1" && (cd "$1" && npm ci --no-audit --no-fund)
}

# need_proxies: makes sure that nginx, HAProxy, Apache and network namespaces are available.
need_proxies() {
    # Debian installs them here, which is not in every PATH.
    PATH=$PATH:/usr/sbin
    need nginx nginx
    [ -e /usr/lib/nginx/modules/ngx_stream_module.so ] || debian libnginx-mod-stream
    need haproxy haproxy
    need apache2 apache2
    need ip iproute2
    need openssl openssl
    unshare --net --pid --fork --mount-proc true || skip "cannot create a network namespace here"
}

# need_more_proxies: makes sure that Caddy, Envoy, Varnish and lighttpd are available.
need_more_proxies() {
    need caddy caddy
    need varnishd varnish
    need lighttpd lighttpd
    [ -e /usr/lib/lighttpd/mod_openssl.so ] || debian lighttpd-mod-openssl
    need_python "$root/tests/proxy/envoy.txt"
    PATH=$kept/bin:$PATH
}

# in_namespace COMMAND ARG...: runs COMMAND in its own network namespace, where every port is free,
# with the loopback and 192.0.2.1 for clients. No process that COMMAND starts outlives it.
in_namespace() {
    # shellcheck disable=SC2016  # the inner shell expands it
    unshare --net --pid --fork --kill-child --mount-proc bash -c \
        'ip link set lo up && ip address add 192.0.2.1/32 dev lo && "$@"' - "$@"
}

# build_service: builds the binary under test, unless WSECHO_BINARY names one.
build_service() {
    [ -n "${WSECHO_BINARY:-}" ] || (cd "$root" && cargo build --release --locked)
}

# with_service [--set 'KEY = VALUE']... -- COMMAND ARG...: see tests/service.py.
with_service() {
    python3 "$root/tests/service.py" "$@"
}
