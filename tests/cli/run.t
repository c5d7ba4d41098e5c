#!/bin/sh
# run: log-probabilities and greedy ids against golden data, sampling, prompts, views, wrong inputs.
. tests/cli/lib.sh
M=manifests/quickstart/model
V=tests/vectors

# matches MODEL GOLDEN NAME: text prompts give the golden prompt ids, log-probabilities and continuation.
# Qwen's tokenizer puts no BOS in front, the golden data has one: there the ids are given.
matches() {
    case $3 in qwen*) kind=ids ;; *) kind=prompts ;; esac
    python3 tests/cli/golden.py $kind "$2" >"$work/prompts"
    run run "$1" --prompts "$work/prompts" --max-tokens 40 --logprobs 200 --json -q
    [ $rc -eq 0 ] || cat "$work/err" >&2
    [ $rc -eq 0 ] && python3 tests/cli/golden.py logprobs "$2" "$work/out" >&2
    ok $? "$3"
}
matches $M $V/quickstart_logits.json 'quickstart model'
cp -r $V/quickstart-w4g128 "$work/q"
cp $M/tokenizer.json "$work/q/"
matches "$work/q" $V/quickstart-w4g128/expected.json 'quickstart-w4g128'
for m in TinyStories-656K stories260K qwen3-tiny; do
    if [ -n "$SHARED" ]; then matches "$SHARED/models/$m" "$SHARED/golden/logits/$m.json" $m; else skip 1 "no shared folder ($m)"; fi
