#!/bin/sh
# Wrong inputs to apply: one clear line, the right exit status, nothing left behind.
. tests/cli/lib.sh
cp -r manifests/quickstart "$work/"
cd "$work" || exit 1

# manifest QUANTIZE_FIELDS PACK_FIELDS: a small whole pipeline
manifest() {
    cat <<Y
version: 1
name: wrong
stages:
  model: { fetch: { file: ${model:-quickstart/model} } }
  text:  { fetch: { file: quickstart/calib.jsonl } }
  calib: { calibrate: { model: model, data: text, samples: ${samples:-4}, sequence_length: 64 } }
  w:     { quantize: { model: model, calibration: calib, ${1:-bits: 4} } }
  out:   { pack: { quantized: w, output: dist, ${2:-target: any} } }
Y
}

# refused STATUS PATTERN WHAT [ARGS]: apply of m.yaml fails so, and leaves no output, no half-written file in the store
refused() {
    status=$1 pattern=$2 name=$3
    shift 3
    fails "$status" "$pattern" "$name" apply -q m.yaml "$@"
    is "$(ls -d dist .dist* 2>/dev/null)$(find "${GPTQPIPE_CACHE}/tmp" -mindepth 1 2>/dev/null)" "" "$name: nothing left behind"
}

model=no/such/model
manifest >m.yaml
refused 1 '^m\.yaml:4:[0-9]+: error: .*no/such/model does not exist' 'missing file'

cp -r quickstart/model cut && truncate -s -1000 cut/model.safetensors
model="cut"
manifest >m.yaml
refused 1 'error: .*model\.safetensors.*[0-9]+.*[0-9]+' 'truncated safetensors'

cp -r quickstart/model nan
python3 - <<'P'
import json, struct
p = "nan/model.safetensors"
b = bytearray(open(p, "rb").read())
n = struct.unpack("<Q", b[:8])[0]
h = json.loads(b[8:8 + n])
at = 8 + n + h["model.layers.1.mlp.up_proj.weight"]["data_offsets"][0] + 2 * 77
b[at:at + 2] = b"\xc0\x7f"
open(p, "wb").write(b)
P
model="nan"
manifest >m.yaml
refused 1 'model\.layers\.1\.mlp\.up_proj\.weight.*element 77 is not a finite number' 'NaN weight'

cp -r quickstart/model arch && sed -i 's/LlamaForCausalLM/GrokForCausalLM/; s/"model_type": "llama"/"model_type": "grok"/' arch/config.json
model="arch"
manifest >m.yaml
refused 1 'GrokForCausalLM' 'unknown architecture'

cp -r quickstart/model vocab && python3 - <<'P'
import json
t = json.load(open("vocab/tokenizer.json"))
n = max(t["model"]["vocab"].values())
t["model"]["vocab"] = {k: (v + 5000 if v > 300 else v) for k, v in t["model"]["vocab"].items()}
json.dump(t, open("vocab/tokenizer.json", "w"))
P
model=vocab
manifest >m.yaml
refused 1 'token id [0-9]+ is outside the model.s vocabulary of 1024' 'tokenizer of another model'

model="quickstart/model"
samples=100000
manifest >m.yaml
refused 1 'm\.yaml:6:[0-9]+: error: .*100000 samples of 64 tokens asked for, the data gives [0-9]+' 'too little text'
samples=4

