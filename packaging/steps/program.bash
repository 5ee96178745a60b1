# The program, and its symbols beside it. Sourced by packaging/build.
# shellcheck shell=bash disable=SC2154

# Sets $program.
build_program() {
    program=$sources/wsecho
    if [ "$mode" = given ]; then
        install -m 0755 "$given" "$program"
        return
    fi
    say "building the program for glibc 2.17, $arch"
    # Paths in the program would reveal where it was built, and differ between machines.
    local registry remap="--remap-path-prefix=$top=/wsecho"
    for registry in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/; do
        remap+=" --remap-path-prefix=${registry%/}=/crates"
    done
    CARGO_PROFILE_RELEASE_STRIP=none CARGO_PROFILE_RELEASE_DEBUG=line-tables-only \
        RUSTFLAGS="-C link-arg=-Wl,--build-id=sha1 $remap" \
        PATH=$venv/bin:$PATH \
        CARGO_TARGET_DIR=$CARGO_TARGET_DIR/zigbuild \
        cargo zigbuild --quiet --release --locked --target "$arch-unknown-linux-gnu.2.17" >&2

    local built=$CARGO_TARGET_DIR/zigbuild/$arch-unknown-linux-gnu/release/wsecho objcopy
    objcopy=$(find_objcopy)
    "$objcopy" --strip-all "$built" "$program"
    symbols=$out/wsecho-$version-$release.$arch.debug
    "$objcopy" --only-keep-debug "$built" "$symbols"
    xz -T 1 -6 -f "$symbols"
    wrote "$symbols.xz"
}

# Rust's own, because it comes with the compiler: with another one the bytes would depend on the
# machine. The system's does for a Rust that has none.
find_objcopy() {
    local rust
    rust=$(rustc --print sysroot)/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin/rust-objcopy
    if [ -x "$rust" ]; then
        echo "$rust"
    else
        command -v llvm-objcopy objcopy | head -n 1
    fi
}
