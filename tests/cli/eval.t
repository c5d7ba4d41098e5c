#!/bin/sh
# eval: perplexity, KL and agreement against golden figures; units, windows, wrong inputs.
. tests/cli/lib.sh
M=manifests/quickstart/model
D=manifests/quickstart/held.jsonl

# near FIGURE WANT RELATIVE WHAT: a figure of the last JSON output
near() {
    python3 -c 'import json, sys
got, want, bound = json.load(open(sys.argv[1])).get(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
sys.exit(None if got is not None and abs(got - want) <= bound * abs(want) else "# %s is %r, expected %r" % (sys.argv[2], got, want))' "$work/out" "$1" "$2" "$3"
    ok $? "$4"
}
golden() { python3 -c 'import json, sys; v = json.load(open(sys.argv[1]))
for k in sys.argv[2].split("."): v = v[k]
print(v)' "$1" "$2"; }

G=tests/vectors/quickstart_logits.json
run eval $M --data $D --window 256 --json -q
is $rc 0 'quickstart'
near perplexity "$(golden $G ppl_stories.ppl)" 1e-4 'quickstart: perplexity'
near tokens "$(golden $G ppl_stories.tokens)" 0 'quickstart: tokens'
is "$(python3 -c 'import json, sys; print(sorted(json.load(open(sys.argv[1]))))' "$work/out")" "['perplexity', 'tokens']" 'quickstart: fields'
run eval $M --data $D --window 256 --max-tokens 700 --json -q
cp "$work/out" "$work/plain"
run eval $M --data $D --window 256 --max-tokens 700 --json -q --isa scalar --threads 1
ok "$(cmp -s "$work/out" "$work/plain"; echo $?)" 'scalar, one thread: same bytes'

cp -r tests/vectors/quickstart-w4g128 "$work/q"
cp $M/tokenizer.json "$work/q/"
E=tests/vectors/quickstart-w4g128/expected.json
run eval "$work/q" --reference $M --data $D --window 256 --json -q
near perplexity "$(golden $E quality.gptq.perplexity)" 1e-4 'w4g128: perplexity'
near reference_perplexity "$(golden $E quality.reference.perplexity)" 1e-4 'w4g128: reference perplexity'
near kl_mean "$(golden $E quality.gptq.kl_mean)" 1e-3 'w4g128: KL'
near top1_agreement "$(golden $E quality.gptq.top1_agreement)" 5e-4 'w4g128: agreement'
run eval $M --reference $M --data $D --max-tokens 500 --json -q
is "$(python3 -c 'import json, sys; o = json.load(open(sys.argv[1])); print(o["tokens"], o["kl_mean"], o["top1_agreement"], o["perplexity"] == o["reference_perplexity"])' "$work/out")" \
    '500 0.0 1.0 True' 'a model against itself'

# The table of the shared golden data: perplexity and KL of what GPTQModel wrote, over 40 stories.
# shared CHECKPOINT MODEL PERPLEXITY KL AGREEMENT
shared() {
    run eval "$SHARED/golden/gptq/$1" --reference "$SHARED/models/$2" --data "$work/dev40.json" --window 400 --max-tokens 0 --json -q
    [ $rc -eq 0 ] || cat "$work/err" >&2
    near perplexity "$3" 2e-4 "$1: perplexity"
    near kl_mean "$4" 2e-3 "$1: KL"
    near top1_agreement "$5" 1e-3 "$1: agreement"
}
if [ -n "$SHARED" ]; then
    cp "$SHARED/text/tinystories/eval_stories_dev40.json" "$work/dev40.json"
    shared TinyStories-656K-w4g128asymact TinyStories-656K 20.1511 .04628 .8373
    shared TinyStories-656K-w4dyn TinyStories-656K 19.7971 .03177 .8671
    shared stories260K-w4g32 stories260K 4.2449 .07646 .8612
else
    skip 9 'no shared folder (golden/gptq)'
fi

# Units: plain text is one stream, JSON documents stand alone; a stride counts every token once; without BOS the first token is not predicted.
python3 -c 'import json, sys
for line in open(sys.argv[1]).readlines()[:12]: print(json.loads(line)["text"])' $D >"$work/plain.txt"
count() { python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["tokens"])' "$work/out"; }
run eval $M --data "$work/plain.txt" --window 128 --json -q
all=$(count)
run eval $M --data "$work/plain.txt" --window 128 --stride 64 --json -q
is "$(count)" "$all" 'overlapping windows count every token once'
run eval $M --data "$work/plain.txt" --window 128 --bos false --json -q
ok "$([ "$(count)" -lt "$all" ]; echo $?)" 'without BOS the first token of a window is not predicted'
run eval $M --data "$work/plain.txt" --unit document --window 128 --json -q
is "$(count)" 127 'a document is cut to the window'
run eval $M --data $D --max-tokens 100
is $rc 0 'readable view'
like "$(cat "$work/out")" '^class +cpu$' 'readable view: class'
like "$(cat "$work/out")" '^tokens +100$' 'readable view: tokens'
like "$(cat "$work/out")" '^perplexity +[0-9.]+$' 'readable view: perplexity'

fails 64 'eval: --data' 'no data' eval $M
fails 64 'MODEL' 'no model' eval --data $D
fails 64 'unit' 'bad unit' eval $M --data $D --unit line
fails 64 'windw' 'bad option' eval $M --data $D --windw 3
fails 1 'no/such does not exist' 'missing model' eval no/such --data $D
fails 1 'no/data does not exist' 'missing data' eval $M --data no/data
fails 1 'no/ref does not exist' 'missing reference' eval $M --data $D --reference no/ref
fails 1 'txt' 'missing field' eval $M --data $D --field txt
fails 64 '600.*512' 'window longer than the context' eval $M --data $D --window 600
: >"$work/empty.txt"
fails 1 'error: ' 'too little text' eval $M --data "$work/empty.txt"
cp -r $M "$work/m" && truncate -s -1000 "$work/m/model.safetensors"
fails 1 'model.safetensors' 'truncated safetensors' eval "$work/m" --data $D
fails 1 'reference: .*model.safetensors' 'truncated reference' eval $M --reference "$work/m" --data $D
if [ -n "$SHARED" ]; then
    fails 1 'vocabulary of 1024.*2048' 'reference with another vocabulary' eval $M --reference "$SHARED/models/qwen3-tiny" --data $D
else
    skip 3 'no shared folder (reference with another vocabulary)'
fi
cp -r $M "$work/nan" && python3 tests/cli/poison.py "$work/nan/model.safetensors" model.layers.1.mlp.up_proj.weight 77
fails 1 'model\.layers\.1\.mlp\.up_proj\.weight.*element 77' 'NaN weight' eval "$work/nan" --data $D
fails 1 'reference: .*model\.layers\.1\.mlp\.up_proj\.weight.*element 77' 'NaN weight in the reference' eval $M --reference "$work/nan" --data $D
echo '{"input_ids":[1,2,70000]}' >"$work/ids.jsonl"
fails 1 'ids.jsonl.*70000|70000.*ids.jsonl' 'id outside the vocabulary' eval $M --data "$work/ids.jsonl" --field input_ids
done_testing
