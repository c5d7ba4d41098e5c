"""What each part of the recipe brings: perplexity, KL, top-1 and time of quantize, variant by variant, beside GPTQModel 7.7.0's best symmetric figures.

    GPTQPIPE=build/gptqpipe python3 tests/bench/ablation.py [--group 128,32] [--only 'NAME;NAME'] [--model NAME,...] [--set 'NAME=field: value, ...']
    GPTQPIPE=build/gptqpipe python3 tests/bench/ablation.py --smollm2 FOLDER [--samples 128] [--only 'NAME;NAME']   SmolLM2-135M-Instruct (shared tools/smollm2.py), g64

Shared models: calibration ids of shared golden/gptq, dev40 stories, each by itself. SmolLM2: samples of 512 C4 tokens; WikiText test, first 16,384 tokens in
windows of 512 without BOS. Results belong in tests/bench/results/ with machine, date and commit.
"""
import argparse
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile

SHARED = pathlib.Path(os.environ.get("GPTQPIPE_SHARED", "../shared")).resolve()
PROGRAM = os.environ.get("GPTQPIPE", "build/gptqpipe")
# GPTQModel's best symmetric KL by group size: shared golden/gptq/README.md; SmolLM2: shared reference/accuracy.md
PEER = {128: {"TinyStories-656K": .04951, "stories260K": .08547, "qwen3-tiny": .00822}, 32: {"TinyStories-656K": .03581, "stories260K": .06643, "qwen3-tiny": .00674},
        64: {"SmolLM2": .2310}}
PLAIN = {"recipe": "gptqmodel"}
SEARCH = PLAIN | {"scale_search": "gptq"}
SIGNED = SEARCH | {"signed_scales": "true"}
TARGET = SIGNED | {"compensate": .75}
CODES = {"refine_sweeps": 4}
VARIANTS = {
    "gptqmodel": PLAIN,
    "gptqmodel mse": PLAIN | {"mse": 2.4},
    "search alone": SEARCH,
    "signed (mse) alone": PLAIN | {"mse": 2.4, "signed_scales": "true"},
    "compensate alone": PLAIN | {"compensate": .75},
    "codes alone": PLAIN | CODES,
    "codes+scales alone": PLAIN | CODES | {"refit_scales": "true"},
    "metric alone": PLAIN | CODES | {"output_metric": "local"},
    "search+signed": SIGNED,
    "+compensate": TARGET,
    "+residual off": TARGET | {"compensate_residual": 0},
    "+codes": TARGET | CODES,
    "+scales": TARGET | CODES | {"refit_scales": "true"},
    "best": {},
    "best, f16 scales": {"scale_dtype": "f16"},
    "best, inputs original": {"inputs": "original"},
    "best, a=b=.5": {"compensate": .5},
    "best, a=b=1": {"compensate": 1},
}


def show(folder, stage):
    out = subprocess.run([PROGRAM, "--cache", folder + "/cache", "show", stage, "--json", "-C", folder], capture_output=True, text=True)
    if out.returncode:
        sys.exit(f"show {stage}: {out.stderr}")
    return [json.loads(line) for line in out.stdout.splitlines()]


def manifest(head, tail, variants, group):
    lines = ["version: 1", "name: ablation", "stages:", *head]
    for i, settings in enumerate(variants.values()):
        text = settings if isinstance(settings, str) else ", ".join(f"{k}: {v}" for k, v in ({"bits": 4, "group_size": group} | settings).items())
        lines += [f"  q{i}: {{ quantize: {{ model: model, calibration: calib, {text} }} }}",
                  f"  p{i}: {{ pack: {{ quantized: q{i}, target: transformers }} }}",
                  f"  v{i}: {{ validate: {{ checkpoint: p{i}, reference: model, data: text, {tail} }} }}"]
    return "\n".join(lines) + "\n"


