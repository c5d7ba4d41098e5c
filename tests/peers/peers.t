#!/bin/sh
# Our checkpoints in the hands of others. PEERS names a folder with the environments `gptqmodel` and `vllm` (shared tools/peers.sh) and `SmolLM2` (tools/smollm2.py).
shared=${GPTQPIPE_SHARED:-../shared}
if [ -z "$PEERS" ] || [ ! -d "$PEERS" ]; then
    echo "1..0 # SKIP PEERS does not name a folder with the peers' environments"
    exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export GPTQPIPE_CACHE="$work/cache"
fail=0
run() { "$@" >"$work/out" 2>"$work/err"; rc=$?; sed 's/^/    /' "$work/out"; [ $rc -eq 0 ] || { fail=1; tail -5 "$work/err" | sed 's/^/# /'; }; return $rc; }

cp -r manifests/quickstart manifests/quickstart.yaml "$work/"
n=0
verdict() { n=$((n + 1)); if [ "$1" -eq 0 ]; then echo "ok $n - $2"; else echo "not ok $n - $2"; fi; }

"$GPTQPIPE" apply -q "$work/quickstart.yaml"
verdict $? "quickstart applies"
run "$PEERS/gptqmodel/bin/python" tests/peers/reader.py "$GPTQPIPE" "$work/dist/quickstart" "$work/quickstart/model" "$work/quickstart/held.jsonl"
verdict $? "independent reader"
run "$PEERS/gptqmodel/bin/python" tests/peers/load.py gptqmodel "$GPTQPIPE" "$work/dist/quickstart" "Once there was a baker called"
verdict $? "GPTQModel loads a checkpoint with overrides and agrees"

"$GPTQPIPE" apply -q tests/peers/smollm2.yaml --set "model=$PEERS/SmolLM2" --set "shared=$(realpath "$shared")" --set "output=$work/smollm2"
verdict $? "SmolLM2-135M-Instruct applies"
run "$PEERS/vllm/bin/python" tests/peers/vllm_run.py "$GPTQPIPE" "$work/smollm2"
verdict $? "vLLM loads the folder and completes"
run "$PEERS/gptqmodel/bin/python" tests/peers/load.py transformers "$GPTQPIPE" "$work/smollm2" "The capital of France is"
verdict $? "transformers with gptqmodel loads a checkpoint and agrees"
run "$PEERS/gptqmodel/bin/python" tests/peers/load.py gptqmodel "$GPTQPIPE" "$work/smollm2" "The capital of France is"
verdict $? "GPTQModel loads it and agrees"
rm -f tests/peers/gptqpipe.lock
echo "1..$n"
exit $fail
