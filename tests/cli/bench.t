#!/bin/sh
# bench: what it measures, on the CPU; that figures are positive, finite and follow from each other, never how large they are; wrong inputs. On a device: emulated.t.
. tests/cli/lib.sh
M=manifests/quickstart/model
Q=tests/vectors/quickstart-w4g128
lines() { python3 tests/cli/bench_lines.py "$work/out"; }

run bench --device cpu --shape 64x64 --shape 100x300 --rows 1,5 --copies 1 --seconds 0 --json
is "$rc $(lines)" '0 bounds cpu memory arithmetic
cpu bf16 100x300:1,5 64x64:1,5
cpu w4 100x300:1,5 64x64:1,5
cpu w8 100x300:1,5 64x64:1,5' 'shapes and rows that are asked for'
run bench --device cpu --shape 100x300 --rows 5 --copies 1 --seconds 0 --threads 1 --isa scalar
is "$rc $(sed -n 3p "$work/out")" '0 ' 'readable: exit status, and a table after the bounds'
like "$(sed -n 1p "$work/out")" '^device    cpu, scalar, 1 thread$' 'readable: device'
like "$(sed -n 2p "$work/out")" '^bounds    memory [0-9]+\.[0-9]{2} GB/s \(read\), arithmetic [0-9]+\.[0-9]{2} GFLOP/s \(FMA, f32\)$' 'readable: bounds'
like "$(sed -n 4p "$work/out")" '^op        class    weights, outputs x inputs           M           us   spread       GB/s    GFLOP/s  share of the bound that binds$' 'readable: heading'
is "$(grep -cE '^linear    cpu      (bf16|w4  |w8  ) 100x300 +5 +[0-9]+\.[0-9]{2} +[0-9.]+ % +[0-9]+\.[0-9]{2} +[0-9]+\.[0-9]{2} +[0-9]+\.[0-9] % of (memory|arithmetic)$' "$work/out")" 3 \
    'readable: products'
is "$(sed -n 5,7p "$work/out" | awk '{ print index($0, " % of ") }' | sort -u | wc -l)" 1 'readable: columns lie under each other'
run bench --device cpu --kernel cpu --rows 1 --copies 1 --seconds 0 --json
is "$rc $(lines)" '0 bounds cpu memory arithmetic
add
silu_mul
rmsnorm 128
rmsnorm 4096
rmsnorm 14336
sample 128256 the likeliest
sample 128256 top_p 0.9
sample 128256 top_p 0.9
sample 128256 top_p 1
attention 32/8 heads, 1 x 1 at 4000
attention 32/8 heads, 16 x 1 at 500
attention 32/8 heads, 1 x 512 at 0
cpu bf16 2048x2048:1
cpu w4 2048x2048:1 2048x8192:1 8192x2048:1
cpu w8 2048x2048:1 2048x8192:1 8192x2048:1' 'ops and layers that suit the CPU'

