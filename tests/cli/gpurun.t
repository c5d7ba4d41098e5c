#!/bin/sh
# tests/gpu/run.sh without a card: which parts each option runs and in which order, and what becomes of one that fails, hangs or skips. Stand-ins for the programs say how they
# were called.
. tests/cli/lib.sh
top=$work/top
mkdir -p "$top/tests/gpu" "$top/bin" "$top/lib/gptqpipe"
cp tests/gpu/run.sh "$top/tests/gpu/"
run_sh() { sh "$top/tests/gpu/run.sh" "$@" >"$work/out" 2>&1; }
# summary: of the last run, without the seconds
summary() { sed -n '/^== summary/,$p' "$work/out" | sed '1d; s/  *[0-9]* s  /: /'; }

run_sh
is "$? $(cat "$work/out")" '0 run.sh: SKIP: this build has no CUDA plug-in (lib/gptqpipe/libgptqpipe_cuda.so)' 'no plug-in'
: >"$top/lib/gptqpipe/libgptqpipe_cuda.so"
for p in check_machete_guard check_marlin check_machete check_linear check_ops bench_class; do
    printf '#!/bin/sh\necho "called %s $*"\n' $p >"$top/tests/gpu/$p"
    chmod +x "$top/tests/gpu/$p"
done
# shellcheck disable=SC2016
echo 'echo "called models.t for $GPTQPIPE"' >"$top/tests/gpu/models.t"
# card DOCTOR_LINE: the program, which finds such a card
card() {
    # shellcheck disable=SC2016
    printf '#!/bin/sh\n[ "$1" != doctor ] || { echo "%s"; exit; }\necho "called gptqpipe $*"\n' "$1" >"$top/bin/gptqpipe"
    chmod +x "$top/bin/gptqpipe"
}
card 'cuda      cuda:0 a card, class cuda-sm90'

so=lib/gptqpipe/libgptqpipe_cuda.so
run_sh --first
is "$? $(grep '^called' "$work/out")" "0 called gptqpipe selftest --device cuda --limit 30
called check_machete_guard --small
called check_marlin 
called check_linear $so small marlin
called check_linear $so small machete
called check_linear $so small simple
called models.t for bin/gptqpipe" '--first'
is "$(summary)" 'selftest: passed
the Machete kernel under guard: passed
the Marlin kernel: passed
products of class marlin, small: passed
products of class machete, small: passed
products of class simple, small: passed
models: passed
== all passed' '--first: the summary'
run_sh --rest
is "$? $(grep '^called' "$work/out")" "0 called check_ops $so
called check_linear $so full
called check_linear $so repeat
called check_machete " '--rest'
run_sh
is "$(grep -c '^called' "$work/out")" 11 'no option: both'
run_sh --bench --tune --out "$work"
is "$? $(grep '^called' "$work/out" | sed "s, $work/, ,")" "0 called gptqpipe bench --device cuda
called bench_class --class marlin --act bf16 --json marlin.jsonl
called bench_class --class marlin --act bf16 --fixed --bits 4 --json marlin-fixed.jsonl
called bench_class --class marlin --act bf16 --halves --bits 4 --json marlin-product.jsonl
called bench_class --class machete --act bf16 --json machete.jsonl
called bench_class --class machete --act bf16 --halves --bits 4 --json machete-product.jsonl
called gptqpipe bench --device cuda --tune
called bench_class --class marlin --tune --shapes 4 --bits 4
called bench_class --class machete --tune --shapes 4 --bits 4" '--bench --tune'
mkdir "$work/path"
printf '#!/bin/sh\necho "called python $*"\n' >"$work/path/python3"
chmod +x "$work/path/python3"
PATH=$work/path:$PATH GPTQPIPE_SHARED=shared run_sh --bench --peers peers --out "$work"
is "$? $(grep -h '^called python' "$work/out" "$work/peers.jsonl" | sed "s, $work/, ,g")" "0 called python tests/gpu/compare.py marlin.jsonl peers.jsonl marlin-product.jsonl
called python tests/gpu/compare.py machete.jsonl peers.jsonl machete-product.jsonl
called python shared/tools/peer_kernels.py bench peers" '--peers: each class beside the originals'
rm "$work/path/python3"
# shellcheck disable=SC2016
printf '#!/bin/sh\necho "called $*"\n' >"$work/path/compute-sanitizer"
chmod +x "$work/path/compute-sanitizer"
PATH=$work/path:$PATH run_sh --sanitize
is "$? $(grep -c '^called' "$work/out") $(grep '^called' "$work/out" | sed -n '1p;8p')" "0 8 called --tool memcheck --leak-check no --error-exitcode 9 tests/gpu/check_marlin --small
called --tool racecheck --error-exitcode 9 tests/gpu/check_ops $so small" '--sanitize'
# The limits of one option fit a call of ten minutes.
for option in first rest bench sanitize tune; do
    PATH=$work/path:$PATH run_sh --$option --out "$work"
    seconds=$(awk '/: at most [0-9]+ s$/ { sum += $(NF - 1) } END { print sum }' "$work/out")
    ok "$([ "$seconds" -gt 200 ] && [ "$seconds" -le 570 ]; echo $?)" "--$option: at most $seconds s"
done
run_sh --frist
is "$? $(head -n 1 "$work/out")" '64 All GPU tests, or parts of what a card should be asked, each short enough for one call of ten minutes on a lent machine. In this order they tell most first:' 'an unknown option'

# One fails, one hangs (with a child), one skips, one is not there: the others run.
printf '#!/bin/sh\necho not ok 1\nexit 3\n' >"$top/tests/gpu/check_machete_guard"
# shellcheck disable=SC2016
printf '#!/bin/sh\necho $$ >"%s/hung"\nsleep 60 &\nwait\n' "$work" >"$top/tests/gpu/check_marlin"
# shellcheck disable=SC2016
printf '#!/bin/sh\n[ "$3" != machete ] || echo "1..0 # SKIP no such class here"\n' >"$top/tests/gpu/check_linear"
rm "$top/tests/gpu/check_machete"
run_sh --first --rest --limit 1
is "$?" 1 'the verdict'
is "$(summary)" 'selftest: passed
the Machete kernel under guard: FAILED: status 3
the Marlin kernel: FAILED: not over after 1 s
products of class marlin, small: passed
products of class machete, small: SKIP: no such class here
products of class simple, small: passed
models: passed
ops: passed
products: passed
100 repeats: passed
== FAILED' 'what failed, hung and skipped, by name'
ok "$(kill -0 "$(cat "$work/hung")" 2>/dev/null; echo $((! $?)))" 'what hung has ended'
rm "$top/tests/gpu/check_machete_guard" "$top/tests/gpu/check_marlin"
card 'cuda      no CUDA device 0: there is none (device auto takes the CPU)'
run_sh --first
is "$? $(summary | head -n 3)" '0 selftest: SKIP: no CUDA device 0: there is none (device auto takes the CPU)
the Machete kernel, small: SKIP: no tests/gpu/check_machete (make gpu-programs)
the Marlin kernel: SKIP: no tests/gpu/check_marlin (make gpu-programs)' 'programs that are not there, and no card'

done_testing
