#!/bin/sh
# tokenize: golden ids and decodings, forms of MODEL, wrong inputs.
. tests/cli/lib.sh

# against MODEL GOLDEN NAME
against() {
    for mode in encoded plain; do
        flag=''
        [ $mode = plain ] && flag=--no-special
        python3 tests/cli/golden.py texts "$2" >"$work/in"
        # shellcheck disable=SC2086
        "$GPTQPIPE" tokenize "$1" $flag <"$work/in" >"$work/out" 2>"$work/err" && python3 tests/cli/golden.py $mode "$2" "$work/out" >&2
        ok $? "$3: $mode"
    done
    python3 tests/cli/golden.py idlists "$2" >"$work/in"
    "$GPTQPIPE" tokenize "$1" --decode <"$work/in" >"$work/out" 2>"$work/err" && python3 tests/cli/golden.py kept "$2" "$work/out" >&2
    ok $? "$3: kept"
    python3 tests/cli/golden.py special "$2" >"$work/in"
    "$GPTQPIPE" tokenize "$1" --decode --skip-special <"$work/in" >"$work/out" 2>"$work/err" && python3 tests/cli/golden.py skipped "$2" "$work/out" >&2
    ok $? "$3: skipped"
}

against manifests/quickstart/model tests/vectors/quickstart_tokenizer.jsonl quickstart
for t in gpt2 llama2 qwen metaspace digits; do
    against tests/vectors/tok_small/$t.json tests/vectors/tok_small/$t.jsonl "small $t"
done
for t in gpt2 llama2 llama3_1 qwen3; do
    if [ -n "$SHARED" ]; then against "$SHARED/tokenizers/$t" "$SHARED/golden/tokenizers/$t.jsonl" $t; else skip 4 "no shared folder ($t)"; fi
done
for t in TinyStories-656K stories260K; do
    if [ -n "$SHARED" ]; then against "$SHARED/models/$t" "$SHARED/golden/tokenizers/$t.jsonl" $t; else skip 4 "no shared folder ($t)"; fi
done

M=manifests/quickstart/model
printf '\n{"text":"a b"}\n  \n{"text":""}\n' | "$GPTQPIPE" tokenize $M --no-special >"$work/out"
is "$(wc -l <"$work/out")" 2 'empty lines are skipped'
is "$(tail -n 1 "$work/out")" '{"ids":[]}' 'an empty text'

# wrong STDIN STATUS PATTERN WHAT ARGS
wrong() {
    printf '%s\n' "$1" >"$work/in"
    shift
    want=$1 pattern=$2 what=$3
    shift 3
    "$GPTQPIPE" "$@" <"$work/in" >"$work/out" 2>"$work/err"
    is $? "$want" "$what: exit status"
    like "$(cat "$work/err")" "$pattern" "$what: message"
    is "$(wc -l <"$work/err")" 1 "$what: one line"
}
wrong '{"text":"a"}' 1 '^gptqpipe: error: .*no/such' 'missing model' tokenize no/such
wrong '{"text":"a"}' 64 'MODEL' 'no model' tokenize
wrong '{"text":"a"}' 64 'unknown option.*decod' 'bad option' tokenize $M --decod
wrong '{"text":"a"}' 64 'skip-special goes with --decode' 'lone --skip-special' tokenize $M --skip-special
wrong '{"txt":"a"}' 1 '^stdin:1:1: error: .*"text"' 'no text' tokenize $M
wrong '{"text":"a"' 1 '^stdin:1:[0-9]+: error: ' 'cut JSON' tokenize $M
wrong '{"ids":[1,-2]}' 1 '^stdin:1:1: error: ids\[1\]' 'negative id' tokenize $M --decode
wrong '{"ids":[99999]}' 1 '^stdin:1:1: error: .*99999' 'id outside the vocabulary' tokenize $M --decode
wrong '{"text":"a"}' 1 'error: .*config.json' 'a JSON file that is no tokenizer' tokenize $M/config.json
head -c 3000 $M/tokenizer.json >"$work/cut.json"
wrong '{"text":"a"}' 1 'cut.json:[0-9]+:[0-9]+: error: ' 'cut tokenizer' tokenize "$work/cut.json"
done_testing
