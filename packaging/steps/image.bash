# The container image, as an OCI archive, by buildah. Sourced by packaging/build.
# shellcheck shell=bash disable=SC2154

image_tools() {
    [ -e /etc/debian_version ] || die "the image takes glibc from the system it is built on: build it on Debian"
    tool buildah buildah buildah
    tool readelf binutils binutils
}

build_image() {
    local root=$work/image layout=$work/layout archive=$out/wsecho-$version-$release.$arch.oci.tar
    mkdir "$root" "$layout"
    stage_debian "$root"
    print_sbom "$version-$release" "$(image_purl)" "$(image_licence)" > "$work/sbom"
    packaging/stage oci "$root" "$program" "$licences" "$work/sbom" > /dev/null

    local line config=(
        --entrypoint '["/usr/bin/wsecho"]' --stop-signal SIGTERM --port 8888/tcp
        # By number, because Kubernetes cannot tell whether a name is root's.
        --user 65532:65532
        # Both, because wsecho accepts no IPv4 on [::]. What reaches it is for the container's network to decide.
        --env 'WSECHO_BIND=["0.0.0.0:8888", "[::]:8888"]'
    )
    # As in the unit.
    while IFS= read -r line; do
        config+=(--env "$line")
    done < <(sed -n 's/^Environment=\(MALLOC_\)/\1/p' systemd/wsecho.service)
    while IFS= read -r line; do
        config+=(--label "org.opencontainers.image.$line" --annotation "org.opencontainers.image.$line")
    done < <(annotations)

    run_buildah from --arch "$deb_arch" --name wsecho scratch
    run_buildah copy --quiet --chown 0:0 wsecho "$root" /
    run_buildah config "${config[@]}" wsecho
    run_buildah commit --quiet --format oci --disable-compression=false --identity-label=false \
        --timestamp "$SOURCE_DATE_EPOCH" wsecho "oci:$layout:wsecho:$version"
    # Not buildah's own archive, which has the time of day in it.
    archive "$layout" . > "$archive"
    wrote "$archive"
    join_images "${archive%."$arch".oci.tar}"
}

# join_images PREFIX: makes one archive of the images for both architectures once both exist.
join_images() {
    local layout=$work/both image images=("$1.aarch64.oci.tar" "$1.x86_64.oci.tar")
    [ -e "${images[0]}" ] && [ -e "${images[1]}" ] || return 0
    # That of earlier images.
    rm -f "$1.oci.tar"
    if [ "$(revision "${images[0]}")" != "$(revision "${images[1]}")" ]; then
        say "the images for aarch64 and x86_64 are of different commits, so there is no archive of both"
        return
    fi
    mkdir "$layout"
    run_buildah manifest create both
    for image in "${images[@]}"; do
        run_buildah manifest add both "oci-archive:$image"
    done
    run_buildah manifest push --all both "oci:$layout:wsecho:$version"
    archive "$layout" . > "$1.oci.tar"
    wrote "$1.oci.tar"
}

# revision ARCHIVE: prints the commit of an image.
revision() { tar -x -O -f "$1" ./blobs | grep -ao '"org.opencontainers.image.revision":"[^"]*"' | sort -u; }

# run_buildah ARG…: with a storage of its own, deleted with $work.
run_buildah() {
    # As root it keeps a cache of digests, wherever its storage is.
    local cache=/var/lib/containers/cache/blob-info-cache-v1.boltdb code=0
    [ ! -e "$cache" ] || cache=''
    buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs "$@" > "$work/log" 2>&1 || code=$?
    [ ! -w "$cache" ] || { rm "$cache"; rmdir --ignore-fail-on-non-empty -p "${cache%/*}"; }
    [ $code = 0 ] || { cat "$work/log" >&2; die "buildah $1 failed"; }
}

# Prints NAME=TEXT, by the names of the OCI.
annotations() {
    echo "title=wsecho"
    echo "description=$(of_spec Summary)"
    echo "version=$version-$release"
    [ -z "${WSECHO_COMMIT:-}" ] || echo "revision=$WSECHO_COMMIT"
    echo "source=$(of_spec URL)"
    echo "licenses=$(image_licence)"
    echo "created=$(date -u +%FT%TZ -d "@$SOURCE_DATE_EPOCH")"
}

# Debian's glibc and Mozilla's list of authorities are in the image, too.
image_licence() { echo "$(whole_licence) AND $(debian_licence libc6) AND $(debian_licence ca-certificates)"; }
debian_licence() {
    case $1 in
        libc6) echo LGPL-2.1-or-later ;;
        ca-certificates) echo MPL-2.0 ;;
    esac
}

# Without a digest, because the image holds this itself.
image_purl() { echo "pkg:oci/wsecho?arch=$deb_arch"; }

# stage_debian DIRECTORY: fills it with what the program needs of Debian's.
stage_debian() {
    local to=$1 from=$work/debian loader library package text
    fetch_debian "$from" "$deb_arch" libc6 ca-certificates base-files
    loader=$(readelf -W -l "$program" | sed -n 's/.*program interpreter: \(.*\)\]/\1/p')
    # Debian's loader looks into /lib on every architecture.
    for library in "$loader" $(readelf -W -d "$program" | sed -n 's#.*(NEEDED).*\[\(lib.*\)\]#/lib/\1#p'); do
        keep_debian "$(find "$from" -path "*/$arch-linux-gnu/${library##*/}")" "$library"
    done
    # Not those of this machine, which may trust more.
    mkdir -p "$to/etc/ssl/certs"
    find "$from/usr/share/ca-certificates/mozilla" -name '*.crt' -print0 | LC_ALL=C sort -z |
        xargs -0 awk 1 > "$to/etc/ssl/certs/ca-certificates.crt"
    for package in libc6 ca-certificates; do
        keep_debian "$from/usr/share/doc/$package/copyright" "/usr/share/doc/$package/copyright"
        # Vulnerability scanners read versions here, and the release in os-release.
        keep_debian "$from/$package.control" "/var/lib/dpkg/status.d/$package"
    done
    for text in LGPL-2.1 MPL-2.0; do
        keep_debian "$from/usr/share/common-licenses/$text" "/usr/share/common-licenses/$text"
    done
    keep_debian "$from/usr/lib/os-release" /usr/lib/os-release
}

# keep_debian FILE PATH: in stage_debian's directory.
keep_debian() {
    [ -f "$1" ] || die "Debian has no ${2##*/} where it was expected"
    mkdir -p "$to${2%/*}"
    install -m "$([ -x "$1" ] && echo 0755 || echo 0644)" "$1" "$to$2"
}
