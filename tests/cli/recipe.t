#!/bin/sh
# The default recipe from end to end: what reports say of it, lm_head, layers quantized at once, parts turned off one by one, and walks taken up again.
. tests/cli/lib.sh
cp -r manifests/quickstart "$work/"
cd "$work" || exit 1

# manifest FILE EXTRA: quantizes the quickstart model; EXTRA are lines of the quantize stage
manifest() {
    cat >"$1" <<Y
version: 1
name: recipe
stages:
  model: { fetch: { file: quickstart/model } }
  text:  { fetch: { file: quickstart/calib.jsonl } }
  held:  { fetch: { file: quickstart/held.jsonl } }
  calib: { calibrate: { model: model, data: text, samples: 8, sequence_length: 64 } }
  w:
    quantize:
      model: model
      calibration: calib
      group_size: 64
$2
  out:   { pack: { quantized: w, output: dist/${1%.yaml} } }
  judge: { validate: { checkpoint: out, reference: model, data: held, max_tokens: 300, window: 64, expect: { kl_mean: { max: 0.004 } } } }
Y
}
# apply and plan in the cache of that name
in_cache() {
    c=$1
    shift
    GPTQPIPE_CACHE=$work/$c run "$@"
}
# digests CACHE MANIFEST [lm_head]: what each layer's node put out, one a line.
digests() {
    for n in layer.0 layer.1 layer.2 layer.3 layer.4 ${3-}; do
        in_cache "$1" show "w/$n" --json "$2"
        grep -o '"digest":"[0-9a-f]*"' out || echo "nothing of $n in $1"
    done
}
# ask CACHE MANIFEST EXPRESSION: over m, {"0" ... or "lm_head": {"q_proj": its report ...}}, and one = m["1"]
ask() {
    for n in layer.0 layer.1 layer.2 layer.3 layer.4 lm_head; do
        in_cache "$1" show "w/$n" --json "$2"
        cat out
    done | python3 -c 'import json, sys
m = {}
for r in map(json.loads, filter(str.strip, sys.stdin)):
    m[r["node"].split(".")[-1].split("/")[-1]] = {k.split(".")[-1]: v for k, v in r["metrics"]["modules"].items()}
one = m["1"]
print(eval(sys.argv[1]))' "$3"
}

manifest whole.yaml '      lm_head: true'
in_cache A apply whole.yaml
is "$rc" 0 "the default recipe, lm_head too"
like "$(cat err)" '^w: lm_head is tied to the embeddings: the checkpoint carries a quantized copy of its own' "a tied lm_head is said to become a copy"
is "$(ask A whole.yaml '[len(m), sum(len(l) for l in m.values()), {r["tokens"] for l in m.values() for r in l.values()}]')" '[6, 36, {512}]' "every module is reported, with its tokens"
is "$(ask A whole.yaml 'all(s["loop"] > s["codes"] >= s["scales"] >= s["codes_again"] > 0 for l in m.values() for s in [r["loss_steps"] for r in l.values()])')" True \
    "no step raises the loss"
is "$(ask A whole.yaml 'sorted({k for l in m.values() for k, r in l.items() if r["loss_steps"]["scales"] < r["loss_steps"]["codes"]})')" \
    "['down_proj', 'lm_head', 'o_proj']" "scales are fitted again where there is no output metric"
is "$(ask A whole.yaml 'all(0.2 < r["negative_scales"] < 0.8 for l in m.values() for r in l.values())')" True "about half the scales are negative"
is "$(ask A whole.yaml 'sorted(k for k, r in m["0"].items() if r["target_shift"] == 0)')" "['k_proj', 'q_proj', 'v_proj']" \
    "in front of the first layer both streams are equal to the bit: no shift of the target"
is "$(ask A whole.yaml 'all(0 < r["target_shift"] < 0.1 for n, l in m.items() for k, r in l.items() if n != "0" or k not in ("q_proj", "k_proj", "v_proj"))')" True \
    "everywhere else there is one"
is "$(grep -c '"tie_word_embeddings": false' dist/whole/config.json)" 1 "the checkpoint's config says that lm_head is its own"
in_cache A run dist/whole --prompt 'Once there was a baker' --max-tokens 12 --json
is "$rc $(python3 -c 'import json; r = json.load(open("out")); print(len(r["text"]) > 20, len(r["ids"]))' 2>&1)" "0 True 12" "and it runs"

# taken up again: the replay has to rebuild both streams
in_cache B apply -t w/layer.0 whole.yaml
is "$rc" 0 "another cache, the first layer alone"
in_cache B apply -t w/layer.2 whole.yaml
in_cache B apply --json whole.yaml
like "$(tail -n 1 out)" '"ran":5,"hit":8' "then two more, then the rest: layers 3 and 4, lm_head, pack and validate"
is "$(digests B whole.yaml lm_head)" "$(digests A whole.yaml lm_head)" "every layer is the same as in one run"

# one layer's override
manifest over.yaml '      lm_head: true
      dynamic: { "+:^model\\.layers\\.3\\.mlp\\.down_proj$": { bits: 8 } }'
in_cache A plan --json over.yaml
is "$(python3 -c 'import json
print(" ".join(r["node"].split("/")[1] + "=" + r["action"] for r in map(json.loads, open("out")) if r["node"].startswith("w/")))')" \
    "layer.0=hit layer.1=hit layer.2=hit layer.3=run layer.4=maybe lm_head=maybe" "an override of layer 3: it runs, those behind it may"
