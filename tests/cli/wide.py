"""wide.py FROM TO: the checkpoint FROM with one layer whose matrices are small, and a quantized head of 4096 x 4096, which kernels/select.def has rows for. Its values are zero: a hole in
the file, but for the zero points."""
import json
import struct
import sys

H, V, D, I, G = 4096, 4096, 64, 128, 128
base, to = sys.argv[1:]
for name in ("config.json", "quantize_config.json"):
    c = json.load(open(f"{base}/{name}"))
    if name == "config.json":
        c.update(hidden_size=H, intermediate_size=I, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, head_dim=D, vocab_size=V, tie_word_embeddings=False)
    c.get("quantization_config", c)["lm_head"] = True
    json.dump(c, open(f"{to}/{name}", "w"))
head, at = {}, 0


def add(name, dtype, *shape):
    global at
    n = {"I32": 4, "F16": 2}[dtype]
    for s in shape:
        n *= s
    head[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + n]}
    at += n


def module(name, n, k):
    for part, dtype, shape in (("qweight", "I32", (k // 8, n)), ("qzeros", "I32", (k // G, n // 8)), ("scales", "F16", (k // G, n)), ("g_idx", "I32", (k,))):
        add(f"{name}.{part}", dtype, *shape)


add("model.embed_tokens.weight", "F16", V, H)
add("model.norm.weight", "F16", H)
for n in ("input_layernorm", "post_attention_layernorm"):
    add(f"model.layers.0.{n}.weight", "F16", H)
for n in "qkv":
    module(f"model.layers.0.self_attn.{n}_proj", 2 * D, H)
module("model.layers.0.self_attn.o_proj", H, 2 * D)
module("model.layers.0.mlp.gate_proj", I, H)
module("model.layers.0.mlp.up_proj", I, H)
module("model.layers.0.mlp.down_proj", H, I)
module("lm_head", V, H)
h = json.dumps(head).encode()
h += b" " * (-len(h) % 8)
with open(f"{to}/model.safetensors", "wb") as f:
    f.write(struct.pack("<Q", len(h)) + h)
    f.truncate(8 + len(h) + at)
    for n, t in head.items():
        a, z = t["data_offsets"]
        if n.endswith(".qzeros"):
            f.seek(8 + len(h) + a)
            f.write(b"\x77" * (z - a))
        if n.endswith(".g_idx"):
            f.seek(8 + len(h) + a)
            f.write(struct.pack(f"<{(z - a) // 4}i", *(k // G for k in range((z - a) // 4))))
