# The Debian package, by dpkg-deb alone. Sourced by packaging/build.
# shellcheck shell=bash disable=SC2154

# The spec's changelog, as Debian writes one.
debian_changelog() {
    awk -v release="$release" '
        function finish() {
            if (who) printf "%s\n -- %s  %s, %02d %s %s 00:00:00 +0000\n", changes, who, day, date, month, year
        }
        /^%changelog/ { on = 1; next }
        !on { next }
        /^\* / {
            finish()
            day = $2; month = $3; date = $4; year = $5
            who = $0; sub(/^\* [^ ]+ [^ ]+ [^ ]+ [^ ]+ /, "", who); sub(/ - [^ ]*$/, "", who)
            # The newest entry is that of this release.
            number = $NF; if (!entries++) sub(/-[^-]*$/, "-" release, number)
            printf "%swsecho (%s) stable; urgency=medium\n\n", (entries > 1 ? "\n" : ""), number
            changes = ""
            next
        }
        /^- / { sub(/^- /, ""); changes = changes "  * " $0 "\n" }
        END { finish() }' packaging/wsecho.spec
}

# The spec's description, with a line of its own for each paragraph's end, as Debian writes one.
debian_description() {
    echo "Description: $(of_spec Summary)"
    sed -n '/^%description$/,/^%prep$/p' packaging/wsecho.spec | sed '1d;$d' | sed -e '${/^$/d}' -e 's/^$/./; s/^/ /'
}

# procps has /bin/kill, which the unit's reload takes, and a minimal Debian lacks.
build_deb() {
    local root=$work/deb file package
    mkdir "$root" "$root/DEBIAN"
    packaging/stage deb "$root" "$program" "$licences" > "$work/staged-deb"
    debian_changelog | gzip -n -9 > "$root/usr/share/doc/wsecho/changelog.Debian.gz"

    awk '$1 == "config" { print $4 }' "$work/staged-deb" > "$root/DEBIAN/conffiles"
    restart_step deb-systemd-invoke > "$work/restart"
    for file in postinst prerm postrm; do
        sed -e "/^#@ restart$/ { r $work/restart
            d }" "packaging/deb/$file" > "$root/DEBIAN/$file"
        chmod 0755 "$root/DEBIAN/$file"
    done
    (cd "$root" && find . -path ./DEBIAN -prune -o -type f -printf '%P\0' | LC_ALL=C sort -z |
        xargs -0 md5sum > DEBIAN/md5sums)
    {
        sed "s/@VERSION@/$version-$release/; s/@ARCHITECTURE@/$deb_arch/; s#@URL@#$(of_spec URL)#
            s/@MAINTAINER@/$(debian_changelog | sed -n 's/^ -- \(.*>\)  .*/\1/p' | head -n 1)/
            s/@SIZE@/$(installed_size "$root")/" packaging/deb/control
        debian_description
    } > "$root/DEBIAN/control"
    # dpkg-deb itself changes only times after SOURCE_DATE_EPOCH.
    find "$root" -exec touch -d "@$SOURCE_DATE_EPOCH" {} +
    # xz, because dpkg of Debian 11 knows no zstd.
    package=$out/wsecho_$version-${release}_$deb_arch.deb
    dpkg-deb --root-owner-group -Zxz -b "$root" "$package" > /dev/null
    wrote "$package"
}

# In KiB, by the rule of Debian's policy: independent of the file system.
installed_size() {
    find "$1" -path "$1/DEBIAN" -prune -o -type f -printf '%s\n' -o -printf '1\n' |
        awk '{ size += int(($1 + 1023) / 1024) } END { print size }'
}
