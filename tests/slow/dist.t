#!/bin/sh
# make dist: the tarball unpacks elsewhere and runs the quickstart there with the libraries it brings.
. tests/cli/lib.sh
make --no-print-directory dist >"$work/log" 2>&1
is $? 0 'make dist'
tarball=$(ls "$(dirname "$GPTQPIPE")"/gptqpipe-*-linux-x86_64.tar.gz)
ok "$(test "$(wc -c <"$tarball")" -lt 40000000; echo $?)" 'below 40 MB'
mkdir "$work/else where" && tar -C "$work/else where" -xzf "$tarball"
cd "$work/else where"/gptqpipe-* || exit 1
here=$(pwd)
is "$(ldd bin/gptqpipe | sed -n 's/.*=> \(.*\) (0x.*/\1/p' | grep -v "^$here/" | grep -vcE '/(libc|libm|ld-linux|libdl|libpthread|librt)[.-]')" 0 'every library but those of glibc is its own'
is "$(objdump -T bin/gptqpipe lib/gptqpipe/* 2>/dev/null | grep -o 'GLIBC_2\.[0-9]*' | sort -t. -k2 -n | tail -n 1 | awk -F. '{ print ($2 <= 36) }')" 1 'glibc 2.36 is enough'
env -i PATH=/usr/bin:/bin HOME="$work" bin/gptqpipe apply -q manifests/quickstart.yaml --device cpu --cache "$work/cache2"
is $? 0 'the quickstart runs'
env -i PATH=/usr/bin:/bin HOME="$work" bin/gptqpipe doctor >"$work/doctor"
ok "$(grep -q '^cuda' "$work/doctor"; echo $?)" 'doctor'
ok "$([ ! -x tests/gpu/check_machete ] || [ -x tests/gpu/check_machete_guard ]; echo $?)" 'the check of the Machete kernel comes under guard too'
env -i PATH=/usr/bin:/bin HOME="$work" sh tests/gpu/run.sh >"$work/gpu"
is "$? $(tail -n 1 "$work/gpu" | grep -c 'all passed\|SKIP')" '0 1' 'the GPU tests pass or skip'
done_testing
