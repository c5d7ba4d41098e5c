"""negate.py MODEL OUT: a copy of a GPTQ checkpoint (v1, every module of the same bits) that says the same in other numbers: every odd output has its scale negated, its codes
q as max - q, its zeros z as max - z. The weights are what they were, to the bit (standard library only)."""
import array
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
bits = 4
for name, at in (("config.json", "quantization_config"), ("quantize_config.json", None)):
    path = os.path.join(out, name)
    if not os.path.exists(path):
        continue
    with open(path) as f:
        config = json.load(f)
    q = config[at] if at else config
    q["sym"] = False
    bits = q["bits"]
    with open(path, "w") as f:
        json.dump(config, f)
most, fields = (1 << bits) - 1, 32 // bits


def negated(kind, raw, shape):
    columns = shape[1]
    a = array.array("H" if kind == "scales" else "I", raw)
    for i in range(len(a)):
        n = i % columns
        if kind == "scales" and n % 2:
            a[i] ^= 0x8000
        elif kind == "qweight" and n % 2:
            a[i] ^= 0xFFFFFFFF
        elif kind == "qzeros":
            for field in range(1, fields, 2):
                stored = a[i] >> bits * field & most
                other = most - 2 - stored
                assert other >= 0, "a zero that has no opposite"
                a[i] = a[i] & ~(most << bits * field) | other << bits * field
    return a.tobytes()


for name in os.listdir(out):
    if not name.endswith(".safetensors"):
        continue
    data = open(os.path.join(src, name), "rb").read()
    n = struct.unpack("<Q", data[:8])[0]
    head, body, count = json.loads(data[8 : 8 + n]), bytearray(data[8 + n :]), 0
    for key, t in head.items():
        kind = key.rsplit(".", 1)[-1]
        if kind in ("scales", "qweight", "qzeros"):
            begin, end = t["data_offsets"]
            body[begin:end] = negated(kind, bytes(body[begin:end]), t["shape"])
            count += 1
    assert count, "no quantized module"
    with open(os.path.join(out, name), "wb") as f:
        f.write(data[: 8 + n] + bytes(body))
