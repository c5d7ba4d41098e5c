"""compare.py OURS PEERS: bench_class --class marlin --json beside peer_kernels.py bench, case by case: our time over the original Marlin's. Fails where issue 5's bounds are not met: the
geometric mean over M = 1..256 above 1, or any of those cases above 1.1. Dependent launches, which the original has not, are shown but not judged."""
import json
import math
import sys


def rows(path):
    with open(path) as f:
        return [json.loads(line) for line in f if line.strip()]


ours = {(r["K"], r["N"], r["M"]): r for r in rows(sys.argv[1]) if r.get("bits") == 4 and "us" in r and "tune" not in r}
peers = {(r["k"], r["n"], r["m"]): r["us"] for r in rows(sys.argv[2]) if r["kernel"].startswith("marlin") and "us" in r}
judged, worst = [], (0, None)
print("     K x N          M      ours dependent  original     ratio")
for case in sorted(ours.keys() & peers.keys()):
    us, pdl, peer = ours[case]["us"], ours[case].get("pdl_us", 0), peers[case]
    ratio = us / peer
    print(f"{case[0]:6d} x {case[1]:<6d} {case[2]:5d} {us:9.2f} {pdl:9.2f} {peer:9.2f} {ratio:9.3f}")
    if case[2] <= 256:
        judged.append(ratio)
        worst = max(worst, (ratio, case))
if not judged:
    sys.exit("compare.py: no case that both have")
mean = math.exp(sum(map(math.log, judged)) / len(judged))
print(f"M 1..256: {len(judged)} cases, geometric mean {mean:.3f}, worst {worst[0]:.3f} at K, N, M = {worst[1]}")
sys.exit(mean > 1 or worst[0] > 1.1)