# A model: neither tokenizer nor weights that say anything are needed.
run bench $Q --device cpu --prompt-tokens 20 --tokens 3 --batch 1,2,32 --runs 2 --seconds 0 --json
is "$rc $(lines | sed 's/ \(memory\|arithmetic\)$//')" '0 bounds cpu memory
model down_proj cpu/gptq-w4g128 lm_head cpu/bf16
prompt 20 x 1
generation 3 x 1
generation 3 x 2
generation 3 x 32' 'a model: prompt and generation'
"$GPTQPIPE" inspect $Q --json >"$work/inspect"
is "$(python3 -c 'import json, sys
m = next(o for o in map(json.loads, open(sys.argv[1])) if o["type"] == "model")
want = weights = 0
for x in json.load(open(sys.argv[2]))["modules"]:
    N, K = x["shape"]
    weights += N * K
    want += N * K * x["bits"] / 8 + -(-K // x["group_size"]) * N * (2 + x["bits"] / 8) if "bits" in x else 2 * N * K
print(m["weight_bytes"] == want, m["weights"] == weights)' "$work/out" "$work/inspect")" 'True True' 'bytes of the weights, as the checkpoint stores them'
run bench $M --device cpu --runs 1 --seconds 0
like "$rc $(cat "$work/out")" '^prompt of 512 tokens +[0-9]+\.[0-9] +[0-9.]+ % +[0-9]+\.[0-9] +[0-9]+\.[0-9] % of (memory|arithmetic)$' 'a prompt of 512 tokens by default'
is "$rc $(grep -cE '^generation of 128 tokens, batch (1|16) +[0-9]+\.[0-9] +0\.0 % ' "$work/out")" '0 2' 'batch 1 and 16 by default'
like "$(cat "$work/out")" '^weights   1\.36 million in products, 2\.72 MB read a step$' 'what a step reads'
like "$(cat "$work/out")" '^kernels   q_proj cpu/bf16, .* lm_head cpu/bf16$' 'what serves'

cp -r $M "$work/short" && sed -i 's/"max_position_embeddings": 512/"max_position_embeddings": 100/' "$work/short/config.json"
run bench "$work/short" --device cpu --runs 1 --seconds 0 --json
is "$rc $(lines | sed -n '3,$s/ \(memory\|arithmetic\)$//p')" '0 prompt 100 x 1
generation 99 x 1
generation 99 x 16' 'and what a shorter context holds'

E="^gptqpipe: error:"
fails 1 "$E no/such does not exist$" 'no such folder' bench no/such
fails 1 "$E manifests: config\.json is not there$" 'a folder that is no model' bench manifests
fails 64 "$E bench wants at most one MODEL, not 2 arguments \(see .gptqpipe bench -h.\)$" 'two models' bench $M $Q
fails 64 "$E bench: --tune is of kernels and shapes, not of a model: leave out '$M' or --tune$" 'tune of a model' bench $M --tune
fails 64 "$E bench: --tune times every class of kernels: leave out --kernel marlin$" 'tune of one class' bench --tune --kernel marlin
fails 64 "$E bench: --tune times the classes of CUDA kernels, and this computes on the CPU \(give --device cuda\)$" 'tune on the CPU' bench --tune --device cpu
fails 64 "$E kernel 'marlin' needs a GPU, and the device is 'cpu'$" 'a CUDA class on the CPU' bench --kernel marlin --device cpu
fails 64 "$E --kernel wants one of auto\|machete\|marlin\|simple\|cpu, not 'fast'$" 'an unknown class' bench --kernel fast
for s in 64 0x5 5x0 x 5x 64x64x64 -4x4 99999999999x1 '64 x64'; do
    fails 64 "$E unknown shape '$s' \(NxK, N outputs by K inputs: 4096x14336\)$" "shape '$s'" bench --shape="$s"
done
for m in '' 1,,2 '1,' 0 x 65537 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17; do
    fails 64 "$E --rows wants up to 16 whole numbers from 1 to 65536 with commas between, not '$m'$" "rows '$m'" bench --rows "$m"
done
fails 64 "$E --batch wants up to 16 whole numbers from 1 to 32 with commas between, not '33'$" 'a batch beyond the decoder' bench $M --batch 33
fails 64 "$E bench: --shape, --rows and --copies are of products, not of a model$" 'rows of a model' bench $M --rows 3
fails 64 "$E bench: --prompt-tokens, --tokens, --batch and --runs are of a model: give MODEL$" 'tokens without a model' bench --tokens 5
fails 1 "$E $M: a prompt of 513 tokens: the context holds 512$" 'a prompt beyond the context' bench $M --device cpu --prompt-tokens 513 --seconds 0
fails 1 "$E $M: 512 tokens after the first: the context holds 512$" 'tokens beyond the context' bench $M --device cpu --tokens 512 --seconds 0
set --
for i in $(seq 33); do set -- "$@" --shape "$i"x1; done
fails 64 "$E bench: 32 shapes at most$" 'too many shapes' bench "$@"
if ! "$GPTQPIPE" doctor | grep -q '^cuda  *cuda:'; then
    fails 1 "$E device 'cuda': no CUDA " 'no device' bench --device cuda
    fails 1 "$E kernel 'marlin' needs a GPU: no CUDA " 'a CUDA class without a device' bench --kernel marlin
else
    skip 6 'there is a device'
fi
done_testing
