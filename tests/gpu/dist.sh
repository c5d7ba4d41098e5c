#!/bin/sh
# dist.sh BUILD: BUILD/gptqpipe-VERSION-linux-x86_64.tar.gz, which unpacks anywhere: bin/gptqpipe, lib/gptqpipe (plug-in and shared libraries, all but glibc's),
# manifests/quickstart, and the GPU tests and benches with what they read.
set -eu
cd "$(dirname "$0")/../.."
build=$1
version=$(sed -n 's/.*GPTQPIPE_VERSION "\(.*\)".*/\1/p' cmd/cmd.h)
name=gptqpipe-$version-linux-x86_64
top=$build/$name
rm -rf "$top" "$top.tar.gz"
mkdir -p "$top/bin" "$top/lib/gptqpipe" "$top/tests/gpu" "$top/tests/cli" "$top/tests/vectors" "$top/manifests"
install -m 755 -s "$build/gptqpipe" "$top/bin/gptqpipe"
[ ! -f "$build/libgptqpipe_cuda.so" ] || install -m 755 -s "$build/libgptqpipe_cuda.so" "$top/lib/gptqpipe/"
for f in "$build"/tests/gpu/check_* build/cuda/check_* build/cuda/bench_*; do [ ! -f "$f" ] || install -m 755 -s "$f" "$top/tests/gpu/"; done
[ ! -f build/cuda-guard/check_machete ] || install -m 755 -s build/cuda-guard/check_machete "$top/tests/gpu/check_machete_guard"
# What they load, but for the libraries of glibc, which must be the machine's own.
ldd "$top/bin/gptqpipe" "$top"/tests/gpu/check_ops | awk '/=> \// { print $3 }' | sort -u | while IFS= read -r lib; do
    case $(basename "$lib") in
    libc.so.* | libm.so.* | libdl.so.* | libpthread.so.* | librt.so.* | ld-linux*) continue ;;
    esac
    install -m 644 "$(realpath "$lib")" "$top/lib/gptqpipe/$(basename "$lib")"
done
cp -r manifests/quickstart manifests/quickstart.yaml "$top/manifests/"
cp -r tests/vectors/quickstart-w4g128 tests/vectors/quickstart_logits.json "$top/tests/vectors/"
cp tests/cli/lib.sh tests/cli/golden.py "$top/tests/cli/"
cp tests/gpu/run.sh tests/gpu/models.t tests/gpu/to_f16.py tests/gpu/negate.py tests/gpu/compare.py "$top/tests/gpu/"
cat >"$top/README" <<E
gptqpipe $version for x86-64 Linux with glibc 2.36 or newer. Unpack anywhere; nothing to install.
    bin/gptqpipe doctor                                what this machine computes with
    bin/gptqpipe apply manifests/quickstart.yaml       quantize, pack, validate and run a small model, offline
    tests/gpu/run.sh                                   the GPU tests (python3); --first: those that tell most; --all: sanitizers, speed and tables too
E
tar -C "$build" --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -cf - "$name" | gzip -9n >"$top.tar.gz"
rm -rf "$top"
bytes=$(wc -c <"$top.tar.gz")
echo "$top.tar.gz: $bytes bytes"
[ "$bytes" -lt 40000000 ] || { echo 'dist: the tarball is larger than 40 MB' >&2; exit 1; }
