#!/bin/sh
# selftest of a GPU, an emulated one: a pass is kept and lets `device auto` take the GPU, of this plug-in, device and driver alone; wrong results, crashes and hangs are named and
# leave no pass. The CPU: tests/cli/selftest.t.
. tests/cli/lib.sh
M=manifests/quickstart/model
emu=$(dirname "$GPTQPIPE")/emu
isas='scalar'
case $("$GPTQPIPE" doctor) in *avx512*) isas='scalar avx2 avx512' ;; *avx2*) isas='scalar avx2' ;; esac

# A GPU: the emulated one, behind a plug-in that can be told to err.
mkdir "$work/gpu"
plugin=$work/gpu/libgptqpipe_cuda.so
if [ ! -f "$emu/libgptqpipe_cuda.so" ]; then
    skip 60 'the emulated plug-in is not built (make test-build)'
    done_testing
fi
if ! ${CC:-cc} -std=c11 -D_GNU_SOURCE -I. -DREAL="\"$emu/libgptqpipe_cuda.so\"" -shared -fPIC -o "$plugin" tests/emu/broken.c pipeline/base/err.c -ldl -lm; then
    skip 60 "no C compiler (${CC:-cc})"
    done_testing
fi
cp "$emu/gptqpipe" "$work/gpu/"
cp "$plugin" "$work/whole.so"
GPTQPIPE=$work/gpu/gptqpipe
unset GPTQPIPE_CACHE
export XDG_CACHE_HOME="$work/user"
cache=$work/user/gptqpipe
untested='selftest  not tested on this device: `gptqpipe selftest --device cuda` lets auto take it'
proof() { "$GPTQPIPE" doctor | grep '^selftest'; }
served() { "$GPTQPIPE" run $M --prompt a --max-tokens 1 --json -q "$@" | python3 -c 'import json,sys; print(json.loads(sys.stdin.readline())["kernel"]["q_proj"])'; }
is "$(proof)" "$untested" 'doctor: not tested'
timed() { EMU_MB=64 "$GPTQPIPE" bench --shape 64x64 --rows 1 --copies 1 --seconds 0 --json | python3 -c 'import json,sys; print(json.loads(sys.stdin.readline())["numerics"])'; }
is "$(served) $(timed)" 'cpu/bf16 cpu' 'auto takes the CPU, for run and for bench'
ok "$([ ! -e "$cache" ]; echo $?)" 'looking makes no cache'
fails 1 "^gptqpipe: error: device 'cuda:7': no CUDA device 7: there is 1\$" 'a device that is not there' selftest --device cuda:7
run selftest
is "$rc $(cat "$work/err")" '0 ' 'the emulated device passes'
is "$(awk '$1 == "cuda:0" { print $2 }' "$work/out" | tr '\n' ' ')" 'rmsnorm rope silu add embed attention logits sample dense dense-joined dense-chain simple simple-joined simple-chain marlin marlin-joined marlin-chain machete ' 'all groups'
is "$(grep -c '^cuda:0 .* worst error [0-9.e-]*, bound [0-9.e-]*$' "$work/out")" 13 'errors beside their bounds'
is "$(grep '^cuda:0 *machete' "$work/out")" 'cuda:0    machete        not there: the emulated device does not run kernel machete' 'a class that is not there'
is "$(tail -n 1 "$work/out")" 'passed; device auto takes the GPU' 'the verdict'
like "$(proof)" '^selftest  passed on this device on 20[0-9-]* \(device auto takes it\)$' 'doctor: passed'
is "$("$GPTQPIPE" doctor --json | python3 -c 'import json,sys; d = json.load(sys.stdin)["cuda"]; print(d["selftest"], d["driver"])')" 'passed 13000' 'doctor: as JSON'
is "$(served) $(timed)" 'dense/bf16 cuda-sm90' 'auto takes the GPU, for run and for bench'
is "$(served --device cpu)" cpu/bf16 'and not where the CPU is asked for'
is "$(served --cache "$work/other")" cpu/bf16 'nor with another cache'
is "$("$GPTQPIPE" eval $M --data manifests/quickstart/held.jsonl --max-tokens 5 --json)" "$("$GPTQPIPE" eval $M --data manifests/quickstart/held.jsonl --max-tokens 5 --json --device cuda)" 'eval: auto is the GPU'

