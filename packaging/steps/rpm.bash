# The RPMs. Sourced by packaging/build.
# shellcheck shell=bash disable=SC2154

# What rpm would otherwise take from this machine is set, and to values that rpm 4.11.3 can read: it
# knows xz, but not zstd, the default of newer versions.
rpm_defines() {
    define=(
        --define "_tmppath $work" --define "release_number $release"
        --define "_binary_payload w2.xzdio" --define "_source_payload w2.xzdio"
        --define "_binary_filedigest_algorithm 8" --define "_source_filedigest_algorithm 8"
        --define "_buildhost localhost"
        --define "use_source_date_epoch_as_buildtime 1" --define "clamp_mtime_to_source_date_epoch 1"
    )
}

# --nodeps: the build requirements name packages of Enterprise Linux, but Rust may come from rustup.
rpm_build() {
    if ! (cd "$work" && rpmbuild --nodeps "${define[@]}" "$@") > "$work/log" 2>&1; then
        cat "$work/log" >&2
        die "rpmbuild failed"
    fi
}

# Fills in what the spec leaves to the build.
write_spec() {
    # rpm allows no hyphen in a version.
    awk -F '\t' '{ gsub(/-/, "~", $2); print "Provides:       bundled(crate(" $1 ")) = " $2 }' "$crates" > "$work/bundled"
    restart_step systemctl > "$work/restart"
    sed -e "s#^License:.*#License:        $(whole_licence)#" \
        -e "/^#@ bundled crates$/ { r $work/bundled
            d }" \
        -e "/^#@ restart$/ { r $work/restart
            d }" packaging/wsecho.spec > "$work/wsecho.spec"
}

build_srpm() {
    rpm_defines
    write_spec
    pack "$sources/wsecho-$version-vendor.tar.gz" "${vendor%/*}" vendor
    # Newer rpm writes the spec into the SRPM with macros expanded: they must not contain this path.
    rpm_build --define '_topdir .' -bs wsecho.spec
    ! wants srpm || keep_rpm "$work"/SRPMS/*.src.rpm
}

# build_rpm TARGET
build_rpm() {
    local el=${1#el}
    rpm_defines
    write_spec
    define+=(--define "rhel $el" --define "dist .el$el" --define "_topdir $work")
    # Only a machine of this architecture can run the program.
    [ "$arch" = "$(uname -m)" ] || define+=(--nocheck --target "$arch-linux")
    if [ "$mode" = source ]; then
        say "building from the SRPM, offline"
        rpm_build --rebuild "$work"/SRPMS/*.src.rpm
    else
        rpm_build -bb --with prebuilt wsecho.spec
    fi
    keep_rpm "$work/RPMS/$arch"/*".el$el.$arch.rpm"
}

# keep_rpm FILE: copies it to $out, signed.
keep_rpm() {
    local kept=$out/${1##*/}
    cp "$1" "$kept"
    wrote "$kept"
    [ -n "$key" ] || return 0
    say "signing ${1##*/} with $key"
    # rpm 4.11.3 looks for the signature in the version 3 header.
    rpmsign --rpmv3 --addsign --define "__gpg $(command -v gpg)" --define "_gpg_name $key" "$kept" >&2
}
