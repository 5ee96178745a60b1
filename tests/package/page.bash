# The commands of docs/install.md, as a reader types them. Sourced after steps.bash; the suite says by
# by_hand where they run.
# shellcheck shell=bash disable=SC2154

# sections: the headings under which the page has commands.
sections() {
    local section
    sed -n 's/^##* //p' "$root/docs/install.md" | while IFS= read -r section; do
        [ -z "$(commands "$section")" ] || echo "$section"
    done
}

# commands SECTION: one per line, without what only comments.
commands() {
    awk -v section="$1" '
        /^#+ / { on = ($0 ~ /^#+ /) && substr($0, index($0, " ") + 1) == section; next }
        on && /^    / {
            sub(/^ +/, "")
            line = line $0
            if (sub(/\\$/, "", line)) next
            sub(/ *#( .*)?$/, "", line)
            if (line != "") print line
            line = ""
        }' "$root/docs/install.md"
}

# follow SECTION [PATTERN]: checks its commands, or those that match, in their order, by by_hand COMMAND.
follow() {
    local line lines
    mapfile -t lines < <(commands "$1" | grep -E -e "${2:-.}")
    [ ${#lines[@]} -gt 0 ] || check "docs/install.md has commands about $1" false
    for line in "${lines[@]}"; do
        check "install.md: $line" by_hand "$line"
    done
}

# What no suite follows, and why: SECTION|PATTERN|REASON.
not_followed='
Kubernetes|^kubectl |there is no cluster; the suites kubernetes and package-page check what is applied
Upgrade and rollback|^kubectl |there is no cluster
From a repository|^packaging/build |the suites that install from a repository build theirs so
nginx|.|the suite proxy-snippets starts nginx with this file
SELinux|.|Debian has no policy of EL
firewalld|.|Debian has no firewalld of EL
Many clients|.|the box must not change the kernel of this machine
A Unix socket for nginx|.|package-systemd checks who may connect
Several instances|.|package-instances runs them as one script
Verify what you installed|^python3 |package-build has these packages already, by their hashes
From source|^cargo build|the suite build does
From source|^target/|package-debian does the same with the archive
Packages|^packaging/build|package-build builds all targets
Packages|^rpmbuild|package-srpm does so, offline
'

# unaccounted SCRIPT…: the commands that none of these scripts follows and not_followed does not list.
unaccounted() {
    local section line
    sections | while IFS= read -r section; do
        commands "$section" | while IFS= read -r line; do
            grep -qE -f <(patterns "$section" "$@") <<< "$line" || echo "$section: $line"
        done
    done
}

# patterns SECTION SCRIPT…: of the section's commands that are accounted for.
patterns() {
    local section=$1
    awk -F '|' -v section="$section" '$1 == section { print $2 }' <<< "$not_followed"
    shift
    sed -nE "s/^ *follow '$section'( '([^']*)')?$/\2/p" "$@" | sed 's/^$/./'
}

# stale: the entries of not_followed that match no command of the page.
stale() {
    local section pattern
    while IFS='|' read -r section pattern _; do
        [ -z "$section" ] || commands "$section" | grep -qE -e "$pattern" || echo "$section: $pattern"
    done <<< "$not_followed"
}
