#!/bin/sh
# Models on a GPU: golden log-probabilities and greedy ids, batches, repeats, figures against the CPU's, stages, what is refused. Skips without a GPU.
#   GPTQPIPE program, GPTQPIPE_SHARED folder with models/ and golden/ (tests that need it skip without)
#   few=1 fewer models and shorter batches, tokens= of each golden prompt, eval_tokens=: for the emulated device, which is slow
. tests/cli/lib.sh
run doctor --device cuda --json
why=$(python3 -c 'import json,sys; c=json.load(open(sys.argv[1]))["cuda"]; print("" if c["found"] else c["why"])' "$work/out")
[ -z "$why" ] || skip_all "$why"
class=$(python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))["cuda"]["numerics"])' "$work/out")
M=manifests/quickstart/model
V=tests/vectors

# matches MODEL GOLDEN NAME [OPTION...]: log-probabilities within 2e-3 of the golden ones (golden.py), greedy ids wherever the margin allows
matches() {
    case $3 in qwen*) kind=ids ;; *) kind=prompts ;; esac
    python3 tests/cli/golden.py $kind "$2" >"$work/prompts"
    model=$1 golden=$2 name=$3
    shift 3
    run run "$model" --device cuda --prompts "$work/prompts" --max-tokens "${tokens:-40}" --logprobs 200 --json -q "$@"
    [ $rc -eq 0 ] || cat "$work/err" >&2
    [ $rc -eq 0 ] && python3 tests/cli/golden.py logprobs "$golden" "$work/out" >&2
    ok $? "$name"
}
# kernel_of FILE MODULE: what served it, in the first line of run's output
kernel_of() { python3 -c 'import json,sys; print(json.loads(open(sys.argv[1]).readline())["kernel"][sys.argv[2]])' "$1" "$2"; }
cp -r $V/quickstart-w4g128 "$work/q"
cp $M/tokenizer.json "$work/q/"
matches $M $V/quickstart_logits.json 'quickstart model (bf16)'
matches "$work/q" $V/quickstart-w4g128/expected.json 'quickstart-w4g128'
for k in marlin simple; do
    matches "$work/q" $V/quickstart-w4g128/expected.json "quickstart-w4g128, kernel $k" --kernel $k
    is "$(kernel_of "$work/out" down_proj)" "$k/gptq-w4g128" 'and that kernel served'
done
python3 tests/gpu/negate.py "$work/q" "$work/negative"
like "$("$GPTQPIPE" inspect "$work/negative")" ' 50\.0% ' 'half of the scales negative'
matches "$work/negative" $V/quickstart-w4g128/expected.json 'quickstart-w4g128, half of the scales negative'
python3 tests/gpu/to_f16.py "$work/q" "$work/q16"
matches "$work/q16" $V/quickstart-w4g128/expected.json 'quickstart-w4g128, dense tensors in f16'
for m in TinyStories-656K stories260K qwen3-tiny; do
    if [ -d "$SHARED/models/$m" ]; then matches "$SHARED/models/$m" "$SHARED/golden/logits/$m.json" $m; else skip 1 "no shared folder ($m)"; fi
