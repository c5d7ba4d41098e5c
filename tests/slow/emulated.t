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
EMU_SEED=13 GPTQPIPE=$emu/gptqpipe tokens=6 eval_tokens=200 sh tests/gpu/models.t >"$work/models"
rc=$?
grep -v '^ok' "$work/models" >&2
is $rc 0 'models'
ok "$(grep -q '^1\.\.[1-9]' "$work/models"; echo $?)" 'models: not skipped'
done_testing