done
if [ -n "$SHARED" ]; then
    matches "$SHARED/models/TinyStories-656K-sharded" "$SHARED/golden/logits/TinyStories-656K.json" 'sharded'
    for d in "$SHARED"/golden/gptq/*/expected.json; do
        matches "${d%/*}" "$d" "$(basename "${d%/*}")"
    done
else
    skip 12 'no shared folder (golden/gptq)'
fi

python3 tests/cli/golden.py ids $V/quickstart_logits.json >"$work/ids"
P=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["cases"][0]["prompt"])' $V/quickstart_logits.json)
# One prompt's line is the same bytes for every instruction set, number of threads, and company in the batch.
run run $M --prompt "$P" --max-tokens 12 --logprobs 3 --json -q
cp "$work/out" "$work/one"
is $rc 0 'one prompt'
is "$(wc -c <"$work/err")" 0 '-q is silent'
run run $M --prompt "$P" --max-tokens 12 --logprobs 3 --json -q --isa scalar --threads 1
ok "$(cmp -s "$work/out" "$work/one"; echo $?)" 'scalar, one thread: same bytes'
if grep -qw avx2 /proc/cpuinfo && grep -qw fma /proc/cpuinfo; then
    run run $M --prompt "$P" --max-tokens 12 --logprobs 3 --json -q --isa avx2 --threads 3
    ok "$(cmp -s "$work/out" "$work/one"; echo $?)" 'avx2, three threads: same bytes'
else
    skip 1 'no AVX2'
fi
i=0
while [ $i -lt 20 ]; do
    echo "Line $i is"
    i=$((i + 1))
done >"$work/many"
{ echo "$P"; cat "$work/many"; } >"$work/batch"
run run $M --prompts "$work/batch" --max-tokens 12 --logprobs 3 --json -q
is "$(wc -l <"$work/out")" 21 'a line for each of 21 prompts'
head -n 1 "$work/out" >"$work/first"
ok "$(cmp -s "$work/first" "$work/one"; echo $?)" 'in a batch: same bytes'

is "$(python3 -c 'import json,sys; print(sorted(json.loads(open(sys.argv[1]).readline())))' "$work/one")" \
    "['finish_reason', 'ids', 'kernel', 'logprobs', 'prompt', 'prompt_ids', 'text']" 'fields of a line'
is "$(python3 -c 'import json,sys; o=json.loads(open(sys.argv[1]).readline()); print(o["kernel"]["q_proj"], o["kernel"]["lm_head"], len(o["ids"]), o["finish_reason"])' "$work/one")" \
    'cpu/bf16 cpu/bf16 12 length' 'kernels of a plain model'
run run "$work/q" --prompt "$P" --max-tokens 200 --json -q
is "$(python3 -c 'import json,sys; o=json.loads(open(sys.argv[1]).readline()); print(o["kernel"]["down_proj"], o["kernel"]["lm_head"], o["finish_reason"], o["ids"][-1] == 1023)' "$work/out")" \
    'cpu/gptq-w4g128 cpu/bf16 stop True' 'kernels of a checkpoint; stops after EOS'

# Sampling: a seed decides, another gives another text, temperature 0 is greedy.
run run $M --prompt "$P" --temperature 1.5 --seed 7 --max-tokens 20 --json -q
cp "$work/out" "$work/s7"
run run $M --prompt "$P" --temperature 1.5 --seed 7 --max-tokens 20 --json -q --threads 2
ok "$(cmp -s "$work/out" "$work/s7"; echo $?)" 'same seed, same line'
run run $M --prompt "$P" --temperature 1.5 --seed 8 --max-tokens 20 --json -q
ok "$(! cmp -s "$work/out" "$work/s7"; echo $?)" 'another seed, another line'
run run $M --prompt "$P" --temperature 1.5 --top-p 0.0001 --max-tokens 12 --logprobs 3 --json -q
ok "$(cmp -s "$work/out" "$work/one"; echo $?)" 'a tiny top-p is greedy'

# A draw depends on the prompt's number and nothing else: alone or among 20 the first is the same; the 17th, in the next batch, draws for itself.
i=0
while [ $i -lt 20 ]; do
    echo "$P"
    i=$((i + 1))
done >"$work/many"
run run $M --prompts "$work/many" --temperature 1.5 --seed 7 --max-tokens 20 --json -q
head -n 1 "$work/out" >"$work/first"
ok "$(cmp -s "$work/first" "$work/s7"; echo $?)" 'sampling in a batch: same line'
is "$(sort "$work/out" | uniq | wc -l)" 20 'sampling: equal prompts draw apart'

# Prompts files; ids in, the same continuation out.
run run $M --prompts "$work/ids" --max-tokens 12 --json -q
is "$(python3 -c 'import json,sys
a, b = (json.loads(open(p).readline()) for p in sys.argv[1:])
print(a["prompt"], a["ids"] == b["ids"], a["text"] == b["text"])' "$work/out" "$work/one")" 'None True True' 'prompt_ids'

run run $M --prompt "$P" --prompt 'The flag of' --max-tokens 5
is $rc 0 'readable view'
like "$(cat "$work/out")" '^== prompt 2, 5 tokens, length$' 'readable view: a block a prompt'
like "$(cat "$work/out")" "^$P [A-Za-z]" 'readable view: prompt and text joined'
like "$(cat "$work/err")" '^10 tokens in [0-9.]+ s, [0-9.]+ tokens/s, class cpu$' 'readable view: speed and class on stderr'

# On a terminal one prompt streams: the pieces join to the same text.
is "$(python3 - "$GPTQPIPE" $M "$P" <<'Y'
import os, pty, sys
program, model, prompt = sys.argv[1:]
pid, fd = pty.fork()
if pid == 0:
    os.execv(program, [program, "run", model, "--prompt", prompt, "--max-tokens", "12", "-q"])
out = b""
while True:
    try:
        piece = os.read(fd, 4096)
    except OSError:
        break
    if not piece:
        break
    out += piece
print(os.waitpid(pid, 0)[1], out.decode().replace("\r\n", "\n"), end="")
Y
)" "0 $P$(python3 -c 'import json, sys; print(json.loads(open(sys.argv[1]).readline())["text"])' "$work/one")" 'streams on a terminal'

# Wrong inputs.
fails 64 'run: give either' 'no prompt' run $M
fails 64 'run: give either' 'two kinds of prompts' run $M --prompt a --prompts "$work/ids"
fails 64 'MODEL' 'no model' run --prompt a
fails 64 'temperatur' 'bad option' run $M --prompt a --temperatur 1
fails 64 'max-tokens' 'bad number' run $M --prompt a --max-tokens x
fails 64 "unknown instruction set 'avx9'|isa.*avx9" 'bad isa' run $M --prompt a --isa avx9
fails 64 "unknown device 'tpu'|device.*tpu" 'bad device' run $M --prompt a --device tpu
fails 1 'no/such does not exist' 'missing model' run no/such --prompt a
fails 1 'no/prompts' 'missing prompts file' run $M --prompts no/prompts
: >"$work/empty"
fails 1 'holds no prompt' 'empty prompts file' run $M --prompts "$work/empty"
printf 'a\n{"promt":"b"}\n' >"$work/bad"
fails 1 'bad:2:1: error: .*"prompt"' 'bad prompts line' run $M --prompts "$work/bad"
echo '{"prompt_ids":[1,5000]}' >"$work/bad"
fails 1 'bad:1:1: error: .*5000.*1024' 'id outside the vocabulary' run $M --prompts "$work/bad"
python3 -c 'print("word " * 700)' >"$work/bad"
fails 1 '[0-9]+.*512' 'prompt longer than the context' run $M --prompts "$work/bad"

broken() { rm -rf "$work/m" && cp -r $M "$work/m"; }
broken && rm "$work/m/tokenizer.json"
fails 1 'tokenizer.json' 'no tokenizer' run "$work/m" --prompt a
broken && rm "$work/m/model.safetensors"
fails 1 'model.safetensors' 'no weights' run "$work/m" --prompt a
broken && truncate -s -1000 "$work/m/model.safetensors"
fails 1 'model.safetensors' 'truncated safetensors' run "$work/m" --prompt a
broken && sed -i 's/LlamaForCausalLM/GrokForCausalLM/; s/"model_type": "llama"/"model_type": "grok"/' "$work/m/config.json"
fails 1 'GrokForCausalLM' 'unknown architecture' run "$work/m" --prompt a
broken && python3 tests/cli/poison.py "$work/m/model.safetensors" model.layers.1.mlp.up_proj.weight 77
fails 1 'model\.layers\.1\.mlp\.up_proj\.weight.*element 77' 'NaN weight' run "$work/m" --prompt a
broken && cp $V/tok_small/gpt2.json "$work/m/tokenizer.json" && python3 - "$work/m/tokenizer.json" <<'Y'
import json, sys
t = json.load(open(sys.argv[1]))
shift = {k: v + 1024 for k, v in t["model"]["vocab"].items()}
t["model"]["vocab"] = shift
for a in t.get("added_tokens", []):
    a["id"] += 1024
json.dump(t, open(sys.argv[1], "w"))
Y
fails 1 "outside the model's vocabulary of 1024: a tokenizer of another model" 'tokenizer of another model' run "$work/m" --prompt 'hello there'
is "$(cd "$work" && ls -A | tr '\n' ' ')" 'bad batch empty err first ids m many one out prompts q s7 ' 'nothing left behind'
done_testing
