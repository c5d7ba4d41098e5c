"""to_qwen2.py MODEL OUT: a copy of a Llama folder that is a Qwen2: the same tensors, and a bias in bf16 for every q_proj, k_proj and v_proj (standard library only)."""
import json
import os
import shutil
import struct
import sys

src, out = sys.argv[1:]
shutil.copytree(src, out)
os.chmod(out, 0o755)
for name in os.listdir(out):
    os.chmod(os.path.join(out, name), 0o644)
with open(os.path.join(out, "config.json")) as f:
    config = json.load(f)
config["model_type"] = "qwen2"
config["architectures"] = ["Qwen2ForCausalLM"]
config["attention_bias"] = True
with open(os.path.join(out, "config.json"), "w") as f:
    json.dump(config, f)
path = os.path.join(out, "model.safetensors")
with open(path, "rb") as f:
    data = f.read()
n = struct.unpack("<Q", data[:8])[0]
head, body = json.loads(data[8 : 8 + n]), data[8 + n :]
head_dim = config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
for layer in range(config["num_hidden_layers"]):
    for module, heads in (("q_proj", "num_attention_heads"), ("k_proj", "num_key_value_heads"), ("v_proj", "num_key_value_heads")):
        size = config[heads] * head_dim
        # 0.5 to 1.5, of both signs, no two of a module's neighbours alike
        values = [(1 + (7 * i + layer) % 13 / 13 - 0.5) * (-1) ** (i % 3) for i in range(size)]
        raw = b"".join(struct.pack("<f", v)[2:] for v in values)
        head["model.layers.%d.self_attn.%s.bias" % (layer, module)] = {"dtype": "BF16", "shape": [size], "data_offsets": [len(body), len(body) + len(raw)]}
        body += raw
text = json.dumps(head).encode()
text += b" " * (-len(text) % 8)
with open(path, "wb") as f:
    f.write(struct.pack("<Q", len(text)) + text + body)
