"""compare.py OURS PEERS [OURS...]: files of bench_class --json beside peer_kernels.py bench, case by case: our time over the originals', in each class and form that OURS have: fast,
and product (--halves: M tokens as the plug-in takes them, in two halves, in an order that does not know M). Fails where one does not meet the bounds of its class (BOUNDS), or where
OURS and PEERS do not say. Dependent launches, which the originals have not, are shown but not judged."""
import json
import math
import sys

# Of a class: the originals, of which the better one of a case counts; the M that are judged, from 1 on; what the geometric mean must not exceed ("below": nor be), and no case.
BOUNDS = {
    "marlin": (("marlin",), 256, "at most 1", lambda mean: mean <= 1, 1.1),
    "machete": (("marlin", "machete"), 4096, "below 1", lambda mean: mean < 1, 1.05),
}


def rows(path):
    with open(path) as f:
        return [json.loads(line) for line in f if line.strip()]


def better(peers, names):
    """{case: us of the fastest of the originals `names`}; an original that refused a case is not in it, but one without any case is missing."""
    best = {}
    for name in names:
        times = {(r["k"], r["n"], r["m"]): r["us"] for r in peers if r["kernel"] == name and "us" in r}
        if not times:
            sys.exit(f"compare.py: {sys.argv[2]} has no case of the original {name}")
        for case, us in times.items():
            best[case] = min(us, best.get(case, us))
    return best


def judge(name, form, ours, peers):
    """Prints the cases that both have; whether the form stays within the bounds."""
    originals, top, wanted, holds, most = BOUNDS[name]
    best = better(peers, originals)
    judged, worst = {}, (0, None)
    print(f"{name}, {form}:\n     K x N          M      ours dependent {' or '.join(originals):>17}     ratio")
    for case in sorted(ours.keys() & best.keys()):
        us, pdl, ratio = ours[case]["us"], ours[case].get("pdl_us", 0), ours[case]["us"] / best[case]
        print(f"{case[0]:6d} x {case[1]:<6d} {case[2]:5d} {us:9.2f} {pdl:9.2f} {best[case]:17.2f} {ratio:9.3f}")
        if case[2] <= top:
            judged[case] = ratio
            worst = max(worst, (ratio, case))
    for end in (1, top):
        if not any(case[2] == end for case in judged):
            sys.exit(f"compare.py: {name}, {form}: no case of M = {end} that both have")
    mean = math.exp(sum(map(math.log, judged.values())) / len(judged))
    good = holds(mean) and worst[0] <= most
    print(f"{name}, {form}, M 1..{top}: {len(judged)} cases, geometric mean {mean:.3f} ({wanted}), worst {worst[0]:.3f} (at most {most}) at K, N, M = {worst[1]}: "
          f"{'within' if good else 'NOT within'} the bounds")
    return good


forms = {}
for path in [sys.argv[1], *sys.argv[3:]]:
    for r in rows(path):
        if r.get("bits") == 4 and "us" in r and "tune" not in r:
            forms.setdefault((r["class"], r["form"]), {})[r["K"], r["N"], r["M"]] = r
if not forms:
    sys.exit("compare.py: no case of ours")
sys.exit(not all([judge(*which, ours, rows(sys.argv[2])) for which, ours in forms.items()]))
