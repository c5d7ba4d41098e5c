#!/usr/bin/env python3
"""Writes quickstart_logits.json: what the quickstart model says, by transformers in float64 on the stored weights.

cases: a prompt with its ids (BOS in front), the last position's logits over the whole vocabulary, then 40 greedy ids
(fewer where <|end|> comes) with each step's top-1 log-probability and its lead over the second. Where the lead is
smaller than the error allowed, compare logits, not ids. ppl_stories: every document of held.jsonl by itself.
"""
import json
import math
import os

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))
QUICK = os.path.join(HERE, "..", "..", "manifests", "quickstart")
MODEL = os.path.join(QUICK, "model")
PROMPTS = ["The capital of Wexdor is", "Once there was a baker called", "Otto has three apples. Mara gives him four more. Now Otto has",
           "Q: Which day comes after Monday?\nA:", "Dear Hanna,\n", "When it is afraid, the owl"]
WINDOW = 256


def load(weights):
    """float64 model from tensors named as in the file"""
    with open(os.path.join(MODEL, "config.json"), encoding="utf-8") as f:
        fields = json.load(f)
    for key in ("architectures", "torch_dtype", "transformers_version", "rope_scaling"):
        fields.pop(key)
    theta = fields.pop("rope_theta")
    model = LlamaForCausalLM(LlamaConfig(**fields, rope_parameters={"rope_type": "default", "rope_theta": theta}, attn_implementation="eager")).double()
    missing, unexpected = model.load_state_dict({k: v.double() for k, v in weights.items()}, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    # the tables of angles are made in float32; make them again, exactly
    half = fields["head_dim"] // 2
    model.model.rotary_emb.inv_freq = theta ** (-torch.arange(half, dtype=torch.float64) / half)
    model.model.rotary_emb.forward = lambda x, position_ids: (lambda a: (a.cos(), a.sin()))(
        torch.cat([position_ids[..., None].double() * model.model.rotary_emb.inv_freq] * 2, -1))
    # and its RMSNorm and softmax compute in float32
    for module in model.modules():
        if type(module).__name__ == "LlamaRMSNorm":
            module.forward = (lambda m: lambda x: m.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + m.variance_epsilon)))(module)
    return model.eval()


def greedy(model, ids, steps, eos):
    """ids with up to `steps` more, the first logits, each step's log-probability and lead"""
    out, logprobs, leads, first = list(ids), [], [], None
    for _ in range(steps):
        logits = model(torch.tensor([out])).logits[0, -1]
        first = logits if first is None else first
        top = torch.log_softmax(logits, -1).topk(2)
        out.append(int(top.indices[0]))
        logprobs.append(round(float(top.values[0]), 8))
        leads.append(round(float(top.values[0] - top.values[1]), 8))
        if out[-1] == eos:
            break
    return out, first, logprobs, leads


def documents(tok, name):
    with open(os.path.join(QUICK, name), encoding="utf-8") as f:
        return [tok.encode(json.loads(line)["text"]).ids[:WINDOW] for line in f]


def main():
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    tok = Tokenizer.from_file(os.path.join(MODEL, "tokenizer.json"))
    with open(os.path.join(MODEL, "config.json"), encoding="utf-8") as f:
        config = json.load(f)
    bos, eos = config["bos_token_id"], config["eos_token_id"]
    model = load(load_file(os.path.join(MODEL, "model.safetensors")))
    cases = []
    for prompt in PROMPTS:
        ids = tok.encode(prompt).ids
        assert ids[0] == bos
        out, first, logprobs, leads = greedy(model, ids, 40, eos)
        cases.append({"prompt": prompt, "ids": ids, "greedy_ids": out, "greedy_logprobs": logprobs, "greedy_margins": leads,
                      "last_logits": [round(x, 6) for x in first.tolist()], "greedy_text": tok.decode(out, skip_special_tokens=False)})
        print(repr(cases[-1]["greedy_text"]), min(leads))
    rows = []
    for ids in documents(tok, "held.jsonl"):
        logp = torch.log_softmax(model(torch.tensor([ids])).logits[0, :-1], -1)
        rows.append([len(ids), round(float(-logp.gather(1, torch.tensor(ids[1:])[:, None]).mean()), 9)])
    tokens = sum(n - 1 for n, _ in rows)
    mean = sum((n - 1) * nll for n, nll in rows) / tokens
    result = {"model": "quickstart", "note": "transformers, float64 throughout, stored weights; bos prepended; greedy=argmax, stops after eos",
              "bos": bos, "eos": eos, "cases": cases,
              "ppl_stories": {"what": "manifests/quickstart/held.jsonl, each document cut to %d ids incl. bos, mean NLL over all predicted tokens" % WINDOW,
                              "mean_nll": mean, "ppl": math.exp(mean), "tokens": tokens, "per_story_len_nll": rows}}
    with open(os.path.join(HERE, "quickstart_logits.json"), "w", encoding="utf-8", newline="\n") as f:
        json.dump(result, f, ensure_ascii=False)
        f.write("\n")
    print("perplexity %.6f over %d tokens" % (math.exp(mean), tokens))


if __name__ == "__main__":
    main()