done
if [ -d "$SHARED/golden/gptq" ]; then
    for d in "$SHARED"/golden/gptq/*/expected.json; do
        n=$(basename "${d%/*}")
        case ${few:+few}$n in few*asymact | few*w4g32best | few*w8g128 | few*dyn | few*w4chan) ;; few*) continue ;; esac
        matches "${d%/*}" "$d" "$n"
        [ -z "${few:-}" ] || continue
        matches "${d%/*}" "$d" "$n, kernel simple" --kernel simple
        rm -rf "$work/f16"
        python3 tests/gpu/to_f16.py "${d%/*}" "$work/f16"
        matches "$work/f16" "$d" "$n, dense tensors in f16"
    done
else
    skip 36 'no shared folder (golden/gptq)'
fi

# One prompt's line is the same bytes again, and in company.
P=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["cases"][0]["prompt"])' $V/quickstart_logits.json)
long=12 lines="1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20"
[ -z "${few:-}" ] || long=3 lines="1 2 3 4 5"
for m in $M "$work/q"; do
    run run "$m" --device cuda --prompt "$P" --max-tokens $long --logprobs 3 --json -q
    cp "$work/out" "$work/one"
    is $rc 0 "one prompt ($(basename "$m"))"
    run run "$m" --device cuda --prompt "$P" --max-tokens $long --logprobs 3 --json -q
    ok "$(cmp -s "$work/out" "$work/one"; echo $?)" 'again: same bytes'
    { echo "$P"; for i in $lines; do echo "Line $i is"; done; } >"$work/batch"
    run run "$m" --device cuda --prompts "$work/batch" --max-tokens $long --logprobs 3 --json -q
    is "$(wc -l <"$work/out")" "$(wc -l <"$work/batch")" 'a line for each prompt'
    head -n 1 "$work/out" >"$work/first"
    ok "$(cmp -s "$work/first" "$work/one"; echo $?)" 'in a batch: same bytes'
done
is "$(kernel_of "$work/one" down_proj) $(kernel_of "$work/one" lm_head)" 'marlin/gptq-w4g128 dense/bf16' 'the line says which kernels served: auto takes marlin'
run run "$work/q" --device cuda --prompt "$P" --temperature 1.5 --seed 7 --max-tokens $long --json -q
cp "$work/out" "$work/s7"
run run "$work/q" --device cuda --prompt "$P" --temperature 1.5 --seed 7 --max-tokens $long --json -q
ok "$(cmp -s "$work/out" "$work/s7"; echo $?)" 'sampling: same seed, same line'

# Figures against the CPU's.
for d in cpu cuda; do
    run eval "$work/q" --device $d --data manifests/quickstart/held.jsonl --reference $M --max-tokens "${eval_tokens:-4096}" --json -q
    is $rc 0 "eval on $d"
    cp "$work/out" "$work/eval.$d"
done
python3 - "$work/eval.cpu" "$work/eval.cuda" <<'Y'
import json, sys
a, b = (json.load(open(p)) for p in sys.argv[1:])
print("#", a, b, file=sys.stderr)
near = lambda k, bound: abs(a[k] - b[k]) <= bound * abs(a[k])
sys.exit(not (a["tokens"] == b["tokens"] and near("perplexity", 1e-4) and near("reference_perplexity", 1e-4) and near("kl_mean", 5e-3) and abs(a["top1_agreement"] - b["top1_agreement"]) < 2e-3))
Y
ok $? 'eval: the figures of the CPU'

# Stages: validate and run take the GPU, its class is in their keys and in the lock; quantize does not.
mkdir "$work/p" && cp -r $M "$work/p/model" && cp -r "$work/q" "$work/p/q" && head -n 20 manifests/quickstart/held.jsonl >"$work/p/held.jsonl"
cat >"$work/p/manifest.yaml" <<'Y'
version: 1
name: gpu
stages:
  model: { fetch: { file: model } }
  q:     { fetch: { file: q } }
  held:  { fetch: { file: held.jsonl } }
  good:  { validate: { checkpoint: q, reference: model, data: held, max_tokens: 300, expect: { kl_mean: { max: 1 } } } }
  hello: { run: { checkpoint: q, prompts: ["Once"], max_tokens: 4 } }
  cpu:   { run: { checkpoint: q, kernel: cpu, prompts: ["Once"], max_tokens: 4 } }
Y
run apply -C "$work/p" -q --numerics "$class" # auto alone takes a GPU only once it has passed selftest
is $rc 0 'apply'
like "$(cat "$work/p/gptqpipe.lock")" "\"numerics\": \"$class\"" 'the lock remembers the class'
run show -C "$work/p" hello --json
like "$(cat "$work/out")" "\"class\": ?\"$class\"" 'the record says the class'
like "$(cat "$work/out")" '"down_proj": ?"[a-z]+/gptq-w4g128"' 'and the kernels'
run show -C "$work/p" good --json
like "$(cat "$work/out")" '"down_proj": ?"marlin/gptq-w4g128"' 'and those of validate'
run show -C "$work/p" cpu --json
like "$(cat "$work/out")" '"class": ?"cpu"' 'kernel cpu: the CPU'
run plan -C "$work/p"
is $rc 0 'nothing more to do'
run plan -C "$work/p" --device cpu
is $rc 2 'on the CPU it would run again'
like "$(cat "$work/out")" 'hello .*numerics-changed' 'and says why'

# A matrix that marlin does not take: auto says why it takes another, the pinned kernel refuses.
cat >"$work/p/w3.yaml" <<'Y'
version: 1
name: w3
stages:
  model: { fetch: { file: model } }
  text:  { fetch: { file: held.jsonl } }
  calib: { calibrate: { model: model, data: text, samples: 2, sequence_length: 32 } }
  w:     { quantize: { model: model, calibration: calib, method: rtn, bits: 3 } }
  three: { pack: { quantized: w, target: transformers, output: three } }
Y
run apply -C "$work/p" -q w3.yaml
is $rc 0 'a model in 3 bits'
run run "$work/p/three" --device cuda --prompt "$P" --max-tokens 1 --json -q
is "$rc $(kernel_of "$work/out" down_proj)" '0 simple/gptq-w3g128' '3 bits: simple'
is "$(python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))["kernel_why"]["down_proj"])' "$work/out")" 'marlin takes 4 and 8 bits' 'and why'
run inspect "$work/p/three"
like "$(cat "$work/out")" 'down_proj .* simple \(marlin takes 4 and 8 bits\)' 'inspect says so without a device'
fails 1 "model\.layers\.0\.self_attn\.q_proj: kernel 'marlin' cannot serve 128 x 128 in 3 bits, group 128: marlin takes 4 and 8 bits" 'kernel marlin on 3 bits' \
    run "$work/p/three" --prompt a --kernel marlin --device cuda

# What is refused.
fails 64 "device 'cuda' does not compute in numerics class 'cpu'" 'a class of the CPU' run "$work/q" --prompt a --device cuda --numerics cpu
fails 1 "numerics class 'cuda-sm79': cuda:0 .* computes in $class" 'another class' run "$work/q" --prompt a --numerics cuda-sm79
fails 1 "device 'cuda:99': no CUDA device 99" 'a device that is not there' run "$work/q" --prompt a --device cuda:99
# machete: on compute capability 9.0 it serves; elsewhere, and in the emulated plug-in, the module and the rule are named.
run run "$work/q" --prompt a --max-tokens 1 --kernel machete --json -q
if [ $rc -eq 0 ]; then
    is "$(kernel_of "$work/out" down_proj)" 'machete/gptq-w4g128' 'kernel machete serves'
    matches "$work/q" $V/quickstart-w4g128/expected.json 'quickstart-w4g128, kernel machete' --kernel machete
else
    rule='(kernel machete needs compute capability 9\.0, the device has [0-9]+\.[0-9]|the emulated device does not run kernel machete)$'
    like "$rc $(cat "$work/err")" "^1 .*model\.layers\.0\.self_attn\.q_proj: kernel 'machete' cannot serve 128 x 128 in 4 bits, group 128: $rule" 'kernel machete: module, shape and rule'
fi
done_testing
