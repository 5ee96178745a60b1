# What the suites' scripts share: where their peers are kept, and how they get there. Sourced.
#
# Peers are kept outside of the clone, each in a folder whose name tells its versions: a fresh clone
# finds them again, a new machine builds them once, a new version gets a folder of its own.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Importing from a clone must leave nothing in it.
export PYTHONDONTWRITEBYTECODE=1
cache=${XDG_CACHE_HOME:-$HOME/.cache}/wsecho-tests

# skip REASON: ends the suite as skipped; tests/run repeats the reason.
skip() {
    echo "SKIPPED: $*"
    exit 77
}

# need COMMAND PACKAGE...: makes sure that COMMAND is there, if need be from Debian's packages.
need() {
    command -v "$1" >/dev/null || debian "${@:2}"
}

# debian PACKAGE...: installs Debian's packages.
debian() {
    command -v apt-get >/dev/null || skip "there is no apt-get to install $*"
    local as=()
    if [ "$(id -u)" != 0 ]; then
        sudo -n true 2>/dev/null || skip "only root can do this: apt-get install $*"
        as=(sudo -n)
    fi
    local install=("${as[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y
        --no-install-recommends -o DPkg::Lock::Timeout=300 "$@")
    # On a new machine the lists are missing, on an old one they may name what is gone.
    "${install[@]}" || { "${as[@]}" apt-get update && "${install[@]}"; } ||
        skip "Debian's $* cannot be installed"
}

# keep NAME FUNCTION: sets $kept to a folder that FUNCTION, given the folder, has filled: now, or in
# an earlier run. FUNCTION joins its commands by &&: `set -e` does not hold inside a condition.
keep() {
    kept=$cache/$1
    mkdir -p "$cache"
    local lock
    exec {lock}>"$kept.lock"
    flock "$lock"
    if [ ! -e "$kept/.whole" ]; then
        rm -rf "$kept"
        mkdir "$kept"
        # Whoever goes on in the background must not keep the lock.
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

# build_service: builds the binary under test, unless WSECHO_BINARY names another one.
build_service() {
    [ -n "${WSECHO_BINARY:-}" ] || (cd "$root" && cargo build --release --locked)
}

# with_service [--set 'KEY = VALUE']... -- COMMAND ARG...: see tests/service.py.
with_service() {
    python3 "$root/tests/service.py" "$@"
}