manifest 'group_size: 96' >m.yaml
refused 65 'group_size 96' 'group refused by the target'
manifest 'bits: 3' >m.yaml
refused 65 'bits 3; target any takes 4, 8' 'bits refused by the target'
manifest 'sym: false' 'target: vllm' >m.yaml
refused 65 'sym false; target vllm takes sym true only' 'asymmetric refused by vllm'
manifest "dynamic: { '+:^model\\.layers\\.1': { bits: 8 } }" >m.yaml
refused 65 '^m\.yaml:7:[0-9]+: error: .*matches no whole module name.*7' 'pattern that matches only as a prefix'
manifest "dynamic: { '-:.*experts.*': {} }" >m.yaml
refused 65 "experts.*matches no" 'unmatched pattern'
manifest "dynamic: { '+:^model\\.layers\\.1\\.self_attn\\.k_proj\$': { bits: 8 } }" >m.yaml
refused 65 'qkv_proj.*model\.layers\.1\.self_attn\.q_proj is bits 4.*model\.layers\.1\.self_attn\.k_proj is bits 8' 'mixed settings in a fused set'
manifest 'recipe: bestt' >m.yaml
refused 65 "^m\.yaml:7:[0-9]+: error: .*'recipe' must be one of best\|gptqmodel, not 'bestt' \(did you mean 'best'" 'unknown recipe'
manifest 'compensate: 1.5' >m.yaml
refused 65 '^m\.yaml:7:[0-9]+: error: .*compensate must lie in 0\.\.1, not 1\.5' 'compensate out of range'
manifest 'signed_scales: true, sym: false' >m.yaml
refused 65 '^m\.yaml:7:[0-9]+: error: .*signed_scales true needs sym true, but sym is false' 'signed and asymmetric'
manifest 'scale_search: gptq, static_groups: true' >m.yaml
refused 65 '^m\.yaml:7:[0-9]+: error: .*scale_search gptq needs .*, but static_groups true' 'search in the loop with scales from before it'
manifest 'scale_search: minmax, mse: 2.4' >m.yaml
refused 65 '^m\.yaml:7:[0-9]+: error: .*mse 2\.4 is the exponent of scale_search mse, but scale_search is minmax' 'norm without its search'
manifest 'recipe: gptqmodel, refit_scales: true' >m.yaml
refused 65 '^m\.yaml:7:[0-9]+: error: .*refit_scales true needs refine_sweeps of 1 or more, but refine_sweeps is 0' 'refit without sweeps'
manifest 'method: rtn, output_metric: local' >m.yaml
refused 65 '^m\.yaml:7:[0-9]+: error: .*output_metric local needs method gptq, but method is rtn' 'metric of plain rounding'
manifest "signed_scales: true, dynamic: { '+:^model\.layers\.1\.mlp\.down_proj\$': { sym: false } }" 'target: transformers' >m.yaml
refused 65 "^m\.yaml:7:[0-9]+: error: .*pattern .*down_proj.*signed_scales true needs sym true, but sym is false" 'a pair that only a pattern makes'
manifest "dynamic: { '+:^model\.layers\.1\.mlp\.down_proj\$': { recipe: gptqmodel } }" >m.yaml
refused 65 "^m\.yaml:7:[0-9]+: error: .*'recipe' is no setting of a module" 'a recipe by module'
manifest 'scale_serch: mse' >m.yaml
refused 65 "^m\.yaml:7:[0-9]+: error: .*scale_serch.*scale_search" 'misspelt part names the nearest'
manifest 'bit: 4' >m.yaml
refused 65 "^m\.yaml:7:[0-9]+: error: .*'?bit'?.*bits" 'unknown field names the nearest'

cat >m.yaml <<'Y'
version: 1
name: wrong
stages:
  a: { pack: { quantized: b } }
  b: { quantize: { model: c, method: rtn } }
  c: { fetch: { file: quickstart/calib.jsonl } }
  d: { calibrate: { model: d2, data: c, samples: 1, sequence_length: 8 } }
  d2: { fetch: { file: quickstart/model } }
  e: { quantize: { model: d2, calibration: c } }
Y
refused 65 '^m\.yaml:[0-9]+:[0-9]+: error: ' 'wrong artifact type'
cat >m.yaml <<'Y'
version: 1
name: wrong
stages:
  m: { fetch: { file: quickstart/model } }
  v: { validate: { checkpoint: m, reference: v } }
Y
refused 65 '^m\.yaml:5:[0-9]+: error: ' 'a stage that refers to itself'

if [ "$(id -u)" -eq 0 ] && mkdir small && mount -t tmpfs -o size=1m tmpfs small 2>/dev/null; then
    model=quickstart/model
    manifest >m.yaml
    GPTQPIPE_CACHE=$work/small/cache
    refused 1 'No space left' 'disk full'
    GPTQPIPE_CACHE=$work/cache
    umount small
else
    skip 4 'disk full: needs root and tmpfs'
fi
manifest >m.yaml
run apply -q m.yaml
is "$rc" 0 'the right manifest applies after all that'
run cache verify
is "$rc" 0 'and the cache is clean'
done_testing