# A manifest, with a cache of its own: the verdict is about the machine.
mkdir "$work/p"
printf 'version: 1\nname: m\ncache: { dir: own }\nstages:\n  model: { fetch: { file: %s } }\n  hello: { run: { checkpoint: model, prompts: [a], max_tokens: 2 } }\n' "$(realpath $M)" >"$work/p/manifest.yaml"
run apply -C "$work/p" -q --json
is "$rc $(grep -o '"numerics": "[^"]*"' "$work/p/gptqpipe.lock")" '0 "numerics": "cuda-sm90"' 'apply: the class is the GPU'"'"'s'
like "$(tail -n 1 "$work/out")" '"attention_cuda"' 'and the GPU ran'

# The cache takes it for what it is.
is "$("$GPTQPIPE" cache ls | awk '{ print $2, $3 }')" 'selftest 0' 'cache ls'
"$GPTQPIPE" cache verify --repair >/dev/null
is "$? $(served)" '0 dense/bf16' 'cache verify --repair leaves it'
like "$("$GPTQPIPE" cache stats)" ': 1 records, 0 damaged, 0 outputs, 0 bytes$' 'cache stats'
record=$(find "$cache/ac" -type f)
cp "$record" "$work/record"
restore() { cp "$work/record" "$record"; }

# It speaks for one device, driver and plug-in.
is "$(EMU_DRIVER=13010 proof)" "$untested" 'another driver is not tested'
is "$(EMU_DRIVER=13010 served)" cpu/bf16 'and not taken'
is "$(EMU_SM=86 proof)" "$untested" 'nor is another compute capability'
printf x >>"$plugin"
is "$(proof)" "$untested" 'nor is another plug-in'
is "$(served)" cpu/bf16 'and not taken'
cp "$work/whole.so" "$plugin"
is "$(served)" dense/bf16 'the same bytes again are'

# Damage, and the record of something else.
printf x | dd of="$record" bs=1 seek=40 conv=notrunc 2>/dev/null
like "$(proof)" '^selftest  its verdict cannot be read, which counts as none: .+ \(device auto takes the CPU\)$' 'damaged: said by doctor'
is "$(served)" cpu/bf16 'damaged: not taken'
: >"$record"
is "$(served)" cpu/bf16 'empty: not taken'
restore
is "$(served)" dense/bf16 'whole again: taken'
other=$("$GPTQPIPE" cache ls --cache "$work/p/own" | awk '$2 == "run" { print $1 }')
cp "$work/p/own/ac/$(printf %.2s "$other")/$other" "$record"
like "$(proof)" 'which counts as none: record .* is of another key, ' 'the record of something else: said'
is "$(served)" cpu/bf16 'the record of something else: not taken'
restore
"$GPTQPIPE" cache evict "$(basename "$record")"
is "$(proof)" "$untested" 'cache evict takes it back'

# What fails: by name, in time, and the pass from before is gone.
broken() { # HOW PATTERN WHAT [OPTION...]
    restore
    export BROKEN="$1"
    how=$1 text=$2 which=$3
    shift 3
    fails 1 "^gptqpipe: error: selftest: $text \(device auto takes the CPU\)\$" "$which" selftest --device cuda --isa "${isas##* }" "$@"
    unset BROKEN
    cp "$work/out" "$work/out.$how"
    like "$(proof)" "^selftest  failed on this device on 20[0-9-]*: $text \(device auto takes the CPU\)\$" "$which: said by doctor"
    is "$(served)" cpu/bf16 "$which: not taken"
}
rope='rope: 1x1 heads of 2'
broken crash "$rope: crashed, signal 11 \(Segmentation fault\)" 'a crash'
broken hang "$rope: did not end in 5 s and was killed" 'a hang' --limit 5
broken exit "$rope: its process ended with status 3" 'an exit'
broken error "$rope: cuda:0: rope: an illegal memory access was encountered" 'an error of the device'
broken wrong 'silu: 4099 values: value 0 is [-0-9.e]+, the reference gives [-0-9.e]+' 'wrong results'
is "$(awk '/FAILED/ { print $2 }' "$work/out.wrong" | tr '\n' ' ')" 'silu sample marlin marlin-joined marlin-chain ' 'wrong results: every group that has some'
like "$(cat "$work/out.wrong")" '^cuda:0 +marlin +40 cases  FAILED: w4 200x300 group 32, 1 token: token 0, output 0 is [-0-9.e]+, and [-0-9.e]+ among 130 tokens$' 'wrong results: the case and the two values'
like "$(cat "$work/out.wrong")" '^cuda:0 +simple +80 cases  worst error' 'wrong results: the other groups pass'
like "$(grep sample "$work/out.wrong")" 'FAILED: 3 rows of 1 logits, alone and in other places: value 0 is 0, and 1 alone$' 'a token: the two ids'
like "$(grep marlin-joined "$work/out.wrong")" 'FAILED: w4 256.128.128x172 group 128, 7 tokens: token 0, output 0 of the third is [-0-9.e]+, and [-0-9.e]+ among 33 tokens$' 'matrices that are joined: one launch'
like "$(grep marlin-chain "$work/out.wrong")" 'FAILED: w4 layer of 256 and 384, prefill: value 0 is [-0-9.e]+, the reference gives [-0-9.e]+$' 'halves that an op has left: taken'
BROKEN=probe run selftest --device cuda --isa "${isas##* }" --limit 5
is "$rc $(cat "$work/err")" '1 gptqpipe: error: selftest: device: asking the plug-in: did not end in 5 s and was killed (device auto takes the CPU)' 'a device that does not answer'

# A verdict that cannot be kept is told with the reason, and is none.
kept="this verdict cannot be kept: cannot create folder .* \(device auto takes the CPU\)"
fails 1 "^gptqpipe: error: selftest: the GPU passes; $kept\$" 'no place for a pass' selftest --device cuda --cache "$plugin/cache"
is "$(tail -n 1 "$work/out" | awk '{ print $2 }')" machete 'no place for a pass: nothing says that it passed'
BROKEN=wrong fails 1 "^gptqpipe: error: selftest: silu: 4099 values: .*; $kept\$" 'no place for a failure' selftest --device cuda --cache "$plugin/cache"
env -u HOME -u XDG_CACHE_HOME "$GPTQPIPE" selftest --device cuda --json >"$work/out" 2>"$work/err"
# shellcheck disable=SC2016
is "$? $(cat "$work/err") $(tail -n 1 "$work/out")" '64 gptqpipe: error: selftest: the GPU passes; this verdict cannot be kept: no place for the cache: $HOME is not set, '\
'give --cache DIR (device auto takes the CPU) {"auto_takes_gpu":false,"passed":true}' 'no home'

# Killed half way: no verdict, neither the old one nor a new one.
restore
BROKEN=hang "$GPTQPIPE" selftest --device cuda --isa "${isas##* }" --limit 600 >"$work/out" 2>&1 &
pid=$!
while kill -0 $pid && ! grep -q '^cuda:0 *rmsnorm' "$work/out"; do sleep 0.1; done
kill -9 $pid
wait $pid 2>/dev/null
is "$(proof)" "$untested" 'killed half way: the old pass is gone'
done_testing
