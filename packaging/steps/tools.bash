# What a build needs besides Rust. Sourced by packaging/build.
# shellcheck shell=bash disable=SC2154

# cargo zigbuild and zig, which packaging/zigbuild.txt pins: another zig may produce a different program.
venv=${XDG_CACHE_HOME:-$HOME/.cache}/wsecho-tests/zigbuild-$(sha256sum < packaging/zigbuild.txt | cut -c 1-12)

# of_rust ARG…: the compiler that cargo uses.
of_rust() { "${RUSTC:-rustc}" "$@"; }

find_tools() {
    local program
    for program in cargo "${RUSTC:-rustc}"; do
        command -v "$program" > /dev/null ||
            die "$program is missing: install Rust $(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml) or newer"
    done
    # What a minimal system lacks.
    tool awk mawk gawk
    tool find findutils findutils
    tool tar tar tar
    tool gzip gzip gzip
    tool xz xz-utils xz
    [ ! -e .git ] || tool git git git
    tool python3 python3 python3
    # Some crates have parts in C; and Rust links by it what runs while it builds.
    [ "$mode" = given ] || tool cc 'gcc libc6-dev' gcc
    ! wants el7 el8 el9 el10 srpm || tool rpmbuild rpm rpm-build
    ! wants deb || tool dpkg-deb dpkg dpkg
    ! wants repo || ! wants el7 el8 el9 el10 || tool createrepo_c createrepo-c createrepo_c
    ! wants oci || image_tools
    if [ -n "$key" ]; then
        tool gpg gnupg gnupg2
        tool gpg-connect-agent gnupg gnupg2
        ! wants el7 el8 el9 el10 srpm || tool rpmsign rpm rpm-sign
    fi
    if [ "$mode" = zigbuild ]; then
        find_objcopy
        install_zig
    fi
}

# tool COMMAND DEBIAN_PACKAGES EL_PACKAGE
tool() { command -v "$1" > /dev/null || missing "$@"; }

# missing WHAT DEBIAN_PACKAGES EL_PACKAGE: installs it on Debian, where one can.
missing() {
    if [ ! -e /etc/debian_version ] || [ "$(id -u)" != 0 ]; then
        die "$1 is missing: install the package $3 (on Debian: $2)"
    fi
    say "installing $2"
    apt-get update -qq >&2
    # shellcheck disable=SC2086  # words are meant
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $2 >&2
}

# Sets $objcopy: Rust's own, because it comes with the compiler, and with another one the bytes would depend on
# the machine. The system's does for a Rust that has none.
find_objcopy() {
    local sysroot rust
    for sysroot in "$(of_rust --print sysroot)" "$(rustc --print sysroot 2> /dev/null)"; do
        rust=$sysroot/lib/rustlib/$(of_rust -vV | sed -n 's/^host: //p')/bin/rust-objcopy
        if [ -x "$rust" ]; then
            objcopy=(env "LD_LIBRARY_PATH=$sysroot/lib" "$rust")
            return
        fi
    done
    objcopy=("$(command -v llvm-objcopy "$arch-linux-gnu-objcopy" objcopy | head -n 1 || true)")
    if [ -z "${objcopy[0]}" ]; then
        missing objcopy llvm llvm
        objcopy=(llvm-objcopy)
    fi
}

install_zig() {
    tool flock util-linux util-linux
    # Debian's python3 cannot make one.
    python3 -c 'import ensurepip' 2> /dev/null || missing "Python's venv" python3-venv python3
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
