#!/bin/sh
# kill -9 at 10 random moments of an apply under the default recipe, lm_head and a layer quantized otherwise with it; then apply succeeds, replaying both streams
# through the layers that were done, same digests, `cache verify` clean.
. tests/cli/lib.sh
cp -r manifests/quickstart manifests/quickstart.yaml "$work/"
cd "$work" || exit 1
sed -i "s/kl_mean: { max: [0-9.]* }/kl_mean: { max: 0.01 }/; s/^      group_size: 128$/&\n      lm_head: true/; s/^      dynamic:$/&\n        '+:^model\\\\.layers\\\\.1\\\\..*\$': { group_size: 64, output_metric: none }/" quickstart.yaml
digests() { (cd dist/quickstart && find . -type f | sort | xargs sha256sum) | sha256sum; }
start=$(date +%s%N)
GPTQPIPE_CACHE=$work/whole run apply -q quickstart.yaml
ms=$((($(date +%s%N) - start) / 1000000))
is "$rc" 0 "an undisturbed apply ($ms ms)"
like "$(cat dist/quickstart/quantize_config.json | tr -d ' \n')" '"lm_head":true.*"recipe":."name":"best","compensate":0.75' "under recipe best"
want=$(digests)
seed=${SEED:-$(date +%s)}
echo "# SEED=$seed"
i=0
replayed=0
while [ "$i" -lt 10 ]; do
    i=$((i + 1))
    rm -rf dist
    after=$(awk -v s="$((seed + i))" -v m="$ms" 'BEGIN { srand(s); printf "%.3f", rand() * m / 1000 }')
    "$GPTQPIPE" apply -q quickstart.yaml >/dev/null 2>&1 &
    pid=$!
    sleep "$after"
    kill -9 "$pid" 2>/dev/null
    wait "$pid" 2>/dev/null
    run apply --json quickstart.yaml
    hits=$(grep -c '"node":"w4/layer.[0-3]","result":"hit"' "$work/out")
    grep -q '"node":"w4/layer.4","result":"ran"' "$work/out" && [ "$hits" -gt 0 ] && replayed=$((replayed + 1))
    is "$rc $(digests)" "0 $want" "killed after $after s: apply succeeds with the same digests"
    run cache verify
    is "$rc" 0 "killed after $after s: cache verify is clean"
    is "$(find "$GPTQPIPE_CACHE/tmp" -mindepth 1 | wc -l)" 0 "killed after $after s: no temporary file is left"
    rm -rf "$GPTQPIPE_CACHE"
done
ok $((replayed == 0)) "layers were replayed after $replayed of the kills"
done_testing
