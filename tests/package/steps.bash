# Shared by the package tests, on top of what all suites share: checks and their results.
# shellcheck shell=bash disable=SC2034
# shellcheck source-path=SCRIPTDIR source=../common.sh

. "${BASH_SOURCE[0]%/*}/../common.sh"
work=$(mktemp -d)
failed=0
# What packaging/build is given, if anything: the program to package instead of building one. wsecho itself would
# warn about the variable.
given=(${WSECHO_BINARY:+--binary "$WSECHO_BINARY"})
export -n WSECHO_BINARY

# check SENTENCE COMMAND…: the sentence is true if the command succeeds.
check() {
    local sentence=$1
    shift
    if "$@" > "$work/output" 2>&1; then
        printf 'ok      %s\n' "$sentence"
    else
        printf 'FAILED  %s\n' "$sentence"
        printf '        | %s\n' "$*"
        tail -n 40 "$work/output" | sed 's/^/        | /'
        failed=$((failed + 1))
    fi
}

# fails COMMAND…: succeeds if the command fails.
fails() { ! "$@"; }

# says WORD COMMAND…: the command's output contains the word, whatever its exit code.
says() {
    local word=$1 output
    shift
    output=$("$@" 2>&1) || true
    [[ $output == *"$word"* ]] || { printf 'no "%s" in:\n%s\n' "$word" "$output"; return 1; }
}

# is EXPECTED COMMAND…: the command's output is exactly this.
is() {
    local expected=$1 output
    shift
    output=$("$@" 2>&1) || true
    [ "$output" = "$expected" ] || { printf 'expected: %s\ngot: %s\n' "$expected" "$output"; return 1; }
}

# silent COMMAND…: the command succeeds and prints nothing.
silent() {
    local output
    if ! output=$("$@" 2>&1) || [ -n "$output" ]; then
        printf '%s\n' "$output"
        return 1
    fi
}

# within SECONDS COMMAND…: the command succeeds in time; it is retried until then.
within() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $end ] || { echo "not in time: $*"; return 1; }
        sleep 0.05
    done
}

finish() {
    if [ $failed -gt 0 ]; then
        printf '%s checks failed\n' "$failed"
        exit 1
    fi
    exit 0
}

# needs ITEM...: Debian packages, each given as PACKAGE or as COMMAND=PACKAGE.
needs() {
    local item
    for item in "$@"; do
        need "${item%%=*}" "${item#*=}"
    done
}

# needs_python: sets $python to a Python with a WebSocket client.
needs_python() {
    need_clients
    python=$kept/bin/python
}

# sums_are_right DIRECTORY: its SHA256SUMS lists exactly what is there, but for a repository.
sums_are_right() {
    (cd "$1" && sha256sum --quiet -c SHA256SUMS &&
        diff <(cut -c 67- SHA256SUMS) <(find . -path ./repo -prune -o -type f ! -name 'SHA256SUMS*' -printf '%P\n' | LC_ALL=C sort))
}

# copy_checkout DIRECTORY: the files of the checkout, as they are now, in another one.
copy_checkout() {
    mkdir -p "$1"
    git ls-files -z --cached --others --exclude-standard |
        while IFS= read -r -d '' file; do [ ! -e "$file" ] || printf '%s\0' "$file"; done |
        tar --null -T - -c | tar -x -C "$1"
}
