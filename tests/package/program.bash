# What a packaged program must be like. Sourced after steps.bash.
# shellcheck shell=bash disable=SC2154

newest_glibc() { readelf -W --dyn-syms "$1" | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -n 1; }
is_hardened() {
    readelf -W -h "$1" | grep -q 'Type: *DYN' || { echo "not position-independent"; return 1; }
    readelf -W -d "$1" | grep -q 'Flags:.*PIE' || { echo "not an executable"; return 1; }
    readelf -W -l "$1" | grep -q GNU_RELRO || { echo "no RELRO"; return 1; }
    readelf -W -d "$1" | grep -q BIND_NOW || { echo "only partial RELRO"; return 1; }
    ! readelf -W -l "$1" | grep -q 'GNU_STACK.*RWE' || { echo "its stack is executable"; return 1; }
    ! readelf -W -d "$1" | grep -qE 'RPATH|RUNPATH' || { echo "it has an RPATH"; return 1; }
}
build_paths() {
    strings -a "$1" | grep -nE -m 5 "$root|$HOME/|$work|/(home|root|tmp|work)/[a-z.]|/registry/src|/ziglang/" || true
}
has_build_id() { readelf -n "$1" | grep -q 'Build ID: [0-9a-f]\{40\}'; }
at_most() { local size; size=$(stat -c %s "$1"); [ "$size" -le "$2" ] || { echo "$size bytes"; return 1; }; }
build_id() { readelf -n "$1" 2> /dev/null | sed -n 's/.*Build ID: //p'; }