def run(head, tail, variants, group, threads):
    """{variant: (perplexity, KL, top-1, seconds)}"""
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "manifest.yaml").write_text(manifest(head, tail, variants, group))
        for i, name in enumerate(variants):
            log = subprocess.run([PROGRAM, "--cache", folder + "/cache", "--threads", str(threads or os.cpu_count()), "apply", "-q", "-j1", "-C", folder, "-t", f"v{i}", "--json"], capture_output=True, text=True)
            if log.returncode:
                sys.exit(f"{name}: {log.stderr}")
            ends = [json.loads(line) for line in log.stdout.splitlines()]
            seconds = sum(e["ms"] for e in ends if e.get("type") == "node_end" and e["node"].startswith(f"q{i}/")) / 1000
            figure = next(n["metrics"] for n in show(folder, f"v{i}") if "kl_mean" in (n.get("metrics") or {}))
            results[name] = figure["perplexity"], figure["kl_mean"], figure["top1_agreement"], seconds
            if os.environ.get("REPORT"):
                for node in show(folder, f"q{i}"):
                    print(json.dumps(node.get("metrics")))
    return results


def table(group, by_model):
    models = list(by_model)
    print(f"\ng{group:<4}{'':20s}" + "".join(f"{m:>36s}" for m in models) + "   ratio of KL")
    print(f"{'GPTQModel, its best':25s}" + "".join(f"{PEER[group][m]:>24.5f}{'':12s}" for m in models))
    for name in by_model[models[0]]:
        cells, logs = "", 0
        for m in models:
            ppl, kl, top1, seconds = by_model[m][name]
            cells += f"{ppl:>16.4f} {kl:.5f} {top1:.4f}{seconds:>5.0f} s"
            logs += math.log(kl / PEER[group][m]) / len(models)
        print(f"{name:25s}{cells}   {math.exp(logs):.3f}", flush=True)


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--group", default="128,32")
    args.add_argument("--only")
    args.add_argument("--model", default="TinyStories-656K,stories260K,qwen3-tiny")
    args.add_argument("--set", action="append", default=[])
    args.add_argument("--smollm2")
    args.add_argument("--samples", type=int, default=128)
    args.add_argument("--threads", type=int, default=0)
    a = args.parse_args()
    variants = {n: v for n, v in VARIANTS.items() if not a.only or n in a.only.split(";")} if a.only or not a.set else {}
    for extra in a.set:
        name, text = extra.split("=", 1)
        variants[name] = dict(part.split(": ", 1) for part in text.split(", ") if part)
    if a.smollm2:
        head = [f"  model: {{ fetch: {{ file: '{pathlib.Path(a.smollm2).resolve()}' }} }}", f"  c4: {{ fetch: {{ file: '{SHARED}/text/c4-sample/c4.jsonl' }} }}",
                f"  text: {{ fetch: {{ file: '{SHARED}/text/wikitext-2-raw/wiki.test.raw' }} }}",
                "  calib: { calibrate: { model: model, data: c4, samples: %d, sequence_length: 512, concat: true } }" % a.samples]
        for name, settings in variants.items():
            table(64, {"SmolLM2": run(head, "window: 512, bos: false, max_tokens: 16352", {name: settings}, 64, a.threads)})
        return
    for group in map(int, a.group.split(",")):
        by_model = {}
        for model in a.model.split(","):
            head = [f"  model: {{ fetch: {{ file: '{SHARED}/models/{model}' }} }}", f"  ids: {{ fetch: {{ file: '{SHARED}/golden/gptq/calibration/{model}.jsonl' }} }}",
                    f"  text: {{ fetch: {{ file: '{SHARED}/text/tinystories/eval_stories_dev40.json' }} }}",
                    "  calib: { calibrate: { model: model, data: ids, field: input_ids, samples: 64, sequence_length: 256 } }"]
            by_model[model] = run(head, "unit: document, window: 400, max_tokens: 0", variants, group, a.threads)
        table(group, by_model)


main()
