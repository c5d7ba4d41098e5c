"""What GPTQModel takes for the work of smollm2.yaml's quantize: wall seconds and peak memory, printed; and its folder, for comparison.

    GPTQMODEL_CPU_WORKERS=2 HF_HUB_OFFLINE=1 /usr/bin/time -v python gptqmodel_time.py MODEL C4.jsonl OUT [default|mse|best]
best is what measures best of its own settings: mse 2.4, desc_act, static_groups, act_group_aware off.
"""
import json
import resource
import sys
import time

from gptqmodel import GPTQModel, QuantizeConfig
from transformers import AutoTokenizer

model_path, c4, out = sys.argv[1:4]
start = time.time()
tok = AutoTokenizer.from_pretrained(model_path)
ids = []
for line in open(c4, encoding="utf-8"):
    d = tok(json.loads(line)["text"])["input_ids"]
    if len(d) >= 11:
        ids += d
samples = [{"input_ids": ids[i * 512:(i + 1) * 512], "attention_mask": [1] * 512} for i in range(128)]
settings = {"default": {}, "mse": {"mse": 2.4}, "best": {"mse": 2.4, "desc_act": True, "static_groups": True, "act_group_aware": False}}
config = QuantizeConfig(bits=4, group_size=64, **settings[sys.argv[4] if len(sys.argv) > 4 else "default"])
model = GPTQModel.load(model_path, config)
model.quantize(samples, batch_size=1)
model.save(out)
print(json.dumps({"wall_s": round(time.time() - start, 1), "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}))
