"""GPTQModel, or transformers with gptqmodel (and optimum, which its loader wants), loads one of our folders and gives our probabilities. Prints TAP.

    load.py gptqmodel|transformers PROGRAM CHECKPOINT PROMPT

The program completes PROMPT greedily; the peer is given prompt and completion and must find the same log-probability for each id of it, within BOUND. The peer's
modules dequantize their weights to f16 themselves, negative scales included; the products are then taken in f32, so what is left is that rounding.
transformers' loader does not read `dynamic` (seen with transformers 5.23, optimum 2.3, gptqmodel 7.7): it takes checkpoints without overrides only.
"""
import json
import os
import subprocess
import sys

os.environ |= {"HF_HUB_OFFLINE": "1", "GPTQMODEL_CPU_WORKERS": "2"}
import torch
from safetensors import safe_open

BOUND = 2e-2
how, program, checkpoint, prompt = sys.argv[1:5]


def negative_share():
    names = [n for n in os.listdir(checkpoint) if n.endswith(".safetensors")]
    negative = total = 0
    for name in names:
        with safe_open(os.path.join(checkpoint, name), "pt") as f:
            for key in f.keys():
                if key.endswith(".scales"):
                    scales = f.get_tensor(key)
                    negative += int((scales < 0).sum())
                    total += scales.numel()
    return negative / total


def in_f32(model):
    """The model with each quantized module replaced by the weights that it dequantizes itself."""
    kinds = set()
    for name, module in list(model.named_modules()):
        if hasattr(module, "qweight"):
            kinds.add(type(module).__name__)
            weight = module.dequantize_weight().T.detach().float()
            linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=getattr(module, "bias", None) is not None)
            linear.weight.data = weight.contiguous()
            if linear.bias is not None:
                linear.bias.data = module.bias.detach().float()
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, linear)
    return torch.nn.Module.float(model), sorted(kinds)  # transformers forbids its own .float() to quantized models, which this no longer is


def main():
    out = subprocess.run([program, "run", checkpoint, "--prompt", prompt, "--max-tokens", "24", "--logprobs", "1", "--json", "-q"], check=True, capture_output=True, text=True)
    ours = json.loads(out.stdout.splitlines()[0])
    if how == "gptqmodel":
        from gptqmodel import BACKEND, GPTQModel
        model = GPTQModel.load(checkpoint, device="cpu", dtype=torch.float16, backend=BACKEND.TORCH).model
    else:
        from transformers import AutoModelForCausalLM
        model = AutoModelForCausalLM.from_pretrained(checkpoint, device_map="cpu", dtype=torch.float16)
    model, kinds = in_f32(model)
    ids = torch.tensor([ours["prompt_ids"] + ours["ids"]])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0].float()
    first = len(ours["prompt_ids"]) - 1
    probabilities = torch.log_softmax(logits, -1)
    worst = max(abs(float(probabilities[first + i, step["id"]]) - step["logprob"]) for i, step in enumerate(ours["logprobs"]))
    greedy = sum(int(probabilities[first + i].argmax()) == id for i, id in enumerate(ours["ids"]))
    good = worst <= BOUND and len(ours["ids"]) > 8 and bool(kinds)
    print(f"# {ours['text']!r}")
    print(f"{'ok' if good else 'not ok'} 1 - {how} ({', '.join(kinds)}): {len(ours['ids'])} log-probabilities within {worst:.2e}, {greedy} of them its own first choice; "
          f"{negative_share():.0%} of the scales negative\n1..1")
    sys.exit(not good)


main()
