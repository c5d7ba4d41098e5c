#!/bin/sh
# quantize, pack, validate and run give the same bytes for any number of threads, instruction set and folder: those of tests/vectors/quickstart.sha256.
. tests/cli/lib.sh
. tests/cli/identity.sh
base=$(bytes "$GPTQPIPE" "$work/a")
echo "# digest $base"
is "$base" "$want" "the golden digest"
for t in 1 2 7; do is "$(bytes "$GPTQPIPE" "$work/t$t" --threads "$t")" "$want" "$t threads"; done
for isa in scalar avx2 avx512; do
    case $isa in avx2) need=avx2 ;; avx512) need=avx512dq ;; *) need='' ;; esac
    if [ -n "$need" ] && ! grep -qw "$need" /proc/cpuinfo; then skip 2 "$isa: this processor lacks it"; continue; fi
    is "$(bytes "$GPTQPIPE" "$work/$isa" --isa "$isa")" "$want" "$isa"
    like "$(python3 -c 'import json,sys; print(" ".join(json.load(sys.stdin)["kernels"]))' <"$work/rows")" "_$isa" "$isa: its rows were called"
done
done_testing
