# What proves where packages come from: bills of materials, the build-info, the provenance. Sourced by
# packaging/build.
# shellcheck shell=bash disable=SC2154

# Writes what is linked besides crates to $work/linked, as rows of: by whom, name, version, licence, purl,
# SHA-256.
list_linked() {
    local name license by rust zig='' llvm='' version purl
    rust=$(of_rust -vV | sed -n 's/^release: //p')
    if [ -x "$venv/bin/python" ]; then
        zig=$("$venv/bin/python" -m ziglang version)
        llvm=$("$venv/bin/python" -m ziglang cc --version | sed -n 's/^clang version \([^ ]*\).*/\1/p')
    fi
    while IFS=$'\t' read -r name license _ by; do
        version='' purl=''
        case $by:$name in
            "rust:Rust's standard library" | rust:compiler_builtins) version=$rust purl=pkg:generic/rust@ ;;
            rust:*) version=$(std_version "$name") purl=pkg:cargo/$name@ ;;
            # Only cargo zigbuild links these.
            zig:*) [ "$mode" != source ] || continue ;;&
            "zig:LLVM libunwind") version=$llvm purl=pkg:generic/llvm-libunwind@ ;;
            "zig:zig's compiler_rt") version=$zig purl=pkg:generic/zig@ ;;
        esac
        printf '%s\t%s\t%s\t%s\t%s\t\n' "$by" "$name" "$version" "$license" "$purl"
    done < "$components" > "$work/linked"
}

# std_version CRATE: prints the version of a crate in Rust's libraries, which names its sources.
std_version() {
    local libraries
    libraries=$(of_rust --print target-libdir --target "$arch-unknown-linux-gnu")
    # By bytes: what matches in a binary would otherwise depend on the locale.
    LC_ALL=C grep -ahosE "/$1-[0-9]+\.[0-9][0-9A-Za-z.+-]*/" "$libraries/lib${1//-/_}"-*.r{lib,meta} | LC_ALL=C sort -u |
        sed -n "1s#^/$1-\(.*\)/#\1#p" || true
}

# Prints rows for Debian's packages in the image.
debian_parts() {
    local package from=$work/debian distro
    distro=$(sed -n 's/^VERSION_ID="\(.*\)"/\1/p' "$from/usr/lib/os-release")
    for package in libc6 ca-certificates; do
        printf '%s\t' debian "$package" "$(sed -n 's/^Version: //p' "$from/$package.control")" \
            "$(debian_licence "$package")" "pkg:deb/debian/$package@?arch=$(sed -n 's/^Architecture: //p' \
            "$from/$package.control")&distro=debian-$distro"
        find "$from" -name "${package}_*.deb" -exec sha256sum {} + | cut -d ' ' -f 1
    done
}

