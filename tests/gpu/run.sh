#!/bin/sh
# All GPU tests, or parts of what a card should be asked, each short enough for one call of ten minutes on a lent machine. In this order they tell most first:
#   run.sh [OPTION...] BUILD     of a build folder
#   run.sh [OPTION...]           of an unpacked tarball, from its top folder
#     --first      the tests that tell most: kernels that may hang under guard, each class of kernels, whole models
#     --rest       the other tests: all ops, large products, repeats, all cases of the Machete kernel
#     --bench      speed of ops and of the Marlin and Machete kernels
#     --sanitize   compute-sanitizer over small cases
#     --tune       rows for kernels/select.def and configs for marlin_choose.c and machete_choose.c
#     --all        these five in one call; without an option the first two
#     --limit S    S seconds for each part of the run, instead of its own limit
#     --peers DIR  with --bench: beside the original Marlin and Machete that `peer_kernels.py build DIR` made (PYTHON: one that has its torch)
#     --out DIR    where files of figures go (default .)
# A part that fails, or has not ended at its limit, does not stop the rest. At the end: each part, its seconds and its verdict. Exit status is the verdict; without a GPU every
# part skips by name. GPTQPIPE_SHARED names the folder with models/, golden/ and tools/ (default ../shared).
cd "$(dirname "$0")/../.." || exit 1
first=0 rest=0 bench=0 sanitize=0 tune=0 only='' peers='' out=.
while [ $# -gt 0 ]; do
    case $1 in
    --first) first=1 ;;
    --rest) rest=1 ;;
    --bench) bench=1 ;;
    --sanitize) sanitize=1 ;;
    --tune) tune=1 ;;
    --all) first=1 rest=1 bench=1 sanitize=1 tune=1 ;;
    --limit) only=$2; shift ;;
    --peers) peers=$2; shift ;;
    --out) out=$2; shift ;;
    -*) sed -n '2,16s/^# \{0,1\}//p' "$0" >&2; exit 64 ;;
    *) break ;;
    esac
    shift
done
[ $((first + rest + bench + sanitize + tune)) -gt 0 ] || first=1 rest=1
if [ $# -gt 0 ]; then
    program=$1/gptqpipe checks=$1/tests/gpu plugin=$1/libgptqpipe_cuda.so kernel=build/cuda guard=build/cuda-guard/check_machete
else
    program=bin/gptqpipe checks=tests/gpu plugin=lib/gptqpipe/libgptqpipe_cuda.so kernel=tests/gpu guard=tests/gpu/check_machete_guard
fi
if [ ! -f "$plugin" ]; then
    echo "run.sh: SKIP: this build has no CUDA plug-in ($plugin)"
    exit 0
fi
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM
failed=0
: >"$tmp/summary"
# sum_up NAME SECONDS VERDICT
sum_up() { printf '%-48s %5s s  %s\n' "$1" "$2" "$3" >>"$tmp/summary"; }
skip() {
    echo "== $1: SKIP: $2"
    sum_up "$1" 0 "SKIP: $2"
}
# part NAME COMMAND...: for at most $limit seconds
part() {
    name=$1 start=$(date +%s) seconds=${only:-$limit}
    shift
    echo "== $name: at most $seconds s"
    { timeout -k 5 "$seconds" "$@"; echo $? >"$tmp/status"; } 2>&1 | tee "$tmp/log"
    status=$(cat "$tmp/status")
    case $status in
    0) verdict=$(sed -n 's/^1\.\.0 # \(SKIP\) \(.*\)/\1: \2/p' "$tmp/log" | head -n 1) ;;
    124 | 137) verdict="FAILED: not over after $seconds s" ;;
    *) verdict="FAILED: status $status" ;;
    esac
    [ "$status" = 0 ] || failed=1
    verdict=${verdict:-passed}
    echo "== $name: $(($(date +%s) - start)) s, $verdict"
    sum_up "$name" $(($(date +%s) - start)) "$verdict"
}
on_card() { # what would fail without a GPU
    card=$("$program" doctor --device cuda | sed -n 's/^cuda *//p')
    case $card in
    cuda:*) part "$@" ;;
    *) skip "$1" "$card" ;;
    esac
}
# sanitized WHAT PROGRAM ARGS...: under $tool, where the program is there
sanitized() {
    what=$1
    shift
    # shellcheck disable=SC2086
    [ ! -x "$1" ] || part "${tool%% *}: $what" compute-sanitizer --tool $tool --error-exitcode 9 "$@"
}
if [ $first = 1 ]; then
    limit=60
    on_card 'selftest' "$program" selftest --device cuda --limit 30
    limit=75
    if [ -x "$guard" ]; then
        part 'the Machete kernel under guard' "$guard" --small
    elif [ -x "$kernel/check_machete" ]; then
        part 'the Machete kernel, small' "$kernel/check_machete" --small
    else
        skip 'the Machete kernel, small' "no $kernel/check_machete (make gpu-programs)"
    fi
    if [ -x "$kernel/check_marlin" ]; then
        part 'the Marlin kernel' "$kernel/check_marlin"
    else
        skip 'the Marlin kernel' "no $kernel/check_marlin (make gpu-programs)"
    fi
    limit=50
    for class in marlin machete simple; do
        part "products of class $class, small" "$checks/check_linear" "$plugin" small $class
    done
    limit=180
    part 'models' env GPTQPIPE="$program" sh tests/gpu/models.t
