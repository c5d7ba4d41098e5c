#!/bin/sh
# A store that is killed, or whose system calls fail, at every point of a publish: afterwards it verifies, what was there before is there, the
# error named a path, and the same publish then succeeds. strace injects; build/tests/unit/test_store is the program (see its first lines).
helper=${BUILD:-build}/tests/unit/test_store
[ -x "$helper" ] || { echo "1..0 # SKIP $helper is not built"; exit 0; }
# LeakSanitizer cannot run under ptrace; ThreadSanitizer re-executes itself under strace.
export ASAN_OPTIONS=detect_leaks=0
[ "$MODE" = tsan ] && { echo "1..0 # SKIP not under ThreadSanitizer"; exit 0; }
strace -o /dev/null -e trace=none true 2>/dev/null || { echo "1..0 # SKIP strace cannot trace here"; exit 0; }
work=$(mktemp -d "${TMPDIR:-/tmp}/gptqpipe-fault.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
n=0

check() { # check NAME: reports the status of the command before
    status=$?
    n=$((n + 1))
    if [ $status -eq 0 ]; then echo "ok $n - $1"; else echo "not ok $n - $1"; sed 's/^/# /' "$work/log"; failed=1; fi
}

# The store is whole: no defect told, "first" is a hit, "second" is a hit or absent, never damaged.
whole() {
    verify=$("$helper" verify "$work/c") || { echo "verify: $verify"; return 1; }
    case $verify in
    "records "[12]" bad 0 blobs bad 0 missing 0") ;;
    *) echo "verify: $verify"; return 1 ;;
    esac
    [ "$("$helper" get "$work/c" first)" = hit ] || { echo "first is lost"; return 1; }
    second=$("$helper" get "$work/c" second)
    case $second in
    hit | "no record of key "*) ;;
    *) echo "second: $second"; return 1 ;;
    esac
}

# inject WHAT HOW: lets WHAT fail at its 1st, 2nd, ... call until the publish meets no fault any more.
inject() {
    : >"$work/log"
    when=0 rc=0 fired=0
    while [ $rc -eq 0 ]; do
        when=$((when + 1))
        rm -rf "$work/c"
        "$helper" publish "$work/c" first one >/dev/null || { echo "no first" >>"$work/log"; return 1; }
        said=$(exec 2>/dev/null; strace -f -o "$work/trace" -e trace="$1" -e inject="$1:$2:when=$when" "$helper" publish "$work/c" second two; exit $?)
        said_rc=$?
        grep -q -e INJECTED -e 'killed by SIGKILL' "$work/trace" || break
        fired=$((fired + 1))
        whole >>"$work/log" || { echo "after $1:$2:when=$when" >>"$work/log"; rc=1; }
        case $2 in
        error=EPERM) [ "$said" = ok ] || { echo "$1:$2:when=$when said '$said'" >>"$work/log"; rc=1; } ;;
        error=*) # Either the fault did not matter, or one line names what failed.
            case $said in
            ok) [ $said_rc -eq 0 ] || rc=1 ;;
            "gptqpipe: error: "*"$work/c"*) [ $said_rc -ne 0 ] || rc=1 ;;
            *) echo "$1:$2:when=$when exit $said_rc said '$said'" >>"$work/log"; rc=1 ;;
            esac
            ;;
        esac
        [ "$("$helper" publish "$work/c" second two)" = ok ] || { echo "no recovery after $1:$2:when=$when" >>"$work/log"; rc=1; }
        left=$(ls "$work/c/tmp" | wc -l)
        [ "$left" -eq 0 ] || { echo "$left left in tmp after $1:$2:when=$when" >>"$work/log"; rc=1; }
        [ $when -lt 200 ] || { echo "endless" >>"$work/log"; rc=1; }
    done
    [ $fired -gt 0 ] || { echo "never fired" >>"$work/log"; rc=1; }
    return $rc
}

inject fsync error=ENOSPC;  check "every fsync fails with ENOSPC in turn"
inject fsync error=EIO;     check "every fsync fails with EIO in turn"
inject link error=ENOSPC;   check "every link fails with ENOSPC in turn"
inject link error=EPERM;    check "a file system without hard links: rename serves"
inject mkdir error=ENOSPC;  check "every mkdir fails with ENOSPC in turn"
inject write signal=KILL;   check "killed at every write"
inject fsync signal=KILL;   check "killed at every fsync"
inject link signal=KILL;    check "killed at every link"
inject unlink signal=KILL;  check "killed at every unlink"
inject rmdir signal=KILL;   check "killed at every rmdir"
echo "1..$n"
exit ${failed:-0}
