#!/bin/sh
# The golden digests of tests/vectors from gcc and clang, at -O1 and -O3, under both recipes.
. tests/cli/lib.sh
. tests/cli/identity.sh
cd "$ROOT" || exit 1
build() { make -s -j2 B="$work/$1" CC="$2" OPT="$3" "$work/$1/gptqpipe" >"$work/build" 2>&1 || tail -5 "$work/build" >&2; }
for c in 'gcc -O1' 'gcc -O3' 'clang -O1' 'clang -O3'; do
    cc=${c% *} opt=${c#* }
    if ! command -v "$cc" >/dev/null; then skip 2 "$cc is not installed"; continue; fi
    build "$cc$opt" "$cc" "$opt"
    is "$(bytes best "$work/$cc$opt/gptqpipe" "$work/best.by$cc$opt")" "$want_best" "$c: best"
    is "$(bytes gptqmodel "$work/$cc$opt/gptqpipe" "$work/gptqmodel.by$cc$opt")" "$want_gptqmodel" "$c: gptqmodel"
done
done_testing
