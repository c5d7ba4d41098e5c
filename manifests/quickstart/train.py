#!/usr/bin/env python3
"""Trains the quickstart's tokenizer and model into model/ (about a quarter of an hour on one core).

    make_text.py --train train.jsonl && train.py train.jsonl [STEPS]

A byte-level BPE of 1024 ids in the manner of Llama 3, and a Llama of 1.4 million weights. The learning
rate is high and there is no weight decay: the point is a model whose weights carry much, so that four
bits visibly cost something. Training is repeatable on one machine and torch, not across machines: the
committed model is the one all figures in README.md and tests/vectors were made from.
"""
import json
import math
import os
import sys
import time

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))
MODEL = os.path.join(HERE, "model")
BEGIN, END, VOCAB, WINDOW, BATCH, PEAK = "<|begin|>", "<|end|>", 1024, 256, 8, 4e-3
SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
         r"\s*[\r\n]+|\s+(?!\S)|\s+")

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": VOCAB - 2,
    "eos_token_id": VOCAB - 1,
    "head_dim": 32,
    "hidden_act": "silu",
    "hidden_size": 128,
    "initializer_range": 0.04,
    "intermediate_size": 512,
    "max_position_embeddings": 512,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_hidden_layers": 5,
    "num_key_value_heads": 2,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.46.0",
    "use_cache": True,
    "vocab_size": VOCAB,
}


def dump(name, value):
    with open(os.path.join(MODEL, name), "w", encoding="utf-8", newline="\n") as f:
        json.dump(value, f, indent=2, ensure_ascii=False)
        f.write("\n")


def train_tokenizer(texts):
    tok = Tokenizer(models.BPE(ignore_merges=True))
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=VOCAB - 2, show_progress=False,
                                                       initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tok.add_special_tokens([AddedToken(BEGIN, special=True, normalized=False), AddedToken(END, special=True, normalized=False)])
    assert tok.get_vocab_size() == VOCAB and tok.token_to_id(BEGIN) == VOCAB - 2
    tok.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single=BEGIN + " $A", pair=BEGIN + " $A " + BEGIN + " $B:1",
                                      special_tokens=[(BEGIN, VOCAB - 2)])])
    tok.save(os.path.join(MODEL, "tokenizer.json"))
    added = {str(tok.token_to_id(t)): {"content": t, "lstrip": False, "normalized": False, "rstrip": False,
                                       "single_word": False, "special": True} for t in (BEGIN, END)}
    dump("tokenizer_config.json", {"added_tokens_decoder": added, "bos_token": BEGIN, "clean_up_tokenization_spaces": False,
                                   "eos_token": END, "model_max_length": CONFIG["max_position_embeddings"],
                                   "tokenizer_class": "PreTrainedTokenizerFast"})
    return tok


def batches(stream, starts, rng):
    """Rows of WINDOW + 1 ids; two in three begin with a document."""
    order = []
    while True:
        rows = []
        for i in range(BATCH):
            if not len(order):
                order = list(rng.permutation(len(starts) - 2))
            at = starts[order.pop()] if i % 3 else rng.integers(len(stream) - WINDOW - 1)
            rows.append(stream[at:at + WINDOW + 1])
        yield torch.from_numpy(np.stack([r if len(r) == WINDOW + 1 else stream[:WINDOW + 1] for r in rows]).astype(np.int64))


def held_loss(model, tok):
    total = n = 0
    with torch.no_grad():
        for line in open(os.path.join(HERE, "held.jsonl"), encoding="utf-8"):
            ids = torch.tensor([tok.encode(json.loads(line)["text"]).ids[:WINDOW]])
            total += float(model(ids, labels=ids).loss) * (ids.shape[1] - 1)
            n += ids.shape[1] - 1
    return total / n


def main():
    torch.set_num_threads(1)
    torch.manual_seed(1)
    os.makedirs(MODEL, exist_ok=True)
    texts = [json.loads(line)["text"] for line in open(sys.argv[1], encoding="utf-8")]
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else 1700
    tok = train_tokenizer(texts[:4000])
    ids, starts = [], []
    for enc in tok.encode_batch(texts):
        starts.append(len(ids))
        ids += enc.ids + [VOCAB - 1]
    stream = np.array(ids, dtype=np.int32)
    print("%d documents, %d ids" % (len(texts), len(stream)), flush=True)

    fields = {k: v for k, v in CONFIG.items() if k not in ("architectures", "torch_dtype", "transformers_version", "rope_scaling", "rope_theta")}
    model = LlamaForCausalLM(LlamaConfig(**fields, rope_parameters={"rope_type": "default", "rope_theta": CONFIG["rope_theta"]}))
    print("%d weights" % sum(p.numel() for p in model.parameters()))
    opt = torch.optim.AdamW(model.parameters(), lr=PEAK, betas=(0.9, 0.95), weight_decay=0.0)
    data, begun = batches(stream, starts, np.random.default_rng(1)), time.time()
    for step in range(steps):
        rate = min((step + 1) / 50, 1.0) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for g in opt.param_groups:
            g["lr"] = PEAK * rate
        rows = next(data)
        logits = model(rows[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, VOCAB), rows[:, 1:].reshape(-1))
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        if step % 50 == 0:
            print("step %d loss %.4f %.0f s" % (step, loss.item(), time.time() - begun), flush=True)
    model.eval()
    print("held: perplexity %.4f" % math.exp(held_loss(model, tok)))
    weights = {k: v.to(torch.bfloat16).contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    save_file(dict(sorted(weights.items())), os.path.join(MODEL, "model.safetensors"), metadata={"format": "pt"})
    dump("config.json", CONFIG)
    dump("generation_config.json", {"_from_model_config": True, "bos_token_id": VOCAB - 2, "eos_token_id": VOCAB - 1,
                                    "transformers_version": CONFIG["transformers_version"]})


if __name__ == "__main__":
    main()
