#!/bin/sh
# tests/gpu/compare.py on figures that were made up: which originals a class is held against, at which M, and within which bounds.
. tests/cli/lib.sh
# ours CLASS FORM M=US...    theirs KERNEL M=US... (US refused: no time)
ours() {
    class=$1 form=$2
    shift 2
    for c in "$@"; do
        echo "{\"class\": \"$class\", \"form\": \"$form\", \"K\": 4096, \"N\": 6144, \"bits\": 4, \"M\": ${c%=*}, \"us\": ${c#*=}, \"pdl_us\": 0.001}"
    done
}
theirs() {
    kernel=$1
    shift
    for c in "$@"; do
        [ "${c#*=}" = refused ] && us='"error": "no"' || us="\"us\": ${c#*=}"
        echo "{\"kernel\": \"$kernel\", \"k\": 4096, \"n\": 6144, \"m\": ${c%=*}, $us}"
    done
}
# verdict OURS...: of files beside $work/peers; the status, the lines that judge
verdict() {
    first=$1
    shift
    python3 tests/gpu/compare.py "$first" "$work/peers" "$@" >"$work/out" 2>&1
    echo "$? $(grep -E 'bounds$|^compare' "$work/out")"
}
{
    theirs marlin 1=10 16=20 256=30 4096=400
    theirs machete 1=20 16=20 256=25 4096=300
    theirs cublas 1=1 16=1 256=1 4096=1
} >"$work/peers"

ours marlin fast 1=10 16=20 256=30 4096=4000 >"$work/a"
is "$(verdict "$work/a")" '0 marlin, fast, M 1..256: 3 cases, geometric mean 1.000 (at most 1), worst 1.000 (at most 1.1) at K, N, M = (4096, 6144, 256): within the bounds' \
    'marlin: beside the original Marlin alone, up to 256 rows'
is "$(sed -n '2p;6p' "$work/out")" '     K x N          M      ours dependent            marlin     ratio
  4096 x 6144    4096   4000.00      0.00            400.00    10.000' 'more rows are shown'
ours marlin fast 1=5 16=20 256=33.1 >"$work/a"
is "$(verdict "$work/a")" '1 marlin, fast, M 1..256: 3 cases, geometric mean 0.820 (at most 1), worst 1.103 (at most 1.1) at K, N, M = (4096, 6144, 256): NOT within the bounds' 'a case too slow'
ours marlin fast 1=10 16=20.2 256=30 >"$work/a"
is "$(verdict "$work/a")" '1 marlin, fast, M 1..256: 3 cases, geometric mean 1.003 (at most 1), worst 1.010 (at most 1.1) at K, N, M = (4096, 6144, 16): NOT within the bounds' 'too slow on the whole'

ours machete fast 1=10.4 16=19 256=25 4096=300 >"$work/a"
is "$(verdict "$work/a")" '0 machete, fast, M 1..4096: 4 cases, geometric mean 0.997 (below 1), worst 1.040 (at most 1.05) at K, N, M = (4096, 6144, 1): within the bounds' \
    'machete: beside the better original of each case, up to 4096 rows'
ours machete product 1=10 16=20 256=25 4096=300 >"$work/b"
is "$(verdict "$work/a" "$work/b")" '1 machete, fast, M 1..4096: 4 cases, geometric mean 0.997 (below 1), worst 1.040 (at most 1.05) at K, N, M = (4096, 6144, 1): within the bounds
machete, product, M 1..4096: 4 cases, geometric mean 1.000 (below 1), worst 1.000 (at most 1.05) at K, N, M = (4096, 6144, 4096): NOT within the bounds' 'as fast is not ahead; one form is enough to fail'
ours machete fast 1=10 16=20 256=20 4096=316 >"$work/a"
is "$(verdict "$work/a")" '1 machete, fast, M 1..4096: 4 cases, geometric mean 0.958 (below 1), worst 1.053 (at most 1.05) at K, N, M = (4096, 6144, 4096): NOT within the bounds' 'more than 5 % behind'

ours machete fast 1=9 16=19 256=24 >"$work/a"
is "$(verdict "$work/a")" '1 compare.py: machete, fast: no case of M = 4096 that both have' 'not measured up to 4096 rows'
ours machete fast 1=9 16=19 256=24 4096=290 >"$work/a"
{
    theirs marlin 1=10 16=20 256=30 4096=400
    theirs machete 1=20 16=refused 256=25 4096=300
} >"$work/peers"
is "$(verdict "$work/a" | cut -c -51)" '0 machete, fast, M 1..4096: 4 cases, geometric mean' 'what one original refuses the other is held to'
{
    theirs marlin 1=10 16=20 256=30 4096=400
    theirs machete 1=refused 16=refused 256=refused 4096=refused
} >"$work/peers"
is "$(verdict "$work/a")" "1 compare.py: $work/peers has no case of the original machete" 'an original that never ran'
: >"$work/a"
is "$(verdict "$work/a")" '1 compare.py: no case of ours' 'nothing of ours'
done_testing
