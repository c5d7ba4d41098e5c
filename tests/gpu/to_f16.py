"""to_f16.py MODEL OUT: a copy of a model folder with its BF16 and F32 tensors in F16 and torch_dtype float16 (standard library only)."""
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
for key in ("torch_dtype", "dtype"):
    if key in config:
        config[key] = "float16"
with open(os.path.join(out, "config.json"), "w") as f:
    json.dump(config, f)
for name in os.listdir(out):
    if not name.endswith(".safetensors"):
        continue
    data = open(os.path.join(src, name), "rb").read()
    n = struct.unpack("<Q", data[:8])[0]
    head, body, at, parts = json.loads(data[8 : 8 + n]), data[8 + n :], 0, []
    for key in sorted((k for k in head if k != "__metadata__"), key=lambda k: head[k]["data_offsets"]):
        t = head[key]
        raw = body[t["data_offsets"][0] : t["data_offsets"][1]]
        if t["dtype"] in ("BF16", "F32"):
            if t["dtype"] == "BF16":
                values = struct.unpack("<%df" % (len(raw) // 2), b"".join(b"\0\0" + raw[i : i + 2] for i in range(0, len(raw), 2)))
            else:
                values = struct.unpack("<%df" % (len(raw) // 4), raw)
            raw, t["dtype"] = struct.pack("<%de" % len(values), *values), "F16"
        t["data_offsets"] = [at, at + len(raw)]
        at += len(raw)
        parts.append(raw)
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    with open(os.path.join(out, name), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(parts))
