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
EMU_SM=100 EMU_PTX=80 "$checks/check_linear" "$emu/libgptqpipe_cuda.so" queue marlin >"$work/linear100"
rc=$?
grep -v '^ok' "$work/linear100" >&2
is $rc 0 'products of code made of PTX for 8.0: no launch overlaps the one before'
is "$("$checks/check_linear" "$emu/libgptqpipe_cuda.so" small machete | tail -n +2)" "ok 1 - machete is not there: kernel 'machete' cannot serve 64 x 128 in 4 bits, group 128: the emulated device does not run kernel machete
1..1" 'kernel machete: the emulated device has none, and says so'
# bench: products of every class, rows for select.def. Times say nothing here; what is made of them does.
few='--shape 64x64 --shape 128x256 --rows 1,16 --copies 2 --seconds 0'
left="kernel 'machete' cannot serve 128 x 256 in 4 bits, group 128: the emulated device does not run kernel machete"
# shellcheck disable=SC2086
EMU_MB=64 "$emu/gptqpipe" bench --device cuda $few --json >"$work/bench"
is "$? $(python3 tests/cli/bench_lines.py "$work/bench")" "0 bounds cuda-sm90 memory
dense bf16 128x256:1,16 64x64:1,16
marlin w4 128x256:1,16 64x64:1,16
marlin w8 128x256:1,16 64x64:1,16
simple w4 128x256:1,16 64x64:1,16
simple w8 128x256:1,16 64x64:1,16
machete left out: kernel 'machete' cannot serve 64 x 64 in 4 bits, group 128: the emulated device does not run kernel machete" 'bench: products of every class that serves'
# shellcheck disable=SC2086
EMU_MB=64 "$emu/gptqpipe" bench --tune --device cuda $few --json >"$work/tune"
is "$? $(python3 tests/cli/bench_lines.py "$work/tune")" "0 machete left out: $left
rows 90 4 128x256 marlin:2 simple:2
rows 90 4 64x64 marlin:2 simple:2
rows 90 8 128x256 marlin:2 simple:2
rows 90 8 64x64 marlin:2 simple:2" 'bench --tune: rows, largest shapes first, the best by geometric mean'
mkdir -p "$work/def/kernels"
# shellcheck disable=SC2086
EMU_SM=86 EMU_MB=64 "$emu/gptqpipe" bench --tune --device cuda $few >"$work/def/kernels/select.def"
is "$? $(grep -cE '^SELECT\(86, [48], [0-9]+, [0-9]+, (simple|marlin)\) /\* marlin( [0-9.]+){2}, simple( [0-9.]+){2} us \*/$' "$work/def/kernels/select.def")" '0 4' 'rows of another device'
is "$(grep -vc '^SELECT' "$work/def/kernels/select.def") $(grep -cF "/* machete is left out: $left */" "$work/def/kernels/select.def")" '2 1' 'and where they come from'
ok "$("${CC:-cc}" -std=c11 -I"$work/def" -I. -fsyntax-only kernels/select.c >&2; echo $?)" 'the rows are C, ready for select.def'
GPTQPIPE=$emu/gptqpipe
EMU_MB=64 fails 1 "^gptqpipe: error: kernel 'machete' cannot serve 64 x 64 in 4 bits, group 128: the emulated device does not run kernel machete\$" 'a pinned class that cannot serve' \
    bench --device cuda --kernel machete --shape 64x64 --rows 1 --copies 1 --seconds 0
