#!/bin/sh
# `inputs: original`: each module a node of its own, what a change runs, the same results as `inputs: quantized` where nothing before was quantized.
. tests/cli/lib.sh
cp -r manifests/quickstart "$work/"
cd "$work" || exit 1

# manifest W_FIELDS: layer 1 stays as it is; a module of layer 0 and one of layer 3 have settings of their own
manifest() {
    cat <<Y
version: 1
name: original
vars: { bits: 4, sweeps: 1 }
stages:
  model: { fetch: { file: quickstart/model } }
  text:  { fetch: { file: quickstart/calib.jsonl } }
  held:  { fetch: { file: quickstart/held.jsonl } }
  calib: { calibrate: { model: model, data: text, samples: 8, sequence_length: 64 } }
  w:
    quantize:
      model: model
      calibration: calib
      inputs: original
      lm_head: true
      dynamic:
        '-:^model\.layers\.1\..*$': {}
        '+:^model\.layers\.3\.mlp\.down_proj$': { bits: "\${bits}" }
        '+:^model\.layers\.0\.self_attn\.q_proj$': { refine_sweeps: "\${sweeps}" }
  out:   { pack: { quantized: w, output: dist } }
  judge: { validate: { checkpoint: out, reference: model, data: held, max_tokens: 300, window: 64, expect: { kl_mean: { max: 0.05 } } } }
Y
}
manifest >m.yaml
first=w/layer.0.self_attn.q_proj down=w/layer.3.mlp.down_proj k=w/layer.3.self_attn.k_proj

