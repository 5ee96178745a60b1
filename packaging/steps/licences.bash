# What is linked into the program, and under which licences. Sourced by packaging/build.
# shellcheck shell=bash disable=SC2154

# In Rust's libraries for every program, but of the standard library itself, or in no program.
own='alloc|core|getopts|panic_abort|panic_unwind|proc_macro|profiler_builtins|rustc_literal_escaper|rustc_std_workspace_.*|std|std_detect|sysroot|test|unwind'

# Writes $crates, the list of linked crates; $components, what the compiler and the linker add; and
# $licences, the texts of both.
list_licences() {
    local architecture unlisted without
    vendor_crates
    # Linked on Linux, that is without procedural macros, build scripts and test dependencies.
    for architecture in x86_64 aarch64; do
        cargo tree --quiet --locked --offline --edges normal,no-proc-macro \
            --target "$architecture-unknown-linux-gnu" --prefix depth --format '{p}|{l}' > "$work/tree-$architecture"
    done
    crates=$out/wsecho-$version-crates.txt
    cat "$work"/tree-* | sed 's/^[0-9]*//; s/ (\*)$//; s/|/\t/; s/ v/\t/; s/ ([^\t]*)//' | LC_ALL=C sort -u |
        grep -v '^wsecho' > "$crates"
    wrote "$crates"

    components=$work/components
    grep -v '^#' packaging/licences/components > "$components"
    unlisted=$(find "$(of_rust --print target-libdir)" -name 'lib*.rlib' -printf '%f\n' |
        sed -E 's/^lib(.*)-[0-9a-f]+\.rlib$/\1/' | grep -vxE "$own" | LC_ALL=C sort |
        LC_ALL=C comm -23 - <(cut -f 1 "$components" | tr - _ | LC_ALL=C sort))
    [ -z "$unlisted" ] || say "packaging/licences/components lacks these crates of Rust's: ${unlisted//$'\n'/, }"

    find_texts > "$work/texts"
    without=$(cut -f 1,2 "$crates" | tr '\t' ' ' | while read -r name number; do
        grep -q "	$name $number:" "$work/texts" || echo "$name $number"
    done)
    [ -z "$without" ] || say "these crates ship no licence text: ${without//$'\n'/, }"
    licences=$sources/wsecho-$version-licenses.txt
    print_licences > "$licences"
}

# text USER FILE: notes that the licence text in the file is that of the user.
text() { printf '%s\t%s\t%s\n' "$(sha256sum < "$2" | cut -c 1-64)" "$2" "$1"; }

# Those of crates are in the crates themselves, those of components in packaging/licences.
find_texts() {
    local name number license texts file
    while IFS=$'\t' read -r name number license; do
        find "$vendor/$name-$number" -maxdepth 1 -type f \
            \( -iname 'licen[cs]e*' -o -iname 'copying*' -o -iname 'notice*' -o -iname 'unlicense*' \) |
            LC_ALL=C sort | while IFS= read -r file; do
                text "$name $number: ${file##*/}" "$file"
            done
    done < "$crates"
    while IFS=$'\t' read -r name license texts _; do
        for file in $texts; do
            text "$name" "packaging/licences/$file"
        done
    done < "$components"
}

print_licences() {
    local column_width name number license texts hash file
    echo "Licences of the code linked into wsecho $version"
    echo
    echo "Each crate, its version and the licence it is offered under:"
    echo
    column_width=$(cut -f 1 "$crates" | wc -L)
    while IFS=$'\t' read -r name number license; do
        printf "  %-${column_width}s  %-10s  %s\n" "$name" "$number" "$license"
    done < "$crates"
    echo
    echo "What Rust links into every program, and zig into one that cargo zigbuild builds:"
    echo
    column_width=$(cut -f 1 "$components" | wc -L)
    while IFS=$'\t' read -r name license texts _; do
        printf "  %-${column_width}s  %s\n" "$name" "$license"
    done < "$components"
    # Each text once, below the names of all that it is the licence of.
    LC_ALL=C sort -u -s -k 1,1 "$work/texts" | while IFS=$'\t' read -r hash file name; do
        printf '\n%.0s' 1 2
        printf '=%.0s' {1..80}
        echo
        grep "^$hash" "$work/texts" | cut -f 3
        printf -- '-%.0s' {1..80}
        printf '\n\n'
        tr -d '\r' < "$file"
    done
}

# Prints the licence of the whole program: each licence of a part once, wsecho's own first.
whole_licence() {
    { of_spec License; cut -f 3 "$crates"; cut -f 2 "$components"; } | awk '
        {
            # Crates of old have a slash for OR.
            gsub(/ *\/ */, " OR ")
            parts = split($0, part, / AND /)
            for (p = 1; p <= parts; p++) {
                gsub(/[()]/, "", part[p])
                count = split(part[p], choice, / OR /)
                # In another order it is the same choice.
                for (i = 2; i <= count; i++)
                    for (j = i; j > 1 && choice[j] < choice[j - 1]; j--) {
                        swap = choice[j]; choice[j] = choice[j - 1]; choice[j - 1] = swap
                    }
                licence = choice[1]
                for (i = 2; i <= count; i++) licence = licence " OR " choice[i]
                if (count > 1) licence = "(" licence ")"
                if (!seen[licence]++) whole = whole (whole ? " AND " : "") licence
            }
        }
        END { print whole }'
}
