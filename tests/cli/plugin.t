#!/bin/sh
# The CUDA plug-in on a machine without a GPU: where it is looked for, what is said when it is missing, of another ABI, broken or without a device; how it was built.
. tests/cli/lib.sh
M=manifests/quickstart/model
built=$(dirname "$GPTQPIPE")/libgptqpipe_cuda.so
mkdir -p "$work/a/bin" "$work/a/lib/gptqpipe"
cp "$GPTQPIPE" "$work/a/bin/gptqpipe"
own=$GPTQPIPE
GPTQPIPE=$work/a/bin/gptqpipe
run doctor
is $rc 0 'doctor'
like "$(cat "$work/out")" '^cpu       class cpu, [0-9]+ threads, (scalar|avx2|avx512)$' 'doctor: the CPU'
none="no CUDA plug-in: libgptqpipe_cuda.so is neither beside the program nor in ../lib/gptqpipe"
is "$(grep '^cuda' "$work/out")" "cuda      $none (device auto takes the CPU)" 'doctor: no plug-in'
is "$(grep -c '^plug-in' "$work/out")" 0 'doctor: and names none'
fails 1 "^gptqpipe: error: device 'cuda:0': $none\$" 'run --device cuda:0' run $M --prompt a --device cuda:0
fails 1 "^gptqpipe: error: device 'cuda': $none\$" 'eval --device cuda' eval $M --data manifests/quickstart/held.jsonl --device cuda
fails 1 "^gptqpipe: error: numerics class 'cuda-sm90': $none\$" 'run --numerics cuda-sm90' run $M --prompt a --numerics cuda-sm90
fails 1 "^gptqpipe: error: kernel 'simple' needs a GPU: $none\$" 'run --kernel simple' run $M --prompt a --kernel simple
fails 64 "kernel 'simple' needs a GPU, and the device is 'cpu'" 'words that contradict' run $M --prompt a --kernel simple --device cpu
fails 64 "device 'cpu' does not compute in numerics class 'cuda-sm90'" 'words that contradict' run $M --prompt a --numerics cuda-sm90 --device cpu
fails 64 "unknown device 'cuda:x'" 'no number' run $M --prompt a --device cuda:x
fails 64 "unknown numerics class 'cuda-smx'" 'no class' run $M --prompt a --numerics cuda-smx
run run $M --prompt a --max-tokens 2 --json -q
is "$rc $(python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))["kernel"]["q_proj"])' "$work/out")" '0 cpu/bf16' 'auto: the CPU computes'

# Another ABI, no plug-in at all, a broken file: in the second place.
place=$work/a/lib/gptqpipe/libgptqpipe_cuda.so
abi=$(sed -n 's/.*BACKEND_ABI = \([0-9]*\).*/\1/p' kernels/backend.h)
echo 'const int gptqpipe_cuda[64] = {1};' >"$work/old.c"
echo 'int nothing;' >"$work/other.c"
cc=${CC:-cc}
if $cc -shared -fPIC -o "$place" "$work/old.c" 2>/dev/null; then
    run doctor
    is "$(grep '^cuda' "$work/out")" "cuda      the CUDA plug-in $work/a/bin/../lib/gptqpipe/libgptqpipe_cuda.so has ABI 1, this program wants $abi: build both together (device auto takes the CPU)" 'another ABI'
    fails 1 "device 'cuda': the CUDA plug-in .* has ABI 1, this program wants $abi" 'another ABI: --device cuda' run $M --prompt a --device cuda
    run run $M --prompt a --max-tokens 2 --json -q
    is $rc 0 'another ABI: auto takes the CPU'
    $cc -shared -fPIC -o "$place" "$work/other.c"
    run doctor
    like "$(cat "$work/out")" 'is no plug-in: it has no symbol gptqpipe_cuda' 'a library that is no plug-in'
else
    skip 6 "no C compiler ($cc)"
fi
echo text >"$place"
run doctor
like "$(cat "$work/out")" '^cuda      the CUDA plug-in cannot be opened: .*libgptqpipe_cuda.so' 'a file that is no library'
rm "$place"