EMU_MB=64 run bench tests/vectors/quickstart-w4g128 --device cuda --prompt-tokens 8 --tokens 2 --batch 1,3 --runs 1 --seconds 0 --json
is "$rc $(python3 tests/cli/bench_lines.py "$work/out")" '0 bounds cuda-sm90 memory
model down_proj marlin/gptq-w4g128 lm_head dense/bf16
prompt 8 x 1 memory
generation 2 x 1 memory
generation 2 x 3 memory' 'bench of a model'
# A device of 9.0 whose rows name a class that it has not: what inspect says of it is what the plug-in does.
mkdir "$work/wide" && python3 tests/cli/wide.py tests/vectors/quickstart-w4g128 "$work/wide"
run inspect "$work/wide"
like "$(sed -n 3p "$work/out")" '^on CUDA: what auto takes on cuda:0, emulated device, compute capability 9\.0$' 'inspect: whose kernels'
like "$(grep '^lm_head .* 4 ' "$work/out")" ' marlin \(the emulated device does not run kernel machete\)$' 'inspect: a row that the device cannot follow, and why'
is "$(grep -cE '_proj .* marlin$' "$work/out")" 7 'inspect: other shapes have no such row'
EMU_MB=200 run bench "$work/wide" --device cuda --prompt-tokens 1 --tokens 1 --batch 1 --runs 1 --seconds 0 --json
is "$rc $(python3 -c 'import json, sys
o = next(o for o in map(json.loads, open(sys.argv[1])) if o["type"] == "model")
print(o["kernel"]["lm_head"], o["kernel"]["q_proj"], o["kernel_why"])' "$work/out")" \
    "0 marlin/gptq-w4g128 marlin/gptq-w4g128 {'lm_head': 'the emulated device does not run kernel machete'}" 'and the plug-in does so'
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
# A class that has no kernel machete: known when the class is, before anything runs.
mkdir "$work/p"
cat >"$work/p/manifest.yaml" <<Y
version: 1
name: m
stages:
  ckpt: { fetch: { file: $(pwd)/tests/vectors/quickstart-w4g128 } }
  hello: { run: { checkpoint: ckpt, prompts: [a], kernel: machete, max_tokens: 1 } }
Y
for sm in 80 120; do
    for command in plan apply; do
        EMU_SM=$sm run $command -q -C "$work/p" --device cuda
        is "$rc $(cat "$work/err")" "65 manifest.yaml:5:59: error: stage 'hello': kernel 'machete' cannot serve model.layers.0.self_attn.q_proj (128 x 128 in 4 bits, group 128): \
kernel machete needs compute capability 9.0, class cuda-sm$sm has ${sm%0}.0" "$command: machete in class cuda-sm$sm"
    done
done
run plan -q -C "$work/p" --device cuda
is "$rc $(cat "$work/err")" '2 ' 'plan: machete in class cuda-sm90'
cp -r tests/vectors/quickstart-w4g128 "$work/q" && cp manifests/quickstart/model/tokenizer.json "$work/q/"
# A device that cannot be used: one line that says what is there and what is needed; doctor says the same.
# unusable TEXT WHAT SETTING...: with these settings of tests/emu
unusable() {
    text=$1 what=$2
    shift 2
    env "$@" "$GPTQPIPE" run "$work/q" --prompt a --max-tokens 1 --device cuda -q >"$work/out" 2>"$work/err"
    is "$? $(cat "$work/err")" "1 gptqpipe: error: device 'cuda': $text" "$what"
    is "$(env "$@" "$GPTQPIPE" doctor | grep '^cuda')" "cuda      $text (device auto takes the CPU)" "$what: doctor"
}
unusable 'no CUDA device: the driver serves CUDA 12.2, the plug-in needs 13.0; a newer driver is needed' 'an old driver' EMU_DRIVER=12020
unusable 'no CUDA device: there is no NVIDIA driver; one that serves CUDA 13.0 is needed' 'no driver' EMU_DRIVER=0
unusable 'cuda:0 (emulated device) has compute capability 7.5; 8.0 or newer is needed' 'an old device' EMU_SM=75
unusable 'cuda:0 (emulated device) is in use by another process, and its compute mode, exclusive process, allows one' 'in exclusive use' EMU_MODE=3
unusable 'cuda:0 (emulated device) allows no process: its compute mode is prohibited, default or exclusive process is needed' 'a prohibited device' EMU_MODE=2
unusable 'cuda:0 (emulated device) has no memory for one more process: others hold its 16777216 bytes' 'no memory at all' EMU_MB=16 EMU_TAKEN=16384
EMU_MB=16 EMU_TAKEN=14500 run run "$work/q" --prompt a --max-tokens 1 --device cuda -q
like "$rc $(cat "$work/err")" '^1 gptqpipe: error: layer 0: cuda:0 has no memory for keys and values of positions 0 to 63 \(5 layers, 2 heads of 32\): 163840 bytes wanted, [0-9]+ of 16777216 free, 262144 of them kept for kernels$' \
    'no memory behind the weights: what for, and how much'
EMU_MB=1 run run "$work/q" --prompt a --max-tokens 1 --device cuda -q
like "$rc $(cat "$work/err")" '^1 gptqpipe: error: model\.layers\.[0-4]\.[a-z_.]+: cuda:0 has no memory for [a-z ]+: [0-9]+ bytes wanted, [0-9]+ of 1048576 free$' 'out of memory: which module, what for, how much'
done_testing
