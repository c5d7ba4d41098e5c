# shellcheck shell=sh
# shellcheck disable=SC2154,SC2034 # work comes from lib.sh, want_* are for who sources this
# One manifest with every kind of setting, under both recipes, and the digest of all that it makes. After tests/cli/lib.sh.
#   best       the default: no word on `recipe`             want_best       tests/vectors/quickstart.sha256
#   gptqmodel  what was made before there were recipes      want_gptqmodel  tests/vectors/quickstart_gptqmodel.sha256
cat >"$work/best.yaml" <<'M'
version: 1
name: identity
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
      dynamic:
        '-:^model\.layers\.1\.self_attn\..*$': {}
        '+:^model\.layers\.0\.mlp\.down_proj$': { bits: 8, group_size: 32 }
        '+:^model\.layers\.2\.mlp\.down_proj$': { mse: 2.4, act_group_aware: false }
        '+:^model\.layers\.3\.mlp\.down_proj$': { desc_act: true, act_group_aware: false }
        '+:^model\.layers\.4\.mlp\.down_proj$': { sym: false, desc_act: true, static_groups: true, act_group_aware: false }
  out:   { pack: { quantized: w, target: transformers, output: dist } }
  judge: { validate: { checkpoint: out, reference: model, data: held, max_tokens: 300, window: 64 } }
  say:   { run: { checkpoint: out, prompts: ["Once", "The town"], max_tokens: 8, temperature: 0.7, seed: 3, logprobs: 2 } }
M
sed 's/^      group_size: 64$/&\n      recipe: gptqmodel/' "$work/best.yaml" >"$work/gptqmodel.yaml"
# bytes RECIPE PROGRAM FOLDER ARGS...: digest of checkpoint, report and text; counters of kernels in $work/rows
bytes() {
    recipe=$1 program=$2 folder=$3
    shift 3
    mkdir -p "$folder"
    cp -r "$ROOT/manifests/quickstart" "$folder/"
    cp "$work/$recipe.yaml" "$folder/m.yaml"
    "$program" apply --json --cache "$folder/cache" "$@" "$folder/m.yaml" >"$folder/events" 2>"$work/err" || { cat "$work/err" >&2; echo failed; return; }
    tail -n 1 "$folder/events" >"$work/rows"
    { (cd "$folder/dist" && find . -type f | sort | xargs sha256sum)
      for s in judge say; do "$program" show "$s" --json --cache "$folder/cache" "$folder/m.yaml" 2>"$work/err"; done | grep -o '"sha256":"[0-9a-f]*"'; } | sha256sum | cut -d' ' -f1
}
want_best=$(cat "$ROOT/tests/vectors/quickstart.sha256" 2>/dev/null)
want_gptqmodel=$(cat "$ROOT/tests/vectors/quickstart_gptqmodel.sha256" 2>/dev/null)
