"""GPTQModel, or transformers with gptqmodel (and optimum, which its loader wants), loads one of our folders and generates. Prints TAP.

    load.py gptqmodel|transformers CHECKPOINT SOURCE_MODEL PROMPT

transformers' loader does not read `dynamic` (seen with transformers 5.23, optimum 2.3, gptqmodel 7.7): it takes checkpoints without overrides only.
"""
import os
import sys

os.environ |= {"HF_HUB_OFFLINE": "1", "GPTQMODEL_CPU_WORKERS": "2"}
from transformers import AutoModelForCausalLM, AutoTokenizer

how, checkpoint, source, prompt = sys.argv[1:5]


def main():
    tok = AutoTokenizer.from_pretrained(source)
    if how == "gptqmodel":
        from gptqmodel import GPTQModel
        model = GPTQModel.load(checkpoint, device="cpu")
    else:
        model = AutoModelForCausalLM.from_pretrained(checkpoint, device_map="cpu")
    ids = tok(prompt, return_tensors="pt")
    ids.pop("token_type_ids", None)
    out = model.generate(**ids, max_new_tokens=24, do_sample=False)[0]
    kinds = {type(m).__name__ for m in getattr(model, "model", model).modules() if "Linear" in type(m).__name__}
    good = len(out) > ids["input_ids"].shape[1] + 8 and any(k.startswith("Torch") for k in kinds)
    print(f"# {tok.decode(out, skip_special_tokens=True)!r}")
    print(f"{'ok' if good else 'not ok'} 1 - {how} generates with {', '.join(sorted(kinds))}\n1..1")
    sys.exit(not good)


main()