# print_sbom VERSION PURL LICENCE [FILE]: of the package, which is FILE.
print_sbom() {
    [ -e "$work/linked" ] || list_linked
    {
        cat "$work/linked"
        [[ $2 != pkg:oci/* ]] || debian_parts
    } > "$work/parts"
    python3 packaging/steps/sbom.py bill --tree "$work/tree-$arch" --parts "$work/parts" --version "$1" --purl "$2" \
        --licence "$3" --url "$(of_spec URL)" ${4:+--file "$4"}
}

# Writes beside each package of this run its bill of materials, as FILE.cdx.json. The source RPM links
# nothing, and in the archive of both images each has its own.
describe_packages() {
    local file number purl licence
    for file in "${written[@]}"; do
        number=$version-$release licence=$(whole_licence)
        case $file in
            *."$arch".rpm)
                number=${file#wsecho-} number=${number%."$arch".rpm}
                purl="pkg:rpm/wsecho@?arch=$arch" ;;
            *.deb) purl="pkg:deb/wsecho@?arch=$deb_arch" ;;
            *.tar.gz) purl="pkg:generic/wsecho@?arch=$arch" ;;
            *."$arch".oci.tar) purl=$(image_purl) licence=$(image_licence) ;;
            *) continue ;;
        esac
        print_sbom "$number" "$purl" "$licence" "$out/$file" > "$out/$file.cdx.json"
        wrote "$out/$file.cdx.json"
    done
}

# Writes how this run was built: one file for all packages, because one program is in all of them. Sets
# $info.
write_build_info() {
    info=$out/wsecho-$version-$release.$arch.buildinfo.json
    build_facts | python3 -c 'import json, sys
print(json.dumps(dict(line.rstrip("\n").split("\t", 1) for line in sys.stdin), indent=1))' > "$info"
    wrote "$info"
}

build_facts() {
    local commit=${WSECHO_COMMIT:-unknown} packages
    # In full, for whoever has the repository.
    [[ ! -e .git || $commit = *-modified ]] || commit=$(git rev-parse HEAD)
    fact version "$version-$release"
    fact commit "$commit"
    fact source_date_epoch "$SOURCE_DATE_EPOCH"
    fact cargo_lock_sha256 "$(sha256sum < Cargo.lock | cut -c 1-64)"
    fact target "$arch-unknown-linux-gnu"
    case $mode in
        zigbuild)
            fact program "cargo zigbuild --release --locked --target $arch-unknown-linux-gnu.2.17"
            fact rustflags "-C link-arg=-Wl,--build-id=sha1, and --remap-path-prefix to /wsecho and /crates"
            fact profile "release, with strip=none and debug=line-tables-only; objcopy strips it"
            fact cargo_zigbuild "$("$venv/bin/cargo-zigbuild" --version)"
            fact zig "$("$venv/bin/python" -m ziglang version)"
            fact objcopy "$("${objcopy[@]}" --version | sed -n '/[0-9]\.[0-9]/{s/^ *//p;q}')" ;;
        given) fact program "given with --binary, not built" ;;
        source) fact program "rpmbuild --rebuild of the source RPM" ;;
    esac
    [ -z "${program:-}" ] || fact program_sha256 "$(sha256sum < "$program" | cut -c 1-64)"
    fact rustc "$(of_rust -vV | paste -sd ';')"
    fact cargo "$(cargo --version)"
    # packaging/debian-rust leaves it there.
    packages=$(of_rust --print sysroot)/lib/rustlib/debian-packages
    [ ! -e "$packages" ] || fact rust_packages "$(paste -sd ';' "$packages")"
    ! wants el7 el8 el9 el10 srpm || fact rpm "$(rpmbuild --version)"
    ! wants deb || fact dpkg "$(dpkg-deb --version | sed -n 1p)"
    ! wants oci || fact buildah "$(buildah --version)"
    fact python "$(python3 --version)"
    fact tar "$(tar --version | sed -n 1p)"
    fact gzip "$(gzip --version | sed -n 1p)"
    fact xz "$(xz --version | sed -n 1p)"
    fact system "$(sed -n 's/^PRETTY_NAME="\(.*\)"/\1/p' /etc/os-release)"
}

# fact NAME VALUE
fact() { printf '%s\t%s\n' "$1" "$2"; }

# Writes SHA256SUMS: of what was written, and of what is there of earlier runs for the same release, by their sums.
write_sums() {
    local sum file sums=$work/SHA256SUMS
    cd "$out" || exit
    {
        sha256sum "${written[@]}"
        [ ! -e SHA256SUMS ] || while read -r sum file; do
            [[ $file == *[-_]"$version-$release"[._]* && -e $file && " ${written[*]} " != *" $file "* ]] || continue
            echo "$sum  $file"
        done < SHA256SUMS
    } | LC_ALL=C sort -u -k 2 > "$sums"
    sha256sum --quiet -c "$sums" >&2 || die "changed since it was built: build it again, or delete it"
    rm -f SHA256SUMS.asc
    cp "$sums" SHA256SUMS
    [ -z "$key" ] || sign_detached "$out/SHA256SUMS"
}

# Writes the provenance of all that was written.
write_provenance() {
    local provenance=$out/wsecho-$version-$release.$arch.intoto.jsonl
    # gpg knows how to ask for a passphrase; gpg-agent remembers it.
    gpg_as_key --output "$work/unlocked" --detach-sign "$info"
    (cd "$out" && python3 "$top/packaging/steps/provenance.py" "$info" "${targets[*]}" "$key" "${written[@]}") > "$provenance"
    wrote "$provenance"
}
