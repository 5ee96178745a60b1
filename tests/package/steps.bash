# What the package tests share: their verdicts, and how they get what they need.
# shellcheck shell=bash disable=SC2034

top=$(cd "${BASH_SOURCE[0]%/*}/../.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/wsecho-tests
work=$(mktemp -d)
failed=0

# check SENTENCE COMMAND…: the sentence holds if the command succeeds.
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

# fails COMMAND…: for checks of what must be refused.
fails() { ! "$@"; }

# says WORD COMMAND…: the command's output contains the word, whatever its exit code.
says() {
    local word=$1 output
    shift
    output=$("$@" 2>&1) || true
    [[ $output == *"$word"* ]] || { printf 'no "%s" in:\n%s\n' "$word" "$output"; return 1; }
}

# is EXPECTED COMMAND…: the command's output is this.
is() {
    local expected=$1 output
    shift
    output=$("$@" 2>&1) || true
    [ "$output" = "$expected" ] || { printf 'expected: %s\ngot: %s\n' "$expected" "$output"; return 1; }
}

# silent COMMAND…: succeeds, and prints nothing.
silent() {
    local output
    if ! output=$("$@" 2>&1) || [ -n "$output" ]; then
        printf '%s\n' "$output"
        return 1
    fi
}

# within SECONDS COMMAND…: the condition becomes true in time.
within() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $end ] || { echo "not in time: $*"; return 1; }
        sleep 0.05
    done
}

skip() {
    printf 'skipped: %s\n' "$*"
    exit 77
}

finish() {
    if [ $failed -gt 0 ]; then
        printf '%s checks failed\n' "$failed"
        exit 1
    fi
    exit 0
}

# Debian packages, given as PACKAGE or as COMMAND=PACKAGE.
need() {
    local item missing=()
    for item in "$@"; do
        command -v "${item%%=*}" > /dev/null || missing+=("${item#*=}")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
        skip "needs ${missing[*]}, and only root on Debian can install that here"
    fi
    echo "installing ${missing[*]}"
    {
        timeout 120 apt-get update -qq &&
            DEBIAN_FRONTEND=noninteractive timeout 300 apt-get install -y -qq \
                -o DPkg::Lock::Timeout=200 --no-install-recommends "${missing[@]}"
    } > "$work/apt" 2>&1 || { tail -n 5 "$work/apt"; skip "cannot install ${missing[*]}"; }
}

# A folder of Python programs with these PyPI packages: its path stands in $venv afterwards.
need_python() {
    venv=$cache/$1
    shift
    mkdir -p "$venv"
    # One at a time: two tests may find it missing.
    exec 9> "$venv.lock"
    flock -w 300 9
    if [ "$(cat "$venv/tools" 2> /dev/null)" != "$*" ]; then
        echo "installing $* into $venv"
        { python3 -m venv --clear "$venv" && timeout 300 "$venv/bin/pip" install --quiet "$@"; } \
            > "$work/pip" 2>&1 || { tail -n 5 "$work/pip"; skip "cannot install $*"; }
        echo "$*" > "$venv/tools"
    fi
    exec 9>&-
}