# not_hit: "NODE=ACTION ..." of what a plan would do, from plan --json in out
not_hit() { python3 -c '
import json
rows = map(json.loads, open("out"))
print(" ".join(r["node"] + "=" + r["action"] for r in rows if r["action"] != "hit"))'; }
# ran: "NODE ..." of what an apply ran, from apply --json in out
ran() { python3 -c '
import json
rows = map(json.loads, open("out"))
print(" ".join(r["node"] for r in rows if r.get("type") == "node_end" and r["result"] == "ran"))'; }
# layers ARGS...: names and digests of what stage w made
layers() { "$GPTQPIPE" show w --json "$@" m.yaml 2>err | grep -o '"path":"[^"]*","sha256":"[0-9a-f]*"'; }

run plan m.yaml
is "$rc" 2 "a fresh checkout has work"
like "$(cat err)" 'w: recipe best: scale_search gptq \(16 candidates\), signed_scales, refine_sweeps 4, refit_scales, output_metric local, scale_dtype bf16$' \
    "the recipe's line shows that compensation is off"
run apply --threads 2 m.yaml
is "$rc" 0 "applies, and the checkpoint is close to its source"
run show w --json m.yaml
is "$(python3 -c '
import json
nodes = [json.loads(line) for line in open("out")]
modules = [(l, m) for l in (0, 2, 3, 4) for m in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")]
want = [f"layer.{l}.{m}" for l, m in modules] + ["lm_head"]
files = [sorted(o["path"] for o in n["outputs"]) for n in nodes]
print([n["node"] for n in nodes] == ["w/" + w for w in want], files == [[w + ".report.json", w + ".safetensors"] for w in want],
      [list(n["metrics"]["modules"]) for n in nodes] == [[m] for l, m in modules] + [["lm_head"]])')" "True True True" \
    "a node each quantized module, with its file, its report and no word on others"
is "$(python3 -c 'import json
m = json.load(open("dist/quantize_config.json"))["meta"]
made = json.load(open("dist/gptqpipe.json"))["made_from"]["quantize"]
print(m["inputs"], m["true_sequential"], "compensate" in m["recipe"] and m["recipe"]["compensate"], made["inputs"], "true_sequential" in made)')" "original False 0.0 original False" \
    "configs and provenance say so"
like "$(cat dist/README.md)" "the source model's own activations" "the model card too"
run run dist --prompt Once --max-tokens 4 --json
is "$rc" 0 "the checkpoint runs"
base=$(layers)
is "$(printf '%s\n' "$base" | wc -l)" 58 "29 nodes made 58 files"

run plan --json --set bits=8 m.yaml
is "$(not_hit)" "$down=run out=maybe judge=maybe" "one override changed: its module runs, the rest of the stage is there"
like "$(grep "\"$down\"" out)" '"field":"modules\.mlp\.down_proj\.bits",.*"reason":"param-changed"' "and the field is named"
run explain "$down" --set bits=8 m.yaml
like "$(cat out)" 'modules\.mlp\.down_proj\.bits: 4 -> 8$' "explain shows it"
run apply --json --set bits=8 m.yaml
is "$(ran)" "$down out judge" "apply runs exactly that"
is "$(layers --set bits=8 | grep -vcxF "$base")" 2 "and makes its file and its report anew"
run apply --json --set bits=8 --set sweeps=2 m.yaml
is "$(ran)" "$first out judge" "so does an override of the first module: nothing behind it cares"
# a second output for one key would be an error: the walk that skips gives what the walk through everything gave
for node in layer.0.self_attn.v_proj layer.0.mlp.up_proj layer.2.self_attn.o_proj layer.4.mlp.gate_proj lm_head; do
    run apply --json --force "w/$node" -t w m.yaml
    is "$rc $(ran)" "0 w/$node" "$node alone gives the same bytes"
done

# any number of threads; stopped between modules and begun again
GPTQPIPE_CACHE=$work/one run apply -q -t w --threads 1 m.yaml
is "$(GPTQPIPE_CACHE=$work/one layers)" "$base" "1 thread gives the same files"
GPTQPIPE_CACHE=$work/stopped run apply -q -t $k --threads 3 m.yaml
is "$rc" 0 "stops behind a module"
GPTQPIPE_CACHE=$work/stopped run apply -q -t $k --threads 3 m.yaml
GPTQPIPE_CACHE=$work/stopped run plan --json -t w m.yaml
is "$(not_hit | wc -w)" 13 "13 modules are left"
GPTQPIPE_CACHE=$work/stopped run apply --json -q -t w --threads 3 m.yaml
is "$(ran | wc -w)" 13 "they run"
is "$(GPTQPIPE_CACHE=$work/stopped layers)" "$base" "and all files are the same, by 3 threads"
export GPTQPIPE_CACHE="$work/killed"
"$GPTQPIPE" apply --json -q -t w m.yaml >events 2>err &
pid=$!
while kill -0 $pid 2>/dev/null && ! grep -q '"node_end".*layer.2.mlp.gate_proj' events; do sleep 0.01; done
kill -9 $pid 2>/dev/null
wait $pid 2>/dev/null
run apply --json -q -t w m.yaml
is "$rc $(ran | grep -c 'layer\.0\|layer\.2\.mlp\.gate')" "0 0" "killed: what was there is not run again"
is "$(layers)" "$base" "and all files are the same"
run cache verify
is "$rc" 0 "cache verify is clean"
export GPTQPIPE_CACHE="$work/cache"

# same A B: what two stages agree on and what not, module by module, to the bit
same() {
    "$GPTQPIPE" show "$1" --json c.yaml >a 2>err
    "$GPTQPIPE" show "$2" --json c.yaml >b 2>err
    python3 - <<'P'
import json, struct
def modules(path):
    out = {}
    for o in (o for line in open(path) for o in json.loads(line)["outputs"] if o["path"].endswith(".safetensors")):
        data = open(o["file"], "rb").read()
        n = struct.unpack("<Q", data[:8])[0]
        layer = o["path"].split(".")[1] + "." if o["path"].startswith("layer.") else ""
        for name, t in json.loads(data[8:8 + n]).items():
            if name != "__metadata__":
                module, part = name.rsplit(".", 1)
                short = layer + module.split(".")[-1].replace("_proj", "")
                out.setdefault(short, {})[part] = data[8 + n + t["data_offsets"][0]:8 + n + t["data_offsets"][1]]
    return out
a, b = modules("a"), modules("b")
print("same", *[m for m in a if a[m] == b[m]], "differ", *[m for m in a if a[m] != b[m]])
P
}
# twin WHAT FIELDS: stages a (original), b and c (quantized: a layer's inputs with source weights; module by module)
twin() {
    head -n 8 m.yaml >c.yaml
    cat >>c.yaml <<Y
  a: { quantize: { model: model, calibration: calib, $2, inputs: original } }
  b: { quantize: { model: model, calibration: calib, $2, true_sequential: false } }
  c: { quantize: { model: model, calibration: calib, $2 } }
Y
    run apply -q c.yaml
    is "$rc" 0 "$1 applies"
}
twin "recipe gptqmodel" "recipe: gptqmodel, dynamic: { '-:^model\.layers\.[234]\..*\$': {} }"
is "$(same a b)" "same 0.q 0.k 0.v 0.o 0.gate 0.up 0.down differ 1.q 1.k 1.v 1.o 1.gate 1.up 1.down" "layer 0 is what inputs quantized makes of the same inputs"
is "$(same a c)" "same 0.q 0.k 0.v differ 0.o 0.gate 0.up 0.down 1.q 1.k 1.v 1.o 1.gate 1.up 1.down" "true_sequential: q, k, v alone"
twin "recipe best" "compensate: 0, lm_head: true, dynamic: { '-:^model\.layers\.[0123]\..*\$': {} }"
is "$(same a b)" "same 4.q 4.k 4.v 4.o 4.gate 4.up 4.down differ lm_head" "layer 4 behind source layers: output metrics too"
twin "lm_head" "compensate: 0, lm_head: true, dynamic: { '-:^model\..*\$': {} }"
is "$(same a b)" "same lm_head differ" "lm_head behind source layers"
twin "rounding" "method: rtn"
sed -i 's/, calibration: calib//' c.yaml
run apply -q c.yaml
is "$rc" 0 "method rtn needs no calibration"
is "$(same a b | wc -w) $(same a b | tail -c 7)" "37 differ" "and gives the 35 modules of inputs quantized"
run plan --json c.yaml
sed -i "s/method: rtn, inputs/method: rtn, dynamic: { '+:^model.layers.2.mlp.up_proj\$': { bits: 8 } }, inputs/" c.yaml
run plan --json c.yaml
is "$(not_hit)" "a/layer.2.mlp.up_proj=run" "an override there runs its module alone"

# refused PATTERN WHAT FIELDS
refused() {
    sed "s/^      inputs: original/&\n      $3/" m.yaml >bad.yaml
    fails 65 "$1" "$2" plan -q bad.yaml
}
refused '^bad\.yaml:9:[0-9]+: error: .*compensate 0\.5 needs inputs quantized, but inputs is original$' 'compensate' 'compensate: 0.5'
refused '^bad\.yaml:9:[0-9]+: error: .*compensate_residual 0\.25 needs inputs quantized, but inputs is original$' 'compensate_residual' 'compensate_residual: 0.25'
refused '^bad\.yaml:14:[0-9]+: error: .*true_sequential true needs inputs quantized, but inputs is original: ' 'true_sequential' 'true_sequential: true'
sed 's/{ refine_sweeps: .*/{ compensate: 0.5 }/' m.yaml >bad.yaml
fails 65 '^bad\.yaml:18:[0-9]+: error: .*q_proj.*compensate 0\.5 needs inputs quantized, but inputs is original$' 'compensate in a pattern' plan -q bad.yaml
sed 's/inputs: original/inputs: orginal/' m.yaml >bad.yaml
fails 65 "^bad\.yaml:13:[0-9]+: error: .*'inputs' must be one of quantized\|original, not 'orginal' \(did you mean 'original'" 'misspelt' plan -q bad.yaml
sed 's/{ refine_sweeps: .*/{ inputs: original }/' m.yaml >bad.yaml
fails 65 "^bad\.yaml:18:[0-9]+: error: .*'inputs' is no setting of a module" 'inputs by module' plan -q bad.yaml
sed 's/^      inputs: original/&\n      true_sequential: false/' m.yaml >good.yaml
run plan --json good.yaml
is "$(not_hit)" "" "true_sequential: false is what it is, and changes no key"
fails 64 "stage 'w' has no node 'layer\.1\.mlp\.up_proj'" 'a module that is not quantized has no node' plan -q -t w/layer.1.mlp.up_proj m.yaml
done_testing
