#!/bin/sh
# What calibrate takes, cuts, drops and joins, checked against `tokenize`.
. tests/cli/lib.sh
cp -r manifests/quickstart "$work/"
cd "$work" || exit 1

# calib NAME 'FIELDS': applies one calibrate stage over docs.jsonl; the samples as JSON lists in NAME.json, the report's dropped count in NAME.dropped
calib() {
    cat >"$1.yaml" <<Y
version: 1
name: $1
stages:
  model: { fetch: { file: quickstart/model } }
  text:  { fetch: { file: ${3:-docs.jsonl} } }
  c:     { calibrate: { model: model, data: text, $2 } }
Y
    run apply -q "$1.yaml"
    [ "$rc" -eq 0 ] || { cat err >&2; return; }
    "$GPTQPIPE" show c --json "$1.yaml" >show
    python3 - "$1" "$GPTQPIPE_CACHE" <<'P'
import json, struct, sys
name, cache = sys.argv[1:]
def outputs(x):
    if isinstance(x, dict):
        if "sha256" in x and "path" in x:
            yield x
        for v in x.values():
            yield from outputs(v)
    elif isinstance(x, list):
        for v in x:
            yield from outputs(v)
files = {o["path"]: o["sha256"] for line in open("show") for o in outputs(json.loads(line))}
def blob(path):
    return open(f"{cache}/cas/{files[path][:2]}/{files[path]}", "rb").read()
b = blob("calibration.safetensors")
n = struct.unpack("<Q", b[:8])[0]
h = json.loads(b[8:8 + n])
def tensor(key, fmt):
    lo, hi = h[key]["data_offsets"]
    return struct.unpack(f"<{(hi - lo) // struct.calcsize(fmt)}{fmt}", b[8 + n + lo:8 + n + hi])
ids, off = tensor("input_ids", "i"), tensor("offsets", "q")
json.dump([list(ids[i:j]) for i, j in zip(off, off[1:])], open(f"{name}.json", "w"))
open(f"{name}.dropped", "w").write(str(json.loads(blob("calibration.json"))["dropped"]))
P
}
same() { python3 -c 'import json,sys; sys.exit(json.load(open(sys.argv[1])) != eval(sys.argv[2], {"ids": ids}) if (ids := [json.loads(l)["ids"] for l in open("ids")]) else 1)' "$1" "$2"; }

{ echo '{"text": "tiny"}'; head -n 30 quickstart/calib.jsonl; } >docs.jsonl
"$GPTQPIPE" tokenize quickstart/model <docs.jsonl >ids

calib plain 'samples: 5, sequence_length: 40'
same plain.json '[x[:40] for x in ids[1:6]]'
ok "$?" "documents in order, cut, special tokens in front"
is "$(cat plain.dropped)" 1 "the short document is dropped and counted"
calib low 'samples: 5, sequence_length: 40, min_tokens: 1'
same low.json '[x[:40] for x in ids[:5]]'
ok "$?" "min_tokens: 1 keeps it"
calib joined 'samples: 6, sequence_length: 50, concat: true'
same joined.json '[sum(ids[1:], [])[i * 50:i * 50 + 50] for i in range(6)]'
ok "$?" "concat joins whole documents, BOS before each, and cuts equal lengths"
calib shuffled 'samples: 30, sequence_length: 300, select: shuffle, seed: 7'
python3 -c 'import json; ids=[json.loads(l)["ids"][:300] for l in open("ids")][1:]; s=json.load(open("shuffled.json")); import sys; sys.exit(not (sorted(s) == sorted(ids) and s != ids))'
ok "$?" "shuffle permutes the documents"
cp shuffled.json first.json
calib again 'samples: 10, sequence_length: 300, select: shuffle, seed: 7'
python3 -c 'import json,sys; sys.exit(json.load(open("again.json")) != json.load(open("first.json"))[:10])'
ok "$?" "fewer samples of the same seed are its beginning"
calib other 'samples: 30, sequence_length: 300, select: shuffle, seed: 8'
python3 -c 'import json,sys; sys.exit(json.load(open("other.json")) == json.load(open("first.json")))'
ok "$?" "another seed gives another order"

python3 -c 'import json; [print(json.dumps({"input_ids": json.loads(l)["ids"]})) for l in open("ids")]' >ids.jsonl
calib asis 'field: input_ids, samples: 5, sequence_length: 40' ids.jsonl
same asis.json '[x[:40] for x in ids[1:6]]'
ok "$?" "input_ids are taken as they are"
gzip -k docs.jsonl
calib zipped 'samples: 5, sequence_length: 40' docs.jsonl.gz
cmp -s plain.json zipped.json
ok "$?" "a compressed dataset gives the same samples"
done_testing
