# The sources: the checkout and the crates, both as archives. Sourced by packaging/build.
# shellcheck shell=bash disable=SC2154

# Sets and exports SOURCE_DATE_EPOCH, unless the caller has, and WSECHO_COMMIT if it is known; fills
# $tree with the checkout, and packs it.
pack_sources() {
    local commit changes
    # Only its own: an unpacked archive may lie inside another repository.
    if [ -e .git ]; then
        if ! { commit=$(git rev-parse --short=12 HEAD) && changes=$(git status --porcelain); }; then
            die "git cannot read this checkout, as it says above. If another user owns it, run" \
                "git config --global --add safe.directory '$top'"
        fi
        : "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct)}"
        if [ -n "$changes" ]; then
            commit+=-modified
            say "the checkout has uncommitted changes: they are packaged too"
        fi
        files() { git ls-files -z --cached --others --exclude-standard; }
    else
        # An unpacked source archive is dated by its changelog.
        commit=$(cat packaging/commit 2>/dev/null || true)
        : "${SOURCE_DATE_EPOCH:=$(date -u +%s -d "$(sed -n 's/^\* \(\w* \w* [0-9]* [0-9]*\).*/\1/p' \
            packaging/wsecho.spec | head -n 1)")}"
        files() { find . -path ./target -prune -o -type f -printf '%P\0'; }
    fi
    export SOURCE_DATE_EPOCH
    [ -z "$commit" ] || export WSECHO_COMMIT=$commit

    tree=$work/wsecho-$version
    mkdir "$tree"
    files | while IFS= read -r -d '' file; do
        # A file in git's index may have been deleted.
        [ ! -e "$file" ] || printf '%s\0' "$file"
    done | tar --null -T - -c | tar -x -C "$tree"
    [ -z "$commit" ] || echo "$commit" > "$tree/packaging/commit"
    pack "$sources/wsecho-$version.tar.gz" "$work" "wsecho-$version"
}

# pack ARCHIVE DIRECTORY NAME
pack() { archive "$2" "$3" | gzip -n -9 > "$1"; }

# archive DIRECTORY NAME: prints a tar that is reproducible, that is independent of owner, umask and
# directory order. EL 7's tar cannot sort.
archive() {
    (cd "$1" && find "$2" -print0 | LC_ALL=C sort -z |
        tar --null --no-recursion -T - --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner \
            --mode=u=rwX,go=rX -c)
}

# Prints the crates that a build for Linux may read, tests included, as NAME-VERSION.
linux_crates() {
    local architecture
    for architecture in x86_64 aarch64; do
        cargo tree --quiet --locked --all-features --edges normal,build,dev \
            --target "$architecture-unknown-linux-gnu" --prefix none --format '{p}'
    done | sed -E 's/^([^ ]+) v([^ ]+).*/\1-\2/' | LC_ALL=C sort -u
}

# cargo vendor takes the crates of all platforms. Cargo.lock names them, so cargo wants to find each,
# but those for Windows, with their import libraries, may be empty.
empty_foreign_crates() {
    local crate
    find "$1" -mindepth 1 -maxdepth 1 -printf '%f\n' | LC_ALL=C sort |
        LC_ALL=C comm -23 - <(linux_crates) | while read -r crate; do
            find "$1/$crate" -mindepth 1 ! -path "$1/$crate/Cargo.toml" \
                ! -path "$1/$crate/.cargo-checksum.json" -delete
            mkdir "$1/$crate/src"
            touch "$1/$crate/src/lib.rs"
            sed -E -i 's/"files":\{[^}]*\}/"files":{}/' "$1/$crate/.cargo-checksum.json"
        done
}

# Sets $vendor to a directory with the sources of all crates.
vendor_crates() {
    local lock
    lock=$(sha256sum Cargo.lock | cut -c 1-16)
    vendor=$CARGO_TARGET_DIR/rpm-vendor/$lock-linux/vendor
    [ ! -d "$vendor" ] || return 0
    say "collecting the crates (cargo vendor)"
    mkdir -p "${vendor%/*}"
    cargo vendor --quiet --locked --versioned-dirs "$vendor.$$" > /dev/null
    empty_foreign_crates "$vendor.$$"
    # A concurrent build may have been faster.
    mv -T "$vendor.$$" "$vendor" 2> /dev/null || rm -rf "$vendor.$$"
}
