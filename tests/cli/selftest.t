#!/bin/sh
# selftest on the CPU: every row, wrong inputs, a GPU that is not there. On an emulated device, which takes minutes: tests/slow/selftest.t.
. tests/cli/lib.sh

# The CPU, in every row that this machine runs.
isas='scalar'
case $("$GPTQPIPE" doctor) in *avx512*) isas='scalar avx2 avx512' ;; *avx2*) isas='scalar avx2' ;; esac
run selftest --device cpu
is "$rc $(cat "$work/err")" '0 ' 'the CPU passes'
for isa in $isas; do
    is "$(awk -v i="$isa" '$1 == i { print $2 }' "$work/out" | tr '\n' ' ')" 'products joined chain rmsnorm rope silu add embed attention logits sample calibrate ' "$isa: all groups"
done
is "$(grep -c '^scalar .* the bits of class cpu' "$work/out")" 12 'the scalar row has the bits of its class'
is "$(tail -n 1 "$work/out")" passed 'the verdict'
ok "$([ ! -e "$work/cache" ]; echo $?)" 'nothing is kept of the CPU'
run selftest --device cpu --isa scalar --threads 3 --json
is "$(python3 -c '
import json, sys
lines = [json.loads(l) for l in open(sys.argv[1])]
print({l["on"] for l in lines[:-1]}, len(lines), all(l["passed"] for l in lines), lines[0]["name"], lines[0]["cases"] > 100, 0 < lines[0]["worst"] < lines[0]["bound"], sorted(lines[-1].items()))' "$work/out")" \
    "{'scalar'} 13 True products True True [('auto_takes_gpu', False), ('passed', True)]" 'one row, as JSON'
fails 64 "unknown device 'gpu' \(auto, cpu or cuda\[:N\]\)" 'an unknown device' selftest --device gpu
fails 64 '\-\-limit wants a whole number from 1 to 3600, not .0.' 'no limit' selftest --limit 0
fails 64 'selftest wants no arguments, not 1 argument' 'an argument' selftest all
cp "$GPTQPIPE" "$work/alone"
GPTQPIPE=$work/alone
run selftest
is "$rc $(tail -n 2 "$work/out" | tr '\n' '|')" '0 cuda      not tested: no CUDA plug-in: libgptqpipe_cuda.so is neither beside the program nor in ../lib/gptqpipe|passed|' 'auto: no plug-in is said, and no failure'
run selftest --device cuda
is "$rc $(cat "$work/err")" "1 gptqpipe: error: device 'cuda': no CUDA plug-in: libgptqpipe_cuda.so is neither beside the program nor in ../lib/gptqpipe" 'asked for: it is one'
done_testing
