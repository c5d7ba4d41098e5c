#!/bin/sh
# quantize, pack, validate and run give the same bytes for any number of threads, instruction set and folder, under both recipes: the golden digests of
# tests/vectors.
. tests/cli/lib.sh
. tests/cli/identity.sh
for recipe in best gptqmodel; do
    eval "want=\$want_$recipe"
    base=$(bytes $recipe "$GPTQPIPE" "$work/$recipe")
    echo "# $recipe: digest $base"
    is "$base" "$want" "$recipe: the golden digest"
    for t in 1 2 7; do is "$(bytes $recipe "$GPTQPIPE" "$work/$recipe.t$t" --threads "$t")" "$base" "$recipe: $t threads"; done
    for isa in scalar avx2 avx512; do
        case $isa in avx2) need=avx2 ;; avx512) need=avx512dq ;; *) need='' ;; esac
        if [ -n "$need" ] && ! grep -qw "$need" /proc/cpuinfo; then skip 2 "$isa: this processor lacks it"; continue; fi
        is "$(bytes $recipe "$GPTQPIPE" "$work/$recipe.$isa" --isa "$isa")" "$base" "$recipe: $isa"
        like "$(python3 -c 'import json,sys; print(" ".join(json.load(sys.stdin)["kernels"]))' <"$work/rows")" "_$isa" "$recipe: $isa: its rows were called"
    done
done
done_testing
