# The program, and its symbols beside it. Sourced by packaging/build.
# shellcheck shell=bash disable=SC2154

# Sets $program.
build_program() {
    program=$sources/wsecho
    if [ "$mode" = given ]; then
        install -m 0755 "$given" "$program"
        return
    fi
    [ -d "$(of_rust --print target-libdir --target "$arch-unknown-linux-gnu")" ] ||
        die "$(of_rust --version) has no standard library for $arch: see --arch in packaging/build --help"
    say "building the program for glibc 2.17, $arch"
    # Paths in the program would reveal where it was built, and differ between machines. Encoded, because they may
    # have blanks.
    local registry flags=$'-C\x1flink-arg=-Wl,--build-id=sha1\x1f'"--remap-path-prefix=$top=/wsecho"
    for registry in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/; do
        flags+=$'\x1f'"--remap-path-prefix=${registry%/}=/crates"
    done
    CARGO_PROFILE_RELEASE_STRIP=none CARGO_PROFILE_RELEASE_DEBUG=line-tables-only \
        CARGO_ENCODED_RUSTFLAGS="$flags" \
        PATH=$venv/bin:$PATH \
        CARGO_TARGET_DIR=$CARGO_TARGET_DIR/zigbuild \
        cargo zigbuild --quiet --release --locked --target "$arch-unknown-linux-gnu.2.17" >&2
    split_symbols "$CARGO_TARGET_DIR/zigbuild/$arch-unknown-linux-gnu/release/wsecho"
}

# split_symbols FILE: into the program and its symbols, which name directories of this machine. So would
# the linker's build-id depend on those: one that is made from the stripped program does not.
split_symbols() {
    local note=.note.gnu.build-id=$work/build-id
    symbols=$out/wsecho-$version-$release.$arch.debug
    "${objcopy[@]}" --strip-all "$1" "$program"
    # Where and as cargo auditable has it, for vulnerability scanners. Not by cargo auditable, which takes
    # features that only tests need for the program's, and lists crates that are not in it.
    python3 packaging/steps/sbom.py section "$work/tree-$arch" > "$work/dep-v0"
    "${objcopy[@]}" --add-section ".dep-v0=$work/dep-v0" "$program"
    build_id 0000000000000000000000000000000000000000 > "$work/build-id"
    "${objcopy[@]}" --update-section "$note" "$program"
    build_id "$(sha1sum < "$program" | cut -c 1-40)" > "$work/build-id"
    "${objcopy[@]}" --update-section "$note" "$program"
    "${objcopy[@]}" --only-keep-debug --update-section "$note" "$1" "$symbols"
    chmod 0644 "$symbols"
    xz -T 1 -6 -f "$symbols"
    wrote "$symbols.xz"
}

# build_id HEX: prints the note that holds it, in either architecture's byte order.
build_id() {
    printf '\4\0\0\0\24\0\0\0\3\0\0\0GNU\0'
    # shellcheck disable=SC2001  # each two of the digits
    printf %b "$(sed 's/../\\x&/g' <<< "$1")"
}
