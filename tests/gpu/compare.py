"""compare.py OURS PEERS [OURS...]: files of bench_class --class marlin --json beside peer_kernels.py bench, case by case: our time over the original Marlin's, in each form that OURS have:
fast, and product (--halves: M tokens as the plug-in takes them, in two halves, in an order that does not know M). Fails where a form does not meet issue 5's bounds: the geometric
mean over M = 1..256 above 1, or any of those cases above 1.1. Dependent launches, which the original has not, are shown but not judged."""
import json
import math
import sys


def rows(path):
    with open(path) as f:
        return [json.loads(line) for line in f if line.strip()]


def judge(form, ours, peers):
    """Prints the cases that both have; whether the form stays within the bounds."""
    judged, worst = [], (0, None)
    print(f"{form}:\n     K x N          M      ours dependent  original     ratio")
    for case in sorted(ours.keys() & peers.keys()):
        us, pdl, peer = ours[case]["us"], ours[case].get("pdl_us", 0), peers[case]
        ratio = us / peer
        print(f"{case[0]:6d} x {case[1]:<6d} {case[2]:5d} {us:9.2f} {pdl:9.2f} {peer:9.2f} {ratio:9.3f}")
        if case[2] <= 256:
            judged.append(ratio)
            worst = max(worst, (ratio, case))
    if not judged:
        sys.exit(f"compare.py: {form}: no case that both have")
    mean = math.exp(sum(map(math.log, judged)) / len(judged))
    good = mean <= 1 and worst[0] <= 1.1
    print(f"{form}, M 1..256: {len(judged)} cases, geometric mean {mean:.3f}, worst {worst[0]:.3f} at K, N, M = {worst[1]}: {'within' if good else 'NOT within'} the bounds")
    return good


forms = {}
for path in [sys.argv[1], *sys.argv[3:]]:
    for r in rows(path):
        if r.get("bits") == 4 and "us" in r and "tune" not in r:
            forms.setdefault(r["form"], {})[r["K"], r["N"], r["M"]] = r
originals = {(r["k"], r["n"], r["m"]): r["us"] for r in rows(sys.argv[2]) if r["kernel"].startswith("marlin") and "us" in r}
if not forms:
    sys.exit("compare.py: no case of ours")
sys.exit(not all([judge(form, ours, originals) for form, ours in forms.items()]))
