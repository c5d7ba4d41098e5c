# shellcheck shell=sh
# TAP for command-line tests. Source it, test, call `done_testing`.
#   ok STATUS WHAT     is GOT WANT WHAT     like TEXT PATTERN WHAT (extended regexp)     skip_all WHY     skip COUNT WHY
#   run ARGS...        runs the program: $rc, files $work/out and $work/err
# Each test file has a folder $work of its own and a cache in it. $SHARED names the shared data, empty when it is missing.
set -u
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export GPTQPIPE_CACHE="$work/cache" CI='' LC_ALL=C
GPTQPIPE=$(realpath "${GPTQPIPE:-build/gptqpipe}")
SHARED=${GPTQPIPE_SHARED:-../shared}
if [ -d "$SHARED" ]; then SHARED=$(realpath "$SHARED"); else SHARED=''; fi
ROOT=$(pwd)
tests=0
failures=0

ok() {
    tests=$((tests + 1))
    if [ "$1" -eq 0 ]; then
        echo "ok $tests - $2"
    else
        failures=$((failures + 1))
        echo "not ok $tests - $2"
    fi
}
is() {
    if [ "$1" = "$2" ]; then ok 0 "$3"; else
        ok 1 "$3"
        printf '#      got: %s\n# expected: %s\n' "$1" "$2" >&2
    fi
}
like() {
    if printf '%s\n' "$1" | grep -Eq -- "$2"; then ok 0 "$3"; else
        ok 1 "$3"
        printf '#      got: %s\n# expected: /%s/\n' "$1" "$2" >&2
    fi
}
skip() {
    i=0
    while [ "$i" -lt "$1" ]; do
        tests=$((tests + 1))
        i=$((i + 1))
        echo "ok $tests # SKIP $2"
    done
}
skip_all() {
    echo "1..0 # SKIP $1"
    exit 0
}
run() {
    "$GPTQPIPE" "$@" >"$work/out" 2>"$work/err"
    rc=$?
    return 0
}
# fails STATUS PATTERN WHAT ARGS...: the command exits so, with exactly one line on stderr that matches.
fails() {
    want_rc=$1 want=$2 what=$3
    shift 3
    run "$@"
    is "$rc" "$want_rc" "$what: exit status"
    like "$(cat "$work/err")" "$want" "$what: message"
    is "$(wc -l <"$work/err")" 1 "$what: one line"
}
done_testing() {
    echo "1..$tests"
    exit $((failures > 0))
}