# Stages.
cp -r manifests/quickstart "$work/p"
cat >"$work/p/manifest.yaml" <<'Y'
version: 1
name: m
stages:
  model: { fetch: { file: model } }
  text:  { fetch: { file: calib.jsonl } }
  calib: { calibrate: { model: model, data: text, samples: 2, sequence_length: 32 } }
  w:     { quantize: { model: model, calibration: calib } }
  hello: { run: { checkpoint: model, prompts: [a], max_tokens: 2 } }
Y
fails 1 "^gptqpipe: error: device 'cuda': $none\$" 'apply --device cuda' apply -C "$work/p" -q --device cuda
fails 1 "^gptqpipe: error: numerics class 'cuda-sm90' needs a GPU: $none\$" 'apply --numerics cuda-sm90' apply -C "$work/p" -q --numerics cuda-sm90
run apply -C "$work/p" -q -t hello
is $rc 0 'apply: auto takes the CPU'
like "$(cat "$work/p/gptqpipe.lock")" '"numerics": "cpu"' 'and the lock says so'
sed -i 's/"numerics": "cpu"/"numerics": "cuda-sm90"/' "$work/p/gptqpipe.lock"
fails 4 "the lock is frozen at numerics class 'cuda-sm90', and this run uses 'cpu'" 'a lock of a GPU, frozen' apply -C "$work/p" -q -t hello --frozen-lock
run apply -C "$work/p" -q -t hello
is "$rc $(grep -c '"numerics": "cpu"' "$work/p/gptqpipe.lock")" '0 1' 'a lock of a GPU, not frozen: the CPU, said in the lock'
sed -i 's/^  hello.*//' "$work/p/manifest.yaml"
fails 1 "stage 'w': device 'cuda': quantize computes on the CPU in this version; a GPU serves run, eval and validate" 'quantize --device cuda' apply -C "$work/p" -q --device cuda
sed -i '/^  w:/d' "$work/p/manifest.yaml"
echo '  hello: { run: { checkpoint: model, kernel: marlyn, prompts: [a] } }' >>"$work/p/manifest.yaml"
fails 65 "auto, machete, marlin, simple, cpu|auto\|machete\|marlin\|simple\|cpu" 'kernel: an unknown word' plan -C "$work/p"

# The plug-in of this build.
GPTQPIPE=$own
if [ -f "$built" ]; then
    is "$(nm -D --defined-only "$built" | awk '{ print $3 }')" gptqpipe_cuda 'one exported symbol'
    ok "$(! ldd "$built" | grep -q 'libcuda\|libcudart\|libcublas'; echo $?)" 'the runtime is linked in'
    run doctor
    if grep -q 'cuda:0' "$work/out"; then
        skip 3 'there is a GPU'
    else
        like "$(cat "$work/out")" '^cuda      no CUDA device: .* \(device auto takes the CPU\)$' 'doctor: no device'
        like "$(cat "$work/out")" "^plug-in   .*/libgptqpipe_cuda.so, revision [0-9]+$" 'doctor: the plug-in'
        run run $M --prompt a --max-tokens 2 --device cuda
        like "$rc $(cat "$work/err")" "^1 gptqpipe: error: device 'cuda': no CUDA device: [^:]+\$" 'run --device cuda'
    fi
    # nvcc's report on every kernel for every target
    logs=$(find "$(dirname "$own")/obj/kernels/cuda" -name '*.ptxas')
    # shellcheck disable=SC2086
    is "$(cat $logs | grep -c 'bytes spill stores')" "$(cat $logs | grep -c 'Compiling entry function')" 'a report for each kernel'
    # shellcheck disable=SC2086
    is "$(cat $logs | grep 'bytes spill stores' | grep -vc ' 0 bytes spill stores, 0 bytes spill loads')" 0 'no kernel spills a register'
    # shellcheck disable=SC2086
    like "$(cat $logs | grep -c "for 'sm_90'")" '^[1-9]' 'built for sm_90'
else
    skip 8 'no CUDA plug-in in this build'
fi
is "$(make -n -B CUDA=0 all 2>&1 | grep -c 'nvcc\|\.cu\b')" 0 'CUDA=0: nvcc has no part in it'
like "$(make -n CUDA=1 NVCC= all 2>&1)" 'CUDA=1, but there is no nvcc' 'CUDA=1 without nvcc'
done_testing
