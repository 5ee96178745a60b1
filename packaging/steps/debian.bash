# Debian's packages, unpacked without being installed. Sourced by packaging/build and packaging/debian-rust.
# shellcheck shell=bash disable=SC2154

# of_debian DIRECTORY ARCHITECTURE COMMAND ARG…: a command of apt's that keeps its state in the directory: the
# machine's own architectures and lists stay as they are.
of_debian() {
    local state=$1/apt-$2
    mkdir -p "$state/lists/partial" "$state/debs/partial"
    : > "$state/status"
    (cd "$state/debs" && "$3" -qq -o "APT::Architecture=$2" -o "APT::Architectures=$2" -o "Dir::State=$state" \
        -o "Dir::State::status=$state/status" -o "Dir::Cache=$state" -o APT::Sandbox::User=root \
        -o Acquire::Languages=none "${@:4}")
}

# fetch_debian DIRECTORY ARCHITECTURE PACKAGE…: unpacks the packages there, as this machine's Debian has them now
# for that architecture, with the control data of each as PACKAGE.control.
fetch_debian() {
    local to=$1 package deb
    if ! { of_debian "$1" "$2" apt-get update && of_debian "$1" "$2" apt-get download "${@:3}"; } > "$work/log" 2>&1; then
        cat "$work/log" >&2
        die "Debian's packages cannot be downloaded"
    fi
    for package in "${@:3}"; do
        deb=$(echo "$to/apt-$2/debs/${package}"_*.deb)
        dpkg-deb -x "$deb" "$to"
        dpkg-deb -f "$deb" > "$to/$package.control"
    done
}
