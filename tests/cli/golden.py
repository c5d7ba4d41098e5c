"""Golden data for run.t and tokenize.t (standard library only).

  golden.py prompts GOLDEN           its prompts, as a prompts file of JSON lines
  golden.py ids GOLDEN               the same as prompt_ids
  golden.py logprobs GOLDEN OUT      OUT (JSON lines of `run --json --logprobs K`) against GOLDEN: ids of the prompts, log-probabilities of the first
                                     token and its alternatives from last_logits within 2e-3, greedy ids as far as the margin allows
  golden.py texts|idlists|special GOLDEN      input of `tokenize` from a tokenizer golden
  golden.py encoded|plain|kept|skipped GOLDEN OUT   output of `tokenize` against it
"""
import json
import math
import sys

BOUND = 2e-3


def lines(path):
    return [json.loads(line) for line in open(path, encoding="utf-8") if line.strip()]


def put(o):
    sys.stdout.write(json.dumps(o) + "\n")


def log_softmax(logits):
    top = max(logits)
    norm = top + math.log(math.fsum(math.exp(x - top) for x in logits))
    return [x - norm for x in logits]


def check_first(case, line):
    want = log_softmax(case["last_logits"])
    first = line["logprobs"][0]
    order = sorted(range(len(want)), key=lambda i: (-want[i], i))
    worst = abs(first["logprob"] - want[first["id"]])
    for top in first["top"]:
        worst = max(worst, abs(top["logprob"] - want[top["id"]]))
    if worst > BOUND:
        return "log-probability off by %g" % worst
    for rank, top in enumerate(first["top"]):
        if abs(want[top["id"]] - want[order[rank]]) > 2 * BOUND:
            return "alternative %d is %d, expected %d" % (rank, top["id"], order[rank])
    return None


def check_greedy(case, line):
    """Each step's margin where the golden data has it, else the least one of the case, else the margin that our own log-probabilities show."""
    for i, want in enumerate(case["greedy_ids"][len(case["ids"]):]):
        if i >= len(line["ids"]):
            return None if line["finish_reason"] == "length" else "stopped after %d tokens" % i
        token = line["logprobs"][i]
        margin = token["top"][0]["logprob"] - token["top"][1]["logprob"]
        if "greedy_logprobs" in case and abs(token["top"][0]["logprob"] - case["greedy_logprobs"][i]) > BOUND:
            return "log-probability of greedy id %d is %g, expected %g" % (i, token["logprob"], case["greedy_logprobs"][i])
        if "greedy_margins" in case:
            margin = case["greedy_margins"][i]
        elif "least_margin" in case:
            margin = case["least_margin"]
        if line["ids"][i] != want:
            return None if margin < 0.01 else "greedy id %d is %d, expected %d" % (i, line["ids"][i], want)
    return None


def check_logprobs(golden, out):
    cases, got = json.load(open(golden, encoding="utf-8"))["cases"], lines(out)
    if len(cases) != len(got):
        return "%d lines for %d prompts" % (len(got), len(cases))
    for case, line in zip(cases, got):
        why = None
        if line["prompt_ids"] != case["ids"]:
            why = "prompt_ids %s, expected %s" % (line["prompt_ids"], case["ids"])
        why = why or check_first(case, line) or check_greedy(case, line)
        if why:
            return "%s: %s" % (case["prompt"], why)
    return None


def check_equal(golden, out, field, key):
    want, got = [c[field] for c in lines(golden)], [o[key] for o in lines(out)]
    if len(want) != len(got):
        return "%d lines for %d" % (len(got), len(want))
    for i, (a, b) in enumerate(zip(want, got)):
        if a != b:
            return "line %d: %r, expected %r" % (i + 1, b, a)
    return None


def main(mode, golden, out=None):
    if mode in ("prompts", "ids"):
        for case in json.load(open(golden, encoding="utf-8"))["cases"]:
            put({"prompt": case["prompt"]} if mode == "prompts" else {"prompt_ids": case["ids"]})
        return None
    inputs = {"texts": ("text", "text"), "idlists": ("ids", "ids_nospecial"), "special": ("ids", "ids")}
    if mode in inputs:
        for case in lines(golden):
            put({inputs[mode][0]: case[inputs[mode][1]]})
        return None
    if mode == "logprobs":
        return check_logprobs(golden, out)
    field, key = {"encoded": ("ids", "ids"), "plain": ("ids_nospecial", "ids"), "kept": ("decode_keep", "text"), "skipped": ("decode_skip", "text")}[mode]
    return check_equal(golden, out, field, key)


if __name__ == "__main__":
    problem = main(*sys.argv[1:])
    if problem:
        sys.exit("# " + problem)
