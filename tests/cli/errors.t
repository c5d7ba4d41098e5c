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

# A named class of CUDA kernels against the modules that it would have to serve: plan and apply say the same, before anything runs.
# unserved TEXT WHAT [ARGS]: both refuse m.yaml with exactly this line
unserved() {
    text=$1 name=$2
    shift 2
    run plan -q m.yaml "$@"
    is "$rc $(cat "$work/err")" "65 $text" "$name: plan"
    run apply -q --json m.yaml "$@"
    is "$rc $(cat "$work/err")" "65 $text" "$name: apply"
    is "$(tail -n 1 "$work/out" | grep -c '"ran":0,"hit":0')$(ls -d dist 2>/dev/null)" 1 "$name: nothing has run"
}
# pinned KERNEL [QUANTIZE_FIELDS]: the pipeline with a stage that runs the checkpoint, and one that checks its structure
pinned() {
    manifest "${2:-bits: 4}" 'target: transformers'
    echo '  check: { validate: { checkpoint: out } }'
    echo "  hello: { run: { checkpoint: out, prompts: [a], kernel: $1 } }"
}
three='+:^model\.layers\.1\.mlp\.down_proj$'
at='m.yaml:10:58: error: stage '"'hello': kernel"
pinned marlin "dynamic: { '$three': { bits: 3 } }" >m.yaml
unserved "$at 'marlin' cannot serve model.layers.1.mlp.down_proj (128 x 512 in 3 bits, group 128): marlin takes 4 and 8 bits" 'marlin, 3 bits in one module'
run plan -q m.yaml -t out
is "$rc $(cat "$work/err")" '2 ' 'the stages before it can be planned'
pinned machete 'bits: 2' >m.yaml
unserved "$at 'machete' cannot serve model.layers.0.self_attn.q_proj (128 x 128 in 2 bits, group 128): machete takes 4 and 8 bits" 'machete, 2 bits'
pinned marlin "dynamic: { '+:^model\.layers\.4\.self_attn\.o_proj\$': { group_size: 48 } }" >m.yaml
unserved "$at 'marlin' cannot serve model.layers.4.self_attn.o_proj (128 x 128 in 4 bits, group 48): marlin takes groups of 32, 64, 128, ... inputs, or one group" \
    'marlin, groups of 48'
pinned marlin "lm_head: true, dynamic: { '+:^lm_head\$': { group_size: 24 } }" >m.yaml
unserved "$at 'marlin' cannot serve lm_head (1024 x 128 in 4 bits, group 24): marlin takes groups of 32, 64, 128, ... inputs, or one group" 'marlin, the head in groups of 24'
for served in "marlin group_size: -1" "machete bits: 8, group_size: 256" "simple bits: 3" "auto bits: 2" "marlin bits: 3, dynamic: { '-:^.*mlp.*\$': {}, '+:^.*attn.*\$': { bits: 4 } }"; do
    pinned "${served%% *}" "${served#* }" >m.yaml
    run plan -q m.yaml
    is "$rc $(cat "$work/err")" '2 ' "served: $served"
done
# There is no GPU for it: plan says so and plans, apply does not start.
pinned marlin >m.yaml
run plan m.yaml --device cpu
like "$rc $(tail -n 1 "$work/err")" "^2 hello: kernel 'marlin' needs a GPU, and here is none that this run may use: apply needs one\$" 'marlin without a GPU: plan notes it'
run apply -q --json m.yaml --device cpu
is "$rc $(cat "$work/err")" "1 $at 'marlin' needs a GPU, and this run computes in class 'cpu'" 'marlin without a GPU: apply'
is "$(tail -n 1 "$work/out" | grep -c '"ran":0,"hit":0')" 1 'marlin without a GPU: nothing has run'
run apply -q --json -k m.yaml --device cpu
is "$rc $(tail -n 1 "$work/out" | grep -o '"ran":[0-9]*,"hit":[0-9]*')" '1 "ran":8,"hit":3' 'marlin without a GPU, --keep-going: the rest has'
rm -r dist
# A checkpoint that is fetched: by its own quantization_config.
manifest 'method: rtn, bits: 3' 'target: transformers' | sed 's/output: dist/output: three/; s/calibration: calib, //; /calib:/d; /text:/d' >m.yaml
run apply -q m.yaml
is "$rc $(cat "$work/err")" '0 ' 'a checkpoint of 3 bits'
# fetched FOLDER KERNEL
fetched() {
    printf 'version: 1\nname: wrong\nstages:\n  ckpt: { fetch: { file: %s } }\n  hello: { run: { checkpoint: ckpt, prompts: [a], kernel: %s } }\n' "$1" "$2"
}
fetched three marlin >m.yaml
unserved "m.yaml:5:59: error: stage 'hello': kernel 'marlin' cannot serve model.layers.0.self_attn.q_proj (128 x 128 in 3 bits, group 128): marlin takes 4 and 8 bits" \
    'marlin, a fetched checkpoint of 3 bits'
fetched quickstart/model marlin >m.yaml
run plan -q m.yaml
is "$rc $(cat "$work/err")" '2 ' 'marlin, a model that is not quantized'
cp -r three broken && sed -i 's/"bits": 3/"bits": 4/' broken/config.json
fetched broken marlin >m.yaml
run plan -q m.yaml
is "$rc $(cat "$work/err")" "1 m.yaml:5:31: error: stage 'hello': model 'ckpt': tensor 'model.layers.0.self_attn.q_proj.qweight' is stored in 3 bits; quantization_config makes it 4" \
    'a fetched checkpoint that contradicts its config'

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
