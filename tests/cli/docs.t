#!/bin/sh
# The documents say what the program does: field reference, commands of the README, the quickstart as the README runs it.
. tests/cli/lib.sh
"$GPTQPIPE" schema | python3 manifests/fields.py >"$work/fields"
sed -n '/^## fetch/,$p' manifests/README.md >"$work/written"
cmp -s "$work/fields" "$work/written"
ok "$?" "manifests/README.md holds the fields that schema prints"

run help
commands=$(sed -n 's/^  \([a-z]*\)  .*/\1/p' "$work/out")
for c in $(grep -oE '^    gptqpipe [a-z]+' README.md | awk '{ print $2 }' | sort -u); do
    echo "$commands" | grep -qx "$c"
    ok "$?" "README: gptqpipe $c is a command"
    run "$c" -h
    is "$rc" 0 "gptqpipe $c -h"
done
for t in $(grep -oE 'make (MODE=[a-z]+ )?[a-z-]+' README.md | awk '{ print $NF }' | grep -vxE 'make|the|it' | sort -u); do
    make -n "$t" >/dev/null 2>&1
    ok "$?" "README: make $t is a target"
done

# the manifest of the README, word for word, plans once its files are there
cp -r manifests/quickstart/model "$work/SmolLM2-135M-Instruct"
cp manifests/quickstart/calib.jsonl "$work/c4.jsonl"
echo 'Once there was a town.' >"$work/wiki.test.raw"
sed -n '/^## A manifest/,/^Stages refer/p' README.md | sed -n 's/^    //p' | sed 's/layers\\.29\\/layers\\.4\\/' >"$work/manifest.yaml"
run plan -C "$work"
is "$rc" 2 "the README's manifest plans"
like "$(cat "$work/out")" 'w4/layer.0 .. w4/layer.4' "and shows its layers"
done_testing
