#!/bin/sh
# The CUDA plug-in's own sources on an emulated device (tests/emu): kernels, host code and the program above them, without a GPU.
. tests/cli/lib.sh
emu=$(dirname "$GPTQPIPE")/emu
checks=$(dirname "$GPTQPIPE")/tests/gpu
[ -f "$emu/libgptqpipe_cuda.so" ] || skip_all 'the emulated plug-in is not built (make test-build)'
"$checks/check_linear" "$emu/libgptqpipe_cuda.so" small >"$work/linear"
rc=$?
grep -v '^ok' "$work/linear" >&2
is $rc 0 'products'
EMU_SM=86 "$checks/check_linear" "$emu/libgptqpipe_cuda.so" small marlin >"$work/linear86"
rc=$?
grep -v '^ok' "$work/linear86" >&2
is $rc 0 'products of kernel marlin in 99 KB of shared memory'
is "$("$checks/check_linear" "$emu/libgptqpipe_cuda.so" small machete | tail -n +2)" "ok 1 - machete is not there: kernel 'machete' cannot serve 64 x 128 in 4 bits, group 128: the emulated device does not run kernel machete
1..1" 'kernel machete: the emulated device has none, and says so'
"$checks/bench_ops" "$emu/libgptqpipe_cuda.so" --tune small >"$work/tune"
is "$? $(grep -cE '^SELECT\([48], [0-9]+, [0-9]+, (simple|marlin)\) /\* simple .* us \*/$' "$work/tune")" '0 4' 'rows for select.def'
EMU_SEED=${EMU_SEED:-2} "$checks/check_ops" "$emu/libgptqpipe_cuda.so" small >"$work/ops"
rc=$?
grep -v '^ok' "$work/ops" >&2
is $rc 0 'other ops'
GPTQPIPE=$emu/gptqpipe few=1 tokens=2 eval_tokens=30 sh tests/gpu/models.t >"$work/models" 2>"$work/models.err"
rc=$?
grep -v '^ok' "$work/models" >&2
[ $rc -eq 0 ] || cat "$work/models.err" >&2
is $rc 0 'models'
ok "$(grep -q '^1\.\.[1-9]' "$work/models"; echo $?)" 'models: not skipped'
GPTQPIPE=$emu/gptqpipe
run doctor
like "$(cat "$work/out")" '^selftest  not tested on this device: ' 'auto leaves GPU code alone that has not passed selftest here (selftest.t)'
run run manifests/quickstart/model --prompt a --max-tokens 1 --json -q
like "$rc $(cat "$work/out")" '^0 .*"q_proj": ?"cpu/bf16"' 'and computes on the CPU'
cp -r tests/vectors/quickstart-w4g128 "$work/q" && cp manifests/quickstart/model/tokenizer.json "$work/q/"
EMU_MB=1 run run "$work/q" --prompt a --max-tokens 1 --device cuda -q
like "$rc $(cat "$work/err")" '^1 gptqpipe: error: model\.layers\.[0-4]\.[a-z_.]+: cuda:0 has no memory for [a-z ]+: [0-9]+ bytes wanted, [0-9]+ of 1048576 free$' 'out of memory: which module, what for, how much'
done_testing
