"""An independent reader of our checkpoints: safetensors + torch, weights by the published formula. Run with the gptqmodel environment's Python.

    reader.py PROGRAM CHECKPOINT SOURCE_MODEL DOCUMENTS.jsonl

1. scales[g_idx] * (code - zero), zeros stored less one, equals `gptqpipe inspect --tensor MODULE --dequant` to the bit, for every module.
2. Perplexity of transformers' own model with these weights, float32, equals `gptqpipe eval` within 0.1 %.
Prints TAP.
"""
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

program, checkpoint, source, documents = sys.argv[1:5]
test = failed = 0


def ok(good, what):
    global test, failed
    test += 1
    failed += not good
    print(f"{'ok' if good else 'not ok'} {test} - {what}", flush=True)


def tensors(folder):
    out = {}
    for path in sorted(pathlib.Path(folder).glob("*.safetensors")):
        with safe_open(path, "pt") as f:
            out |= {k: f.get_tensor(k) for k in f.keys()}
    return out


def unpack(words, bits, count, axis):
    """int32 words -> `count` codes along axis, lowest bits first."""
    words = words.to(torch.int64) & 0xFFFFFFFF
    parts = torch.stack([(words >> s) & ((1 << bits) - 1) for s in range(0, 32, bits)], axis + 1)
    shape = list(words.shape)
    shape[axis] *= 32 // bits
    return parts.reshape(shape).narrow(axis, 0, count)


def dequantize(t, name):
    qweight, qzeros, scales, g_idx = (t[f"{name}.{p}"] for p in ("qweight", "qzeros", "scales", "g_idx"))
    k, n = g_idx.numel(), scales.shape[1]
    bits = qweight.shape[0] * 32 // k
    codes = unpack(qweight, bits, k, 0)
    zeros = unpack(qzeros, bits, n, 1) + 1
    group = g_idx.long()
    return (scales.float()[group] * (codes - zeros[group]).float()).T.contiguous()


def main():
    t = tensors(checkpoint)
    modules = sorted(k[:-8] for k in t if k.endswith(".qweight"))
    weights, worst = {}, 0
    with tempfile.TemporaryDirectory() as folder:
        for name in modules:
            w = weights[name] = dequantize(t, name)
            out = f"{folder}/w.bin"
            subprocess.run([program, "inspect", checkpoint, "--tensor", name, "--dequant", "-o", out, "-q"], check=True, stdout=subprocess.DEVNULL)
            ours = torch.frombuffer(bytearray(pathlib.Path(out).read_bytes()), dtype=torch.float32).reshape(w.shape)
            worst += int((ours != w).sum())
            os.unlink(out)
    ok(modules and worst == 0, f"{len(modules)} modules dequantize alike: {worst} values differ")

    config = AutoConfig.from_pretrained(checkpoint)
    delattr(config, "quantization_config")
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    state = {k: v.float() for k, v in t.items() if not k.endswith((".qweight", ".qzeros", ".scales", ".g_idx"))}
    state |= {f"{k}.weight": v for k, v in weights.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    ok(not unexpected and all(config.tie_word_embeddings and k == "lm_head.weight" for k in missing), f"every tensor has its place (missing {missing}, unexpected {unexpected})")

    tok = AutoTokenizer.from_pretrained(source)
    nll = count = 0
    lines = [json.loads(x)["text"] for x in open(documents, encoding="utf-8")][:24]
    with torch.no_grad(), tempfile.NamedTemporaryFile("w", suffix=".jsonl") as f:
        for text in lines:
            f.write(json.dumps({"text": text}) + "\n")
            ids = ([config.bos_token_id] + tok(text, add_special_tokens=False)["input_ids"])[:256]
            logp = torch.log_softmax(model(torch.tensor([ids])).logits[0, :-1].double(), -1)
            nll -= logp[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].sum().item()
            count += len(ids) - 1
        f.flush()
        ours = json.loads(subprocess.run([program, "eval", checkpoint, "--data", f.name, "--unit", "document", "--window", "256", "--max-tokens", "0", "--json", "-q"],
                                         check=True, capture_output=True, text=True).stdout)
    theirs = math.exp(nll / count)
    ok(ours["tokens"] == count and abs(ours["perplexity"] / theirs - 1) < 1e-3, f"perplexity {ours['perplexity']:.5f} of {ours['tokens']} tokens, transformers' {theirs:.5f} of {count}")
    print(f"1..{test}")
    sys.exit(1 if failed else 0)


main()
