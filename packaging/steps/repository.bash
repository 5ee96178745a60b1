# Signatures, and the repositories. Sourced by packaging/build.
# shellcheck shell=bash disable=SC2154

# gpg_as_key ARG…
gpg_as_key() { gpg --batch --yes --quiet --local-user "$key" "$@"; }

# sign_detached FILE: beside it, as FILE.asc.
sign_detached() { gpg_as_key --armor --output "$1.asc" --detach-sign "$1"; }

# Adds the packages of this run to $out/repo, which may hold those of earlier ones.
build_repositories() {
    local repo=$out/repo file el
    : "${url:=file://${repo// /%20}}"
    mkdir -p "$repo"
    gpg --batch --armor --export "$key" > "$repo/wsecho.asc"
    for file in "${written[@]}"; do
        case $file in
            *.src.rpm) ;;
            *.rpm)
                el=${file##*.el} el=el${el%%.*}
                mkdir -p "$repo/yum/$el/$arch"
                cp "$out/$file" "$repo/yum/$el/$arch/" ;;
            *.deb)
                mkdir -p "$repo/apt/pool"
                cp "$out/$file" "$repo/apt/pool/" ;;
        esac
    done
    ! wants el7 el8 el9 el10 || index_yum "$repo/yum"
    ! wants deb || index_apt "$repo/apt"
    say "the repositories are in $repo, for $url"
}

index_yum() {
    local directory
    for directory in "$1"/*/*/; do
        # gzip, and no databases, for EL 7's yum and for any createrepo_c the same.
        createrepo_c --quiet --general-compress-type gz --no-database --revision "$SOURCE_DATE_EPOCH" \
            --set-timestamp-to-revision "$directory"
        sign_detached "$directory/repodata/repomd.xml"
    done
    cat > "${1%/*}/wsecho.repo" <<END
[wsecho]
name=wsecho
baseurl=$url/yum/el\$releasever/\$basearch
gpgkey=$url/wsecho.asc
gpgcheck=1
repo_gpgcheck=1
END
}

index_apt() {
    local apt=$1 dists=$1/dists/stable architecture packages file
    rm -rf "$dists"
    for architecture in amd64 arm64; do
        packages=$dists/main/binary-$architecture/Packages
        mkdir -p "${packages%/*}"
        for file in "$apt"/pool/*_"$architecture".deb; do
            [ -e "$file" ] || continue
            dpkg-deb -f "$file"
            echo "Filename: pool/${file##*/}"
            echo "Size: $(stat -c %s "$file")"
            echo "SHA256: $(sha256sum < "$file" | cut -c 1-64)"
            echo
        done > "$packages"
        gzip -n -9 -k "$packages"
    done
    {
        printf '%s\n' 'Origin: wsecho' 'Label: wsecho' 'Suite: stable' 'Codename: stable' \
            'Architectures: amd64 arm64' 'Components: main' \
            "Date: $(LC_ALL=C date -u -d "@$SOURCE_DATE_EPOCH" '+%a, %d %b %Y %H:%M:%S UTC')" 'SHA256:'
        (cd "$dists" && find main -type f | LC_ALL=C sort | while read -r file; do
            echo " $(sha256sum < "$file" | cut -c 1-64) $(stat -c %s "$file") $file"
        done)
    } > "$dists/Release"
    gpg_as_key --output "$dists/InRelease" --clear-sign "$dists/Release"
    cat > "${apt%/*}/wsecho.sources" <<END
Types: deb
URIs: $url/apt
Suites: stable
Components: main
Signed-By: /etc/apt/keyrings/wsecho.asc
END
}
