#!/bin/sh
# tests/cli/emulated.t at length: every case and every golden model on the emulated device, in other orders of its threads.
. tests/cli/lib.sh
emu=$(dirname "$GPTQPIPE")/emu
checks=$(dirname "$GPTQPIPE")/tests/gpu
[ -f "$emu/libgptqpipe_cuda.so" ] || skip_all 'the emulated plug-in is not built (make test-build)'
for seed in 11 12; do
    EMU_SEED=$seed "$checks/check_linear" "$emu/libgptqpipe_cuda.so" >"$work/out"
    rc=$?
    grep -v '^ok' "$work/out" >&2
    is $rc 0 "products, seed $seed"
    EMU_SEED=$seed "$checks/check_ops" "$emu/libgptqpipe_cuda.so" small >"$work/out"
    rc=$?
    grep -v '^ok' "$work/out" >&2
    is $rc 0 "other ops, seed $seed"
done
# A device with so little memory that not all prompts find room for their keys and values at once (each wants a second page on the way): the same lines.
for i in 1 2 3 4 5 6 7 8; do echo "Line $i is a line of text about"; done >"$work/prompts"
GPTQPIPE=$emu/gptqpipe
run run manifests/quickstart/model --device cuda --prompts "$work/prompts" --max-tokens 70 --json -q
cp "$work/out" "$work/plenty"
EMU_MB=7 run run manifests/quickstart/model --device cuda --prompts "$work/prompts" --max-tokens 70 --json -q
is $rc 0 'little memory'
ok "$(cmp -s "$work/out" "$work/plenty"; echo $?)" 'little memory: the same lines'
EMU_MB=5 run run manifests/quickstart/model --device cuda --prompts "$work/prompts" --max-tokens 70 --json -q
like "$rc $(cat "$work/err")" '^1 .*cuda:0 has no memory for [a-z ]+: [0-9]+ bytes wanted, [0-9]+ of 5242880 free' 'too little: what for, and how much'
EMU_SEED=13 GPTQPIPE=$emu/gptqpipe tokens=6 eval_tokens=200 sh tests/gpu/models.t >"$work/models"
rc=$?
grep -v '^ok' "$work/models" >&2
is $rc 0 'models'
ok "$(grep -q '^1\.\.[1-9]' "$work/models"; echo $?)" 'models: not skipped'
done_testing
