#!/usr/bin/env python3
"""Writes quickstart-w4g128/: the quickstart model quantized by GPTQModel, and what transformers says about it.

    GPTQMODEL_CPU_WORKERS=2 HF_HUB_OFFLINE=1 make_checkpoint.py [--keep] [--dynamic]

--keep leaves the checkpoint and writes expected.json anew; --dynamic also measures the manifest's override.
4 bits, group 128, GPTQModel's defaults, the first 128 documents of calib.jsonl with BOS, each cut to 256 ids.
expected.json has the shape of quickstart_logits.json's cases, and the quality of the checkpoint beside plain rounding
(RTN) with the same grid, on held.jsonl: perplexity, mean KL(reference || quantized) in nats, top-1 agreement.
"""
import json
import math
import os
import shutil
import sys
import tempfile

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

import make_quickstart as quick

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "quickstart-w4g128")
BITS, GROUP, SAMPLES = 4, 128, 128


def unpack(t, bits):
    per = 32 // bits
    return (t.long()[..., None] >> (torch.arange(per) * bits)) & ((1 << bits) - 1)


def dequantize(tensors, bits_of):
    """GPTQ v1: codes packed along K, zeros along N and stored less one"""
    out = {}
    for name, t in tensors.items():
        if not name.endswith(".qweight"):
            if name.rsplit(".", 1)[1] == "weight":
                out[name] = t.double()
            continue
        base = name[:-len(".qweight")]
        bits = bits_of(base)
        q = unpack(t.T.contiguous(), bits).reshape(t.shape[1], -1)
        scales = tensors[base + ".scales"].double()
        z = unpack(tensors[base + ".qzeros"], bits).reshape(scales.shape[0], -1)[:, :scales.shape[1]] + 1
        g = tensors[base + ".g_idx"].long()
        out[base + ".weight"] = scales[g].T * (q - z[g].T).double()
    return out


def rtn(weights):
    """Round to nearest on the same grid: symmetric, float16 scales, groups along K"""
    out = dict(weights)
    for name, w in weights.items():
        if "_proj." in name:
            g = w.double().reshape(w.shape[0], -1, GROUP)
            top = (1 << BITS) - 1
            scale = (2 * g.abs().amax(-1, keepdim=True) / top).half().double()
            q = (g / scale + (top + 1) // 2).round().clamp(0, top)
            out[name] = (scale * (q - (top + 1) // 2)).reshape(w.shape)
    return out


def quality(reference, model, docs):
    nll = kl = same = n = 0
    for ids in docs:
        x = torch.tensor([ids])
        p, q = (torch.log_softmax(m(x).logits[0, :-1], -1) for m in (reference, model))
        nll -= float(q.gather(1, torch.tensor(ids[1:])[:, None]).sum())
        kl += float((p.exp() * (p - q)).sum())
        same += int((p.argmax(-1) == q.argmax(-1)).sum())
        n += len(ids) - 1
    return {"perplexity": math.exp(nll / n), "kl_mean": kl / n, "top1_agreement": same / n, "tokens": n}


def quantize(folder, docs, **more):
    from gptqmodel import GPTQModel, QuantizeConfig
    model = GPTQModel.load(quick.MODEL, QuantizeConfig(bits=BITS, group_size=GROUP, **more), device="cpu")
    model.quantize([{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in docs], batch_size=1)
    model.save(folder)


def strip(value, folder):
    if isinstance(value, dict):
        return {k: strip(v, folder) for k, v in value.items() if not (isinstance(v, str) and os.path.isabs(v))}
    return value


def make(tok):
    with tempfile.TemporaryDirectory() as folder:
        calib = quick.documents(tok, "calib.jsonl")[:SAMPLES]
        quantize(folder, calib)
        os.makedirs(OUT, exist_ok=True)
        shutil.copyfile(os.path.join(folder, "model.safetensors"), os.path.join(OUT, "model.safetensors"))
        for name in ("config.json", "quantize_config.json"):
            with open(os.path.join(folder, name), encoding="utf-8") as f:
                value = strip(json.load(f), folder)
            with open(os.path.join(OUT, name), "w", encoding="utf-8", newline="\n") as f:
                json.dump(value, f, indent=2)
                f.write("\n")
        extra = None
        if "--dynamic" in sys.argv:
            rule = {r"+:^model\.layers\.4\.mlp\.down_proj$": {"bits": 8, "group_size": 32}}
            quantize(folder + "/dyn", calib, dynamic=rule)
            extra = load_file(folder + "/dyn/model.safetensors")
    return extra


def main():
    torch.set_num_threads(1)
    tok = Tokenizer.from_file(os.path.join(quick.MODEL, "tokenizer.json"))
    extra = None if "--keep" in sys.argv else make(tok)
    torch.set_grad_enabled(False)
    weights = load_file(os.path.join(quick.MODEL, "model.safetensors"))
    reference = quick.load(weights)
    tensors = load_file(os.path.join(OUT, "model.safetensors"))
    model = quick.load(dequantize(tensors, lambda base: BITS))
    docs = quick.documents(tok, "held.jsonl")
    report = {"reference": quality(reference, reference, docs), "rtn": quality(reference, quick.load(rtn(weights)), docs),
              "gptq": quality(reference, model, docs)}
    for name, row in report.items():
        print(name, row)
    if extra:
        print("dynamic", quality(reference, quick.load(dequantize(extra, lambda base: 8 if "4.mlp.down" in base else BITS)), docs))
    with open(os.path.join(quick.MODEL, "config.json"), encoding="utf-8") as f:
        eos = json.load(f)["eos_token_id"]
    cases = []
    for prompt in quick.PROMPTS[:5]:
        ids = tok.encode(prompt).ids
        out, first, _, leads = quick.greedy(model, ids, 30, eos)
        cases.append({"prompt": prompt, "ids": ids, "greedy_ids": out, "least_margin": round(min(leads), 6),
                      "last_logits": [round(x, 6) for x in first.tolist()]})
        print(repr(tok.decode(out)), min(leads))
    with open(os.path.join(OUT, "expected.json"), "w", encoding="utf-8", newline="\n") as f:
        json.dump({"model": "quickstart", "config": "w4g128",
                   "note": "transformers, float64, weights dequantized as scale*(q-zero); greedy 30 tokens or to eos; "
                           "least_margin = smallest top1-top2 gap along the way", "quality": report, "cases": cases}, f)
        f.write("\n")


if __name__ == "__main__":
    main()
