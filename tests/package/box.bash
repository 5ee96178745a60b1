# A machine to install packages on: a real systemd as PID 1, on a copy-on-write overlay of this
# machine's root or of another, with its own network. It changes nothing outside, and dies with the
# script.
# shellcheck shell=bash disable=SC2154  # steps.bash sets $work

box=
box_nspawn=
box_groups=()

# Called first, with the script's arguments: reruns the script in its own namespaces. However it
# ends, all its processes and mounts are gone afterwards.
box_enter() {
    if [ "${BOX_ENTERED:-}$$" = 11 ]; then
        # Process 1 of a namespace ignores signals it has no handler for.
        trap 'exit 143' HUP INT TERM
        return 0
    fi
    unshare --mount --pid --fork true 2> /dev/null || skip "cannot make mount and process namespaces here"
    rm -rf "$work"
    # Inside, this script is process 1.
    exec env BOX_ENTERED=1 WSECHO_BINARY="${WSECHO_BINARY:-}" timeout --kill-after=10 "$1" \
        unshare --mount --propagation private --pid --fork --kill-child --mount-proc "${@:2}"
}

# The cgroup hierarchies that systemd needs.
box_cgroups() {
    findmnt -rn -t cgroup2 -o TARGET
    findmnt -rn -t cgroup -O name=systemd -o TARGET
}

# box_start [ROOT]: a copy of this root; by default of this machine's, without what makes it Debian's.
box_start() {
    local lower=${1:-/} group name=wsecho-box-$RANDOM$RANDOM log=$work/box.log
    box=$work/box
    mkdir "$box" "$work/upper"
    mount -t tmpfs -o size=2g tmpfs "$work/upper"
    mkdir "$work/upper/"{over,work}
    mount -t overlay overlay -o "lowerdir=$lower,upperdir=$work/upper/over,workdir=$work/upper/work" "$box" ||
        skip "cannot mount an overlay of $lower"

    # Without the services of that machine.
    rm -rf "$box"/etc/systemd/system/*.wants "$box"/etc/systemd/system/*.requires
    : > "$box/etc/machine-id"
    rm -f "$box/etc/fstab" "$box/etc/wsecho.toml"
    [ -n "${1:-}" ] || box_like_centos
    local unit
    for unit in console-getty.service getty.target systemd-networkd.service systemd-resolved.service \
        systemd-timesyncd.service systemd-sysctl.service systemd-udevd.service systemd-udev-trigger.service timers.target \
        systemd-logind.service remote-fs.target; do
        ln -sf /dev/null "$box/etc/systemd/system/$unit"
    done

    # systemd must not see this script's own cgroups.
    for group in $(box_cgroups); do
        mkdir -p "$group/$name"
        box_groups+=("$group/$name")
    done
    (
        for group in "${box_groups[@]}"; do echo "$BASHPID" > "$group/cgroup.procs"; done
        exec systemd-nspawn --quiet --register=no --keep-unit --boot --private-network \
            --resolv-conf=off --timezone=off --link-journal=no --console=pipe -M "$name" -D "$box" \
            systemd.unit=multi-user.target
    ) < /dev/null > "$log" 2>&1 &
    box_nspawn=$!
    if ! within 30 box_leader > /dev/null || ! within 60 box_is_up; then
        tail -n 20 "$log"
        box_stop
        skip "a systemd box does not boot here"
    fi
}

# With nothing enabled by default, and with a database of rpm's for the whole machine: Debian's is in
# the home directory.
box_like_centos() {
    mkdir -p "$box"/etc/systemd/system{,-preset} "$box/etc/rpm" "$box/var/lib/rpm"
    echo 'disable *' > "$box/etc/systemd/system-preset/00-centos.preset"
    rm -rf "$box/var/lib/rpm"/* "$box/root/.rpmdb"
    echo '%_dbpath /var/lib/rpm' > "$box/etc/rpm/macros"
}

box_leader() {
    local child
    # shellcheck disable=SC2013  # words are meant
    for child in $(cat "/proc/$box_nspawn/task/"*/children 2> /dev/null); do
        if grep -qP '^NSpid:.*\t1$' "/proc/$child/status" 2> /dev/null; then
            leader=$child
            return 0
        fi
    done
    return 1
}

box_is_up() { in_box systemctl is-system-running 2> /dev/null | grep -qE 'running|degraded'; }

# Runs a command in the box.
in_box() { nsenter -t "$leader" -m -u -i -n -p -r -w -- "$@"; }

# Runs a program of this machine on the box's network.
near_box() { nsenter -t "$leader" -n -- "$@"; }

box_stop() {
    local group
    [ -n "$box_nspawn" ] || return 0
    if [ -n "${leader:-}" ]; then
        # Halt: killing nspawn alone would leave the rest running.
        kill -s RTMIN+4 "$leader" 2> /dev/null || true
        within 20 fails kill -0 "$leader" > /dev/null 2>&1 || kill -KILL "$leader" 2> /dev/null || true
    fi
    kill "$box_nspawn" 2> /dev/null || true
    wait "$box_nspawn" 2> /dev/null || true
    for group in "${box_groups[@]}"; do
        find "$group" -depth -type d -exec rmdir {} + 2> /dev/null || true
    done
    umount "$box" "$work/upper" 2> /dev/null || true
}

# el_stub EL GLIBC SYSTEMD DIRECTORY: a repository there of one package, el-base, which provides what packages find
# on that release: glibc 2.GLIBC, and this version of systemd.
el_stub() {
    local library version
    {
        cat << END
Name: el-base
Version: $1
Release: 1
Summary: What the package under test finds on EL $1
License: MIT
BuildArch: noarch
AutoReqProv: no
Provides: systemd = $3 shadow-utils /bin/sh rtld(GNU_HASH)
END
        for library in libc.so.6 libm.so.6 libpthread.so.0 libdl.so.2 librt.so.1 ld-linux-x86-64.so.2; do
            echo "Provides: $library()(64bit)"
            for version in 2.2.5 2.3 2.3.2 2.3.3 2.3.4 $(seq -f 2.%g 4 "$2"); do
                echo "Provides: $library(GLIBC_$version)(64bit)"
            done
        done
        printf 'Provides: libgcc_s.so.1()(64bit)\n%%description\nA stub.\n%%files\n'
    } > "$work/el-base.spec"
    rpmbuild --quiet -bb --define "_topdir $work/stub-$1" "$work/el-base.spec" &&
        cp "$work/stub-$1"/RPMS/noarch/el-base-*.rpm "$4/" && createrepo_c --quiet "$4"
}
