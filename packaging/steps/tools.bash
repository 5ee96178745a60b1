# What a build needs besides Rust. Sourced by packaging/build.
# shellcheck shell=bash disable=SC2154

# cargo zigbuild and zig, which packaging/zigbuild.txt pins: another zig may produce a different program.
venv=${XDG_CACHE_HOME:-$HOME/.cache}/wsecho-tests/zigbuild-$(sha256sum < packaging/zigbuild.txt | cut -c 1-12)

# of_rust ARG…: the compiler that cargo uses.
of_rust() { "${RUSTC:-rustc}" "$@"; }

find_tools() {
    [ ! -e .git ] || tool git git git
    tool python3 python3 python3
    ! wants el7 el8 el9 el10 srpm || tool rpmbuild rpm rpm-build
    ! wants deb || tool dpkg-deb dpkg dpkg
    ! wants repo || ! wants el7 el8 el9 el10 || tool createrepo_c createrepo-c createrepo_c
    ! wants oci || image_tools
    [ -z "$key" ] || tool gpg gnupg gnupg2
    [ "$mode" != zigbuild ] || install_zig
}

# tool COMMAND DEBIAN_PACKAGE EL_PACKAGE: installs it on Debian, where one can.
tool() {
    ! command -v "$1" > /dev/null || return 0
    if [ ! -e /etc/debian_version ] || [ "$(id -u)" != 0 ]; then
        die "$1 is missing: install the package $3 (on Debian: $2)"
    fi
    say "installing $2"
    apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$2" >&2
}

install_zig() {
    mkdir -p "${venv%/*}"
    # Locked, because two concurrent builds may both find it missing.
    exec 9> "$venv.lock"
    flock 9
    if [ ! -e "$venv/.whole" ]; then
        say "installing cargo-zigbuild and zig into $venv"
        python3 -m venv --clear "$venv"
        "$venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes --requirement packaging/zigbuild.txt
        touch "$venv/.whole"
    fi
    exec 9>&-
}
