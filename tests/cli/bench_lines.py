"""bench_lines.py FILE: what `gptqpipe bench --json` wrote, checked and told without its figures. Every figure is positive and finite; shares and bounds follow from what was measured;
the class of a row is the best by geometric mean. A line of output: bounds, an op, a class and format of products with its shapes and rows, a class left out, a row, a model, a figure."""
import json
import math
import sys

lines = [json.loads(line) for line in open(sys.argv[1])]
bounds = {}
products = {}
left = []


def near(a, b, what):
    assert math.isclose(a, b, rel_tol=1e-6), (what, a, b)


def figures(o):
    for key, v in o.items():
        for x in v if isinstance(v, list) else v.values() if isinstance(v, dict) else [v]:
            if isinstance(x, list):
                figures({key: x})
            elif isinstance(x, (int, float)):
                assert math.isfinite(x) and (x > 0 or (key == "spread" and x == 0)), (key, x, o)


def least_seconds(bytes, flops):
    memory, arithmetic = bytes / bounds["memory_bytes_per_second"], flops / bounds["flops_per_second"] if "flops_per_second" in bounds else 0
    return max(memory, arithmetic), "arithmetic" if arithmetic > memory else "memory"


def weight_bytes(o):
    n = o["N"] * o["K"]
    bits = {"bf16": 16, "w4": 4, "w8": 8}[o["weights"]]
    return n * bits / 8 + (0 if bits == 16 else -(-o["K"] // 128) * o["N"] * (2 + bits / 8))


for o in lines:
    figures(o)
    kind = o["type"]
    if kind == "bounds":
        bounds = o
        print("bounds", o["numerics"], "memory", *(["arithmetic"] if "flops_per_second" in o else []), sep=" ")
    elif "left_out" in o:
        left.append(f"{o['class']} left out: {o['left_out']}")
    elif kind == "left_out":
        print(f"{o['class']} left out: {o['why']}")
    elif kind == "op":
        bytes, flops = o["bytes_per_second"] * o["seconds"], o.get("flops_per_second", 0) * o["seconds"]
        least, bound = least_seconds(bytes, flops)
        near(o["share"], least / o["seconds"], "share")
        assert o["bound"] == bound, o
        if o["op"] == "linear":
            near(bytes, weight_bytes(o) + 4 * o["M"] * (o["N"] + o["K"]), "bytes")
            near(flops, 2 * o["M"] * o["N"] * o["K"], "flops")
            products.setdefault((o["class"], o["weights"]), {}).setdefault(f"{o['N']}x{o['K']}", []).append(str(o["M"]))
        else:
            print(o["op"], *(str(o[k]) for k in ("K", "detail") if k in o))
    elif kind == "row":
        mean = {c: math.prod(t) ** (1 / len(t)) for c, t in o["seconds"].items()}
        assert o["class"] == min(mean, key=mean.get), o
        print("rows", o["capability"], o["bits"], f"{o['N']}x{o['K']}", *(f"{c}:{len(t)}" for c, t in sorted(o["seconds"].items())))
    elif kind == "model":
        print("model", *(f"{k} {o['kernel'][k]}" for k in ("down_proj", "lm_head")))
        model = o
    else:
        near(o["share"], o["tokens_per_second"] / o["bound_tokens_per_second"], "share")
        if kind == "generation":
            least, bound = least_seconds(model["weight_bytes"], 2 * model["weights"] * o["batch"])
            near(o["bound_tokens_per_second"], o["batch"] / least, "bound")
            assert o["bound"] == bound, o
        print(kind, o["tokens"], "x", o["batch"], o["bound"])
for (c, w), shapes in sorted(products.items()):
    print(c, w, *(f"{s}:{','.join(m)}" for s, m in sorted(shapes.items())))
print(*left, sep="\n", end="\n" if left else "")