fi
if [ $rest = 1 ]; then
    limit=90
    part 'ops' "$checks/check_ops" "$plugin"
    limit=180
    part 'products' "$checks/check_linear" "$plugin" full
    limit=90
    part '100 repeats' "$checks/check_linear" "$plugin" repeat
    limit=180
    [ ! -x "$kernel/check_machete" ] || part 'the Machete kernel' "$kernel/check_machete"
fi
if [ $bench = 1 ]; then
    limit=90
    on_card 'speed of ops' "$program" bench --device cuda
    if [ -x "$kernel/bench_class" ]; then
        part 'speed of the Marlin kernel' "$kernel/bench_class" --class marlin --act bf16 --json "$out/marlin.jsonl"
        part 'and where bits do not depend on M' "$kernel/bench_class" --class marlin --act bf16 --fixed --bits 4 --json "$out/marlin-fixed.jsonl"
        part 'and as the plug-in feeds it' "$kernel/bench_class" --class marlin --act bf16 --halves --bits 4 --json "$out/marlin-product.jsonl"
        part 'speed of the Machete kernel' "$kernel/bench_class" --class machete --act bf16 --json "$out/machete.jsonl"
        part 'and as the plug-in feeds it' "$kernel/bench_class" --class machete --act bf16 --halves --bits 4 --json "$out/machete-product.jsonl"
    else
        skip 'speed of the Marlin and Machete kernels' "no $kernel/bench_class (make gpu-programs)"
    fi
    if [ -n "$peers" ]; then
        part 'speed of the originals' sh -c '"$0" "$1" bench "$2" >"$3"' "${PYTHON:-python3}" "${GPTQPIPE_SHARED:-../shared}/tools/peer_kernels.py" "$peers" "$out/peers.jsonl"
        for class in marlin machete; do
            part "$class beside the originals" python3 tests/gpu/compare.py "$out/$class.jsonl" "$out/peers.jsonl" "$out/$class-product.jsonl"
        done
    fi
fi
if [ $sanitize = 1 ] && ! command -v compute-sanitizer >/dev/null; then
    skip 'sanitizers' 'compute-sanitizer is not installed'
elif [ $sanitize = 1 ]; then
    limit=70
    for tool in 'memcheck --leak-check no' racecheck; do
        sanitized 'the Marlin kernel' "$kernel/check_marlin" --small
        sanitized 'the Machete kernel' "$kernel/check_machete" --small
        sanitized 'products' "$checks/check_linear" "$plugin" small
        sanitized 'ops' "$checks/check_ops" "$plugin" small
    done
fi
if [ $tune = 1 ]; then
    limit=180
    on_card 'classes' "$program" bench --device cuda --tune
    for class in marlin machete; do
        [ ! -x "$kernel/bench_class" ] || part "configs of $class" "$kernel/bench_class" --class $class --tune --shapes 4 --bits 4
    done
fi
echo '== summary'
cat "$tmp/summary"
[ $failed = 0 ] && echo '== all passed' || echo '== FAILED'
exit $failed
