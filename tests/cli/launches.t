#!/bin/sh
# What one decoded token costs on a GPU in launches, counted on the emulated device: the calls of each kernel row, and all launches. A layer of a model in `kernel: marlin` takes
# eleven: norm, q k v, rope, attention's three, o, norm, gate and up, silu, down.
. tests/cli/lib.sh
emu=$(dirname "$GPTQPIPE")/emu
[ -f "$emu/libgptqpipe_cuda.so" ] || skip_all 'the emulated plug-in is not built (make test-build)'
GPTQPIPE=$emu/gptqpipe
mkdir "$work/p" && cp -r manifests/quickstart/model "$work/p/model"
cp -r tests/vectors/quickstart-w4g128 "$work/p/llama" && cp "$work/p/model/tokenizer.json" "$work/p/llama/"
python3 tests/gpu/to_qwen2.py "$work/p/llama" "$work/p/qwen2"
head -n 20 manifests/quickstart/held.jsonl >"$work/p/held.jsonl"
cat >"$work/p/order.yaml" <<'Y'
version: 1
name: order
stages:
  model: { fetch: { file: model } }
  text:  { fetch: { file: held.jsonl } }
  calib: { calibrate: { model: model, data: text, samples: 4, sequence_length: 64 } }
  w:     { quantize: { model: model, calibration: calib, bits: 4, group_size: 32, desc_act: true } }
  order: { pack: { quantized: w, target: transformers, output: order } }
Y
run apply -C "$work/p" -q order.yaml --device cpu
is $rc 0 'a model by activation order'
layers=$(python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))["num_hidden_layers"])' "$work/p/model/config.json")

# tokens MODEL KERNEL N: generates N tokens; the counts of the run in $work/count, launches in $work/launches
tokens() {
    cat >"$work/p/manifest.yaml" <<Y
version: 1
name: count
stages:
  m:   { fetch: { file: $1 } }
  out: { run: { checkpoint: m, kernel: $2, prompts: ["Once"], max_tokens: $3 } }
Y
    EMU_LAUNCHES=$work/launches run apply -C "$work/p" --device cuda --cache "$work/cache.$1.$2.$3" --json
    [ $rc -eq 0 ] || cat "$work/err" >&2
    tail -n 1 "$work/out" >"$work/count"
}
# decode MODEL KERNEL: what the third token takes more than two do, a layer: "ROW CALLS, ..." without those of the whole model, then launches of the step
decode() {
    tokens "$1" "$2" 2
    cp "$work/count" "$work/count2"
    two=$(cat "$work/launches")
    tokens "$1" "$2" 3
    python3 - "$work/count2" "$work/count" "$layers" "$two" "$(cat "$work/launches")" <<'Y'
import json, sys
a, b = (json.load(open(p))["kernels"] for p in sys.argv[1:3])
layers = int(sys.argv[3])
step = {k: b[k] - a.get(k, 0) for k in b}
for row in ("embed_cuda", "rmsnorm_cuda", "linear_dense_bf16_cuda", "sample_cuda"):  # the embedding, the last norm, lm_head, the choice
    step[row] -= 1
for row, calls in step.items():
    assert calls % layers == 0, (row, calls)
print(", ".join("%s %d" % (k[:-5], step[k] // layers) for k in sorted(step) if step[k]) + "; %d" % (int(sys.argv[5]) - int(sys.argv[4])))
Y
}
ops='attention 1'
rest='rmsnorm 2, rope 1, silu_mul 1'
is "$(decode llama marlin)" "$ops, linear_marlin_w4 4, $rest; $((11 * layers + 4))" 'Llama: eleven launches a layer'
is "$(decode qwen2 marlin)" "$ops, linear_marlin_w4 4, $rest; $((11 * layers + 4))" 'Qwen2, with biases: as many'
is "$(decode order marlin)" "$ops, linear_marlin_w4 4, $rest, split 4; $((15 * layers + 4))" 'by activation order: q, k, v are joined, and gate and up; every input is gathered'
is "$(decode llama simple)" "$ops, linear_simple_w4 7, $rest; $((14 * layers + 4))" 'kernel simple: a product each, nothing to split'
is "$(decode model auto)" "$ops, linear_dense_bf16 7, $rest; $((14 * layers + 4))" 'dense: alike'

# And the numbers are the CPU's, biases and all.
for m in qwen2 order; do
    for d in cpu cuda; do
        run run "$work/p/$m" --device $d --prompt 'Once upon a time' --max-tokens 3 --logprobs 20 --json -q
        is $rc 0 "$m on $d"
        cp "$work/out" "$work/$m.$d"
    done
    python3 - "$work/$m.cpu" "$work/$m.cuda" <<'Y'
import json, sys
a, b = (json.loads(open(p).readline()) for p in sys.argv[1:])
top = lambda r: [{t["id"]: t["logprob"] for t in p["top"]} for p in r["logprobs"]]
worst = max(abs(x[i] - y[i]) for x, y in zip(top(a), top(b)) for i in list(x)[:15])
print("# off by", worst, file=sys.stderr)
sys.exit(a["ids"] != b["ids"] or not worst < 2e-4)
Y
    ok $? "$m: the log-probabilities of the CPU"
done
done_testing
