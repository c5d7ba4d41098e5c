#!/bin/sh
# The quickstart from end to end, no-op runs, what changes what.
. tests/cli/lib.sh
cp -r manifests/quickstart manifests/quickstart.yaml "$work/"
cd "$work" || exit 1
m=quickstart.yaml

# plan_of STAGE...: "action" of each node, from plan --json
actions() { python3 -c '
import json, sys
want = sys.argv[1:]
rows = {r["node"]: r for r in map(json.loads, sys.stdin)}
print(" ".join(n + "=" + (rows[n]["action"] if n in rows else "absent") for n in want))' "$@" <out; }

run plan $m
is "$rc" 2 "plan of a fresh checkout says there is work"
is "$(grep -c recipe out err | tr '\n' ' ')" "out:0 err:1 " "and says once what the recipe is"
like "$(cat err)" 'w4: recipe best: compensate 0\.75, residual 0\.75, scale_search gptq \(16 candidates\), signed_scales, refine_sweeps 4, refit_scales, output_metric local, scale_dtype bf16$' \
    "what it resolves to"
run apply $m
is "$rc" 0 "quickstart applies"
ok "$(test -f dist/quickstart/model.safetensors; echo $?)" "the checkpoint folder is there"
ok "$(test -f gptqpipe.lock; echo $?)" "the lock file is beside the manifest"
is "$(python3 -c 'import json
want = {"name": "best", "compensate": 0.75, "compensate_residual": 0.75, "scale_search": "gptq", "scale_candidates": 16, "signed_scales": True, "refine_sweeps": 4,
        "refit_scales": True, "output_metric": "local", "scale_dtype": "bf16"}
folder = "dist/quickstart/"
print([json.load(open(folder + "quantize_config.json"))["meta"]["recipe"] == want, json.load(open(folder + "config.json"))["quantization_config"]["meta"]["recipe"] == want,
       json.load(open(folder + "gptqpipe.json"))["made_from"]["recipe"] == want])')" '[True, True, True]' "configs and provenance carry the recipe"
like "$(cat dist/quickstart/README.md)" '^Recipe best: compensate 0\.75, .*scale_dtype bf16 \(a module with an override may differ' "the model card too"
like "$(cat dist/quickstart/README.md)" '^Scales may be negative: ' "and says that scales may be negative"
run plan $m
is "$rc" 0 "then plan has nothing to do"

ASAN_OPTIONS=detect_leaks=0 strace -f -qq -e trace=open,openat,read,pread64 -o trace "$GPTQPIPE" apply --json $m >out 2>err
is "$?" 0 "a second apply succeeds"
like "$(tail -n 1 out)" '"ran":0' "and runs nothing"
is "$(grep -c '/cas/' trace)" 0 "and opens no blob"
read_bytes=$(python3 - <<'P'
import re
fd, total = {}, 0
for line in open("trace", errors="replace"):
    m = re.match(r'\d+ +open(?:at)?\((?:AT_FDCWD, )?"([^"]*)".*= (\d+)$', line)
    if m:
        fd[m[2]] = m[1]
    m = re.match(r'\d+ +p?read(?:64)?\((\d+),.*= (\d+)$', line)
    if m and not re.search(r"/ac/|gptqpipe\.lock|^/(lib|usr|etc|proc|sys)", fd.get(m[1], "")):
        total += int(m[2])
print(total)
P
)
ok "$(test "$read_bytes" -lt 1048576; echo $?)" "and reads $read_bytes bytes beyond records and lock (below 1 MiB)"

rm -rf dist
run apply $m
is "$rc" 0 "apply after the output folder was deleted"
ok "$(test -f dist/quickstart/config.json; echo $?)" "restores it"

# a comment and another order of keys change no key
python3 - <<'P'
text = open("quickstart.yaml").read()
open("same.yaml", "w").write("# a comment\n" + text.replace("bits: 4", "bits:   4   # four"))
P
run plan --json same.yaml
is "$(grep -vc '"hit"' out)" 0 "a comment and spaces change no key"

cat >two.yaml <<'Y'
version: 1
name: two
vars: { bits0: 8 }
stages:
  model: { fetch: { file: quickstart/model } }
  text:  { fetch: { file: quickstart/calib.jsonl } }
  calib: { calibrate: { model: model, data: text, samples: 8, sequence_length: 64 } }
  w:
    quantize:
      model: model
      calibration: calib
      dynamic:
        '-:^model\.layers\.1\..*$': {}
        '+:^model\.layers\.0\.mlp\.up_proj$': { bits: "${bits0}" }
        '+:^model\.layers\.3\.mlp\.up_proj$': { bits: "${bits3:-4}" }
Y
sed -i 's/"\${bits3:-4}"/4/' two.yaml
run apply two.yaml
is "$rc" 0 "a chain with a skipped layer applies"
run plan --json two.yaml --set bits0=4
is "$(actions w/layer.0 w/layer.1 w/layer.2 w/layer.3 w/layer.4)" "w/layer.0=run w/layer.1=maybe w/layer.2=maybe w/layer.3=maybe w/layer.4=maybe" \
    "layer 0's override changed: it runs, what follows may"
like "$(grep '"w/layer.0"' out)" '"field":"[^"]*up_proj[^"]*bits' "and the field is named"
run apply --json two.yaml --set bits0=4
like "$(tail -n 1 out)" '"ran":5' "layers 0, 1 (skipped, its output is constant) and all after it run again"
sed 's/layers\\.3\\.mlp\\.up_proj\$.: { bits: 4/layers\\.3\\.mlp\\.up_proj$'"'"': { bits: 8/' two.yaml >three.yaml
run plan --json three.yaml --set bits0=4
is "$(actions calib w/layer.0 w/layer.1 w/layer.2 w/layer.3 w/layer.4)" "calib=hit w/layer.0=hit w/layer.1=hit w/layer.2=hit w/layer.3=run w/layer.4=maybe" \
    "layer 3's override changed: exactly that layer runs"
run apply --json three.yaml --set bits0=4
like "$(tail -n 1 out)" '"ran":2' "apply replays layers 0 to 2 and runs 3 and 4"
# parts of the recipe are in the keys, module by module
cp three.yaml kept.yaml
sed -i 's/bits: 8 }/bits: 8, refine_sweeps: 2 }/' three.yaml
run plan --json three.yaml --set bits0=4
is "$(actions w/layer.2 w/layer.3)" "w/layer.2=hit w/layer.3=run" "a part of the recipe changed for layer 3: it runs"
like "$(grep '"w/layer.3"' out)" '"field":"[^"]*up_proj[^"]*refine_sweeps' "and the field is named"
sed 's/      calibration: calib/&\n      scale_candidates: 16/' kept.yaml >three.yaml
run plan --json three.yaml --set bits0=4
is "$(grep -vc '"hit"' out)" 0 "writing what the recipe gives changes no key"
sed 's/      calibration: calib/&\n      recipe: gptqmodel/' kept.yaml >three.yaml
run plan --json three.yaml --set bits0=4
is "$(actions calib w/layer.0)" "calib=hit w/layer.0=run" "another recipe runs the layers"
like "$(cat err)" 'w: recipe gptqmodel: scale_search minmax, scale_dtype f16$' "and is named"
cp kept.yaml three.yaml

run explain w/layer.3 three.yaml
is "$rc" 0 "explain answers"

# lm_head alone: nothing behind it for output_metric and compensate_residual, whatever the recipe says
cat >head.yaml <<'Y'
version: 1
name: head
stages:
  model: { fetch: { file: quickstart/model } }
  text:  { fetch: { file: quickstart/calib.jsonl } }
  calib: { calibrate: { model: model, data: text, samples: 8, sequence_length: 64 } }
  w:     { quantize: { model: model, calibration: calib, lm_head: true, dynamic: { '-:^model\..*$': {} } } }
Y
run apply head.yaml
is "$rc" 0 "lm_head alone applies"
run show w/lm_head --json head.yaml
is "$(python3 -c 'import json
m = json.load(open("out"))["metrics"]["modules"]["lm_head"]
print(m["compensate"], m["compensate_residual"], m["output_metric"], m["refine_sweeps"], m["signed_scales"])')" "0.75 0.0 none 4 True" "without what needs a layer behind it"

run cache verify
is "$rc" 0 "cache verify is clean"
done_testing