in_cache A apply --json over.yaml
like "$(tail -n 1 out)" '"ran":5,"hit":8' "and they do, none before it"
in_cache C apply over.yaml
is "$(digests A over.yaml lm_head)" "$(digests C over.yaml lm_head)" "to the bytes of a run from nothing"

# true_sequential: false: a half's sites all see the source's weights
manifest at_once.yaml '      true_sequential: false'
in_cache A apply at_once.yaml
is "$rc" 0 "true_sequential: false"
in_cache A show w/layer.0 --json at_once.yaml
cp out at_once.json
in_cache A show w/layer.0 --json whole.yaml
is "$(python3 -c 'import json
a, b = (json.load(open(f))["metrics"]["modules"] for f in ("at_once.json", "out"))
print(sorted(k.split(".")[1] for k in a if a[k] == b[k]))')" "['k_proj', 'q_proj', 'v_proj']" "its first site is the same, the others are not"
in_cache B apply -t w/layer.1 at_once.yaml
in_cache B apply at_once.yaml
is "$(digests B at_once.yaml)" "$(digests A at_once.yaml)" "taken up again behind layer 1 it is the same"

# parts off, module by module; rows rounded to nearest between quantized ones
manifest parts.yaml '      dynamic:
        "+:^model\\.layers\\.1\\.self_attn\\.q_proj$": { compensate: 0 }
        "+:^model\\.layers\\.1\\.self_attn\\.k_proj$": { method: rtn }
        "+:^model\\.layers\\.1\\.self_attn\\.v_proj$": { output_metric: none }
        "+:^model\\.layers\\.1\\.self_attn\\.o_proj$": { compensate: 0, compensate_residual: 0.5 }
        "+:^model\\.layers\\.1\\.mlp\\.gate_proj$": { signed_scales: false }
        "+:^model\\.layers\\.1\\.mlp\\.up_proj$": { refine_sweeps: 0 }
        "+:^model\\.layers\\.1\\.mlp\\.down_proj$": { refit_scales: false, scale_dtype: f16 }
        "+:^model\\.layers\\.2\\.mlp\\.down_proj$": { scale_search: minmax }
        "+:^model\\.layers\\.2\\.mlp\\.(gate|up)_proj$": { method: rtn }
        "-:^model\\.layers\\.2\\.self_attn\\..*$": {}'
in_cache A apply parts.yaml
is "$rc" 0 "parts turned off one by one"
is "$(ask A parts.yaml '[one["q_proj"][k] for k in ("compensate", "compensate_residual", "target_shift")]')" '[0.0, 0.0, 0.0]' "compensate: 0: the target is the weights"
is "$(ask A parts.yaml '[one["k_proj"].get(k) for k in ("method", "loss_steps", "target_shift", "negative_scales")]')" "['rtn', None, None, None]" \
    "method rtn among others at the same input: no word of the recipe"
is "$(ask A parts.yaml 'one["v_proj"]["loss_steps"]["scales"] < one["v_proj"]["loss_steps"]["codes"]')" True "output_metric: none: scales are fitted again"
is "$(ask A parts.yaml '[one["o_proj"]["compensate"], one["o_proj"]["target_shift"] > 0]')" '[0.0, True]' "compensate_residual alone moves the target"
is "$(ask A parts.yaml 'one["gate_proj"]["negative_scales"]')" 0.0 "signed_scales: false: none is negative"
is "$(ask A parts.yaml '["loss_steps" in one["up_proj"], one["up_proj"]["refit_scales"], one["up_proj"]["output_metric"]]')" "[False, False, 'none']" \
    "refine_sweeps: 0: no steps, and what needs them is off"
is "$(ask A parts.yaml 'len(set(one["down_proj"]["loss_steps"].values()))')" 2 "refit_scales: false: the descent ends with the codes"
is "$(ask A parts.yaml '[m["2"]["down_proj"][k] for k in ("signed_scales", "negative_scales")]')" '[False, 0.0]' "scale_search: minmax turns signed_scales off"
is "$(ask A parts.yaml '[m["2"]["q_proj"], m["2"]["gate_proj"]["method"]]')" "[{'quantized': False}, 'rtn']" "modules left alone or rounded in the next layer"
python3 - <<'P' >out
import glob, json, struct
data = open("dist/parts/model.safetensors", "rb").read()
n = struct.unpack("<Q", data[:8])[0]
head = json.loads(data[8:8 + n])
def low_bits(name):
    a, b = head[name]["data_offsets"]
    return any(x & 7 for x in struct.unpack("<%dH" % ((b - a) // 2), data[8 + n + a:8 + n + b]))
print([low_bits("model.layers.%d.mlp.down_proj.scales" % l) for l in (0, 1)])
P
is "$(cat out)" '[False, True]' "no stored scale has bits that bf16 lacks, but with scale_dtype: f16"
in_cache B apply -t w/layer.1 parts.yaml
in_cache B apply parts.yaml
is "$(digests B parts.yaml)" "$(digests A parts.yaml)" "taken up again between them it is the same"

# nothing of a recipe but the scales: one stream is enough, and says so in time, not in bytes
manifest one.yaml '      compensate: 0
      output_metric: none'
in_cache A apply one.yaml
is "$rc $(ask A one.yaml '{r["target_shift"] for l in m.values() for r in l.values()}' 2>/dev/null)" '0 {0.0}' "without compensation and metric"

# every module rounded, no calibration
manifest rtn.yaml '      method: rtn'
sed -i '/calibration: calib/d; /^  calib:/d; /^  text:/d' rtn.yaml
in_cache A apply rtn.yaml
is "$rc" 0 "method rtn for all under the default recipe needs no calibration"
like "$(cat err)" 'w: recipe best: ' "the plan's line"
done_testing
