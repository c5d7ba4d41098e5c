#!/bin/sh
# All GPU tests, or with --all everything that a card should be asked in one call: tests, sanitizers, speed, tables.
#   run.sh [OPTION...] BUILD     of a build folder
#   run.sh [OPTION...]           of an unpacked tarball, from its top folder
#     --sanitize   compute-sanitizer over small cases instead of the tests
#     --bench      speed of ops and of the Marlin and Machete kernels instead of the tests
#     --tune       rows for kernels/select.def and configs for marlin_choose.c and machete_choose.c instead of the tests
#     --all        the tests, then these three; a failure does not stop the rest
#     --peers DIR  with --bench: beside the original Marlin that `peer_kernels.py build DIR` made (PYTHON: one that has its torch)
#     --out DIR    where files of figures go (default .)
# Exit status is the verdict; without a GPU every part skips by name. GPTQPIPE_SHARED names the folder with models/, golden/ and tools/ (default ../shared).
cd "$(dirname "$0")/../.." || exit 1
test=1 sanitize=0 bench=0 tune=0 peers='' out=.
while [ $# -gt 0 ]; do
    case $1 in
    --sanitize) sanitize=1 test=0 ;;
    --bench) bench=1 test=0 ;;
    --tune) tune=1 test=0 ;;
    --all) sanitize=1 bench=1 tune=1 all=1 ;;
    --peers) peers=$2; shift ;;
    --out) out=$2; shift ;;
    -*) sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 64 ;;
    *) break ;;
    esac
    shift
done
[ -z "${all:-}" ] || test=1
if [ $# -gt 0 ]; then
    program=$1/gptqpipe checks=$1/tests/gpu plugin=$1/libgptqpipe_cuda.so kernel=build/cuda
else
    program=bin/gptqpipe checks=tests/gpu plugin=lib/gptqpipe/libgptqpipe_cuda.so kernel=tests/gpu
fi
if [ ! -f "$plugin" ]; then
    echo "run.sh: SKIP: this build has no CUDA plug-in ($plugin)"
    exit 0
fi
failed=0
part() {
    name=$1 start=$(date +%s)
    shift
    echo "== $name"
    "$@" || { failed=1; echo "== $name FAILED"; }
    echo "== $name: $(($(date +%s) - start)) s"
}
on_card() { # what would fail without a GPU
    card=$("$program" doctor --device cuda | sed -n 's/^cuda *//p')
    case $card in
    cuda:*) part "$@" ;;
    *) echo "== $1: SKIP: $card" ;;
    esac
}
memcheck() { compute-sanitizer --tool memcheck --leak-check no --error-exitcode 9 "$@"; }
racecheck() { compute-sanitizer --tool racecheck --error-exitcode 9 "$@"; }
if [ $test = 1 ]; then
    part 'ops' "$checks/check_ops" "$plugin"
    part 'products' "$checks/check_linear" "$plugin" full
    part '100 repeats' "$checks/check_linear" "$plugin" repeat
    if [ -x "$kernel/check_marlin" ]; then
        part 'the Marlin kernel' "$kernel/check_marlin"
        part 'the Machete kernel' "$kernel/check_machete"
    else
        echo "== the Marlin kernel: SKIP: no $kernel/check_marlin (make gpu-programs)"
    fi
    part 'models' env GPTQPIPE="$program" sh tests/gpu/models.t
fi
if [ $sanitize = 1 ] && ! command -v compute-sanitizer >/dev/null; then
    echo '== sanitizers: SKIP: compute-sanitizer is not installed'
elif [ $sanitize = 1 ]; then
    for tool in memcheck racecheck; do
        part "$tool: ops" $tool "$checks/check_ops" "$plugin" small
        part "$tool: products" $tool "$checks/check_linear" "$plugin" small
        [ ! -x "$kernel/check_marlin" ] || part "$tool: the Marlin kernel" $tool "$kernel/check_marlin" --small
        [ ! -x "$kernel/check_machete" ] || part "$tool: the Machete kernel" $tool "$kernel/check_machete" --small
    done
fi
if [ $bench = 1 ]; then
    on_card 'speed of ops' "$program" bench --device cuda
    if [ -x "$kernel/bench_class" ]; then
        part 'speed of the Marlin kernel' "$kernel/bench_class" --class marlin --act bf16 --json "$out/marlin.jsonl"
        part 'and where bits do not depend on M' "$kernel/bench_class" --class marlin --act bf16 --fixed --bits 4 --json "$out/marlin-fixed.jsonl"
        part 'speed of the Machete kernel' "$kernel/bench_class" --class machete --act bf16 --json "$out/machete.jsonl"
    else
        echo "== speed of the Marlin and Machete kernels: SKIP: no $kernel/bench_class (make gpu-programs)"
    fi
    if [ -n "$peers" ]; then
        part 'speed of the original' sh -c '"$0" "$1" bench "$2" >"$3"' "${PYTHON:-python3}" "${GPTQPIPE_SHARED:-../shared}/tools/peer_kernels.py" "$peers" "$out/peers.jsonl"
        part 'beside the original' python3 tests/gpu/compare.py "$out/marlin.jsonl" "$out/peers.jsonl"
    fi
fi
if [ $tune = 1 ]; then
    on_card 'classes' "$program" bench --device cuda --tune
    for class in marlin machete; do
        [ ! -x "$kernel/bench_class" ] || part "configs of $class" "$kernel/bench_class" --class $class --tune --shapes 4 --bits 4
    done
fi
[ $failed = 0 ] && echo '== all passed' || echo '== FAILED'
exit $failed
