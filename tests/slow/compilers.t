#!/bin/sh
# The bytes of tests/vectors/quickstart.sha256 from gcc and clang, at -O1 and -O3.
. tests/cli/lib.sh
. tests/cli/identity.sh
cd "$ROOT" || exit 1
build() { make -s -j2 B="$work/$1" CC="$2" OPT="$3" "$work/$1/gptqpipe" >"$work/build" 2>&1 || tail -5 "$work/build" >&2; }
for c in 'gcc -O1' 'gcc -O3' 'clang -O1' 'clang -O3'; do
    cc=${c% *} opt=${c#* }
    if ! command -v "$cc" >/dev/null; then skip 1 "$cc is not installed"; continue; fi
    build "$cc$opt" "$cc" "$opt"
    is "$(bytes "$work/$cc$opt/gptqpipe" "$work/by$cc$opt")" "$want" "$c"
done
done_testing
