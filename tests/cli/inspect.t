#!/bin/sh
# inspect: what a folder or file holds, tensors as files, --check, wrong inputs.
. tests/cli/lib.sh
M=manifests/quickstart/model
Q=tests/vectors/quickstart-w4g128

run inspect $Q
is $rc 0 'readable view'
like "$(cat "$work/out")" '^LlamaForCausalLM: 5 layers, hidden 128' 'readable view: config'
like "$(cat "$work/out")" '^model\.layers\.0\.mlp\.down_proj +128x512 +4 +128 sym .* marlin$' 'readable view: a module, and the kernels that serve it'
like "$(cat "$work/out")" '^model\.norm\.weight +BF16 +128 +256$' 'readable view: a tensor'
like "$(cat "$work/out")" '[0-9]+ parameters, [0-9.]+ bits a weight' 'readable view: totals'
run inspect $Q --json
is "$(python3 -c 'import json, os, sys
o = json.load(open(sys.argv[1]))
m = {x["name"]: x for x in o["modules"]}
down = m["model.layers.0.mlp.down_proj"]
print(o["kind"], len(o["modules"]), down["bits"], down["group_size"], down["sym"], down["shape"], m["lm_head"]["dtype"])
print(sum(t["bytes"] for t in o["tensors"]) == o["totals"]["bytes"], o["totals"]["tensors"] == len(o["tensors"]), down["bits_per_weight"])
print(o["totals"]["parameters"])' "$work/out" | tr '\n' '|')" \
    "model 36 4 128 True [128, 512] BF16|True True 4.40625|$(python3 -c 'print(1024*128 + 128*11 + 5*(128*128*2 + 64*128*2 + 3*512*128))')|" 'JSON'
# The CUDA kernels of another device, by shape.
mkdir "$work/wide" && python3 tests/cli/wide.py $Q "$work/wide"
kernels() { awk '$2 ~ /^[0-9]+x[0-9]+$/ && $3 ~ /^[48]$/ { sub(".*[.]", "", $1); printf "%s %s ", $1, $NF }' "$work/out"; }
some='q_proj marlin k_proj marlin v_proj marlin o_proj marlin gate_proj marlin up_proj marlin down_proj marlin'
run inspect "$work/wide" --capability 9.0
is "$rc $(sed -n '3s/^on CUDA: //p' "$work/out")" '0 what auto takes on compute capability 9.0' 'kernels of another device: said whose'
is "$(kernels)" "$some lm_head machete " '9.0: machete by shape, marlin for the rest'
run inspect "$work/wide" --capability 8.6
is "$(kernels)" "$some lm_head marlin " '8.6: marlin'
run inspect "$work/wide" --capability 9.0 --json
is "$(python3 -c 'import json, sys
o = json.load(open(sys.argv[1]))
print(o["cuda_capability"], sorted({m["cuda_kernel"] for m in o["modules"]}))' "$work/out")" "9.0 ['machete', 'marlin']" 'and as JSON'
run inspect "$work/wide" --device cpu
is "$(sed -n 3p "$work/out")" 'on CUDA: what auto takes where nothing is known of the device (none is here; --capability 9.0 tells of one)' 'no device: said so'
is "$(kernels)" "$some lm_head marlin " 'no device: what any takes'
run inspect $Q --device cpu --json
is "$rc $(grep -c cuda_capability "$work/out")" '0 0' 'no device: no capability'
for v in 9 9.00 x 90 .0 9. 8.10 -9.0 ''; do
    fails 64 "^gptqpipe: error: unknown compute capability '$v' \(8\.0, 8\.6, 9\.0, \.\.\.\)\$" "capability '$v'" inspect $Q --capability "$v"
done
fails 64 '^gptqpipe: error: compute capability 7\.5: the CUDA kernels serve 8\.0 and newer$' 'an old device' inspect $Q --capability 7.5
fails 1 "^gptqpipe: error: device 'cuda:99': no CUDA " 'a device that is not here' inspect $Q --device cuda:99

run inspect $M/model.safetensors --json
is "$(python3 -c 'import json, sys; o = json.load(open(sys.argv[1])); print(o["kind"], "modules" in o)' "$work/out")" 'safetensors False' 'a single file'

# Tensors as files, against a reader of our own.
cat >"$work/read.py" <<'Y'
import json, struct, sys
class File:
    def __init__(self, path):
        b = open(path, "rb").read()
        n = struct.unpack("<Q", b[:8])[0]
        self.head, self.data = json.loads(b[8:8 + n]), b[8 + n:]
    def raw(self, name):
        a, z = self.head[name]["data_offsets"]
        return self.data[a:z]
def half(h):
    return struct.unpack("<e", struct.pack("<H", h))[0]
def words(raw):
    return struct.unpack("<%dI" % (len(raw) // 4), raw)
def dequant(f, m, bits):
    """[N,K] f32 bytes by the published formula, v1 zeros."""
    K, N = f.head[m + ".g_idx"]["shape"][0], f.head[m + ".qweight"]["shape"][1]
    qw, qz, g = words(f.raw(m + ".qweight")), words(f.raw(m + ".qzeros")), words(f.raw(m + ".g_idx"))
    s = struct.unpack("<%dH" % (len(f.raw(m + ".scales")) // 2), f.raw(m + ".scales"))
    per, mask, zcols = 32 // bits, (1 << bits) - 1, f.head[m + ".qzeros"]["shape"][1]
    out = []
    for n in range(N):
        for k in range(K):
            q = qw[k // per * N + n] >> bits * (k % per) & mask
            z = (qz[g[k] * zcols + n // per] >> bits * (n % per) & mask) + 1
            out.append(half(s[g[k] * N + n]) * (q - z))
    return struct.pack("<%df" % len(out), *out)
Y
py() { (cd "$work" && python3 -c "from read import *
$1"); }
cp -r $Q "$work/q"
cp $M/model.safetensors "$work/plain.safetensors"
T=model.layers.0.self_attn.k_proj
run inspect "$work/q" --tensor $T.qweight -o "$work/raw.bin"
is "$(py "print(open('raw.bin','rb').read() == File('q/model.safetensors').raw('$T.qweight'))")" True 'raw bytes'
run inspect "$work/q" --tensor $T --dequant -o "$work/w.f32"
is "$(py "print(open('w.f32','rb').read() == dequant(File('q/model.safetensors'), '$T', 4))")" True 'dequantized module, bit for bit'
run inspect "$work/q" --tensor model.layers.1.mlp.down_proj.weight --dequant -o "$work/w.npy"
is "$(py "b = open('w.npy','rb').read()
n = struct.unpack('<H', b[8:10])[0]
print(b[:8] == b'\x93NUMPY\x01\x00', (10 + n) % 64, eval(b[10:10 + n]) == {'descr': '<f4', 'fortran_order': False, 'shape': (128, 512)})
print(b[10 + n:] == dequant(File('q/model.safetensors'), 'model.layers.1.mlp.down_proj', 4))" | tr '\n' ' ')" 'True 0 True True ' 'NumPy file of a module'
run inspect $M --tensor model.norm.weight --dequant -o "$work/n.f32"
is "$(py "r = File('plain.safetensors').raw('model.norm.weight')
print(open('n.f32','rb').read() == b''.join(b'\0\0' + r[i:i + 2] for i in range(0, len(r), 2)))")" True 'a BF16 vector as f32'
run inspect "$work/q" --tensor $T.g_idx -o "$work/g.npy"
is "$(py "b = open('g.npy','rb').read()
n = struct.unpack('<H', b[8:10])[0]
print(eval(b[10:10 + n])['shape'], eval(b[10:10 + n])['descr'])")" '(128,) <i4' 'NumPy file of integers'

# Negative scales: every second one of a module.
cp -r $Q "$work/signed"
py "f = File('signed/model.safetensors')
a = f.head['$T.scales']['data_offsets'][0]
b = bytearray(open('signed/model.safetensors', 'rb').read())
at = len(b) - len(f.data) + a
for i in range(at + 1, at + len(f.raw('$T.scales')), 4):
    b[i] |= 0x80
open('signed/model.safetensors', 'wb').write(b)"
run inspect "$work/signed" --tensor $T --dequant -o "$work/s.f32"
is "$(py "w = open('s.f32','rb').read()
print(w == dequant(File('signed/model.safetensors'), '$T', 4), w == open('w.f32','rb').read())")" 'True False' 'negative scales, dequantized bit for bit'
run inspect "$work/signed" --check
is "$rc" 0 'negative scales pass --check'
run inspect "$work/signed"
like "$(cat "$work/out")" '^model\.layers\.0\.self_attn\.k_proj .*sym +50\.0% ' 'the share of negative scales'
like "$(cat "$work/out")" '^model\.layers\.0\.self_attn\.q_proj .*sym +0\.0% ' 'and none elsewhere'

# Artifacts of the pipeline.
python3 - "$work" <<'Y'
import json, struct, sys
def write(path, tensors):
    head, at, data = {}, 0, b""
    for name, (dtype, shape, raw) in tensors.items():
        head[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(raw)]}
        at, data = at + len(raw), data + raw
    h = json.dumps(head).encode()
    h += b" " * (-len(h) % 8)
    open(path, "wb").write(struct.pack("<Q", len(h)) + h + data)
d = sys.argv[1]
write(d + "/calibration.safetensors", {"input_ids": ("I32", [7], struct.pack("<7i", *range(7))), "offsets": ("I64", [4], struct.pack("<4q", 0, 3, 3, 7))})
# N=2, K=16, group 8, 4 bits: code of row n, input k is (n + k) mod 16; scales 0.5 (row 1: -0.5) and 0.25 by group; zero 8
codes = bytes((n + k) % 16 | (n + k + 1) % 16 << 4 for n in range(2) for k in range(0, 16, 2))
write(d + "/layer.0.safetensors", {
    "mlp.up_proj.codes": ("U8", [2, 8], codes), "mlp.up_proj.scales": ("F16", [2, 2], struct.pack("<4e", 0.5, -0.5, 0.25, 0.25)),
    "mlp.up_proj.zeros": ("U8", [2, 2], b"\x08" * 4), "mlp.up_proj.g_idx": ("I32", [16], struct.pack("<16i", *(k // 8 for k in range(16))))})
want = [((-0.5 if n else 0.5) if k < 8 else 0.25) * ((n + k) % 16 - 8) for n in range(2) for k in range(16)]
open(d + "/want.f32", "wb").write(struct.pack("<32f", *want))
Y
run inspect "$work/calibration.safetensors" --json
is "$(python3 -c 'import json, sys; o = json.load(open(sys.argv[1])); c = o["calibration"]; print(o["kind"], c["samples"], c["tokens"], c["shortest"], c["longest"])' "$work/out")" \
    'calibration 3 7 0 4' 'calibration'
run inspect "$work/layer.0.safetensors"
like "$(cat "$work/out")" '^mlp\.up_proj +2x16 +4 +8 +25\.0% ' 'layer artifact'
run inspect "$work/layer.0.safetensors" --tensor mlp.up_proj --dequant -o "$work/l.f32"
ok "$(cmp -s "$work/l.f32" "$work/want.f32"; echo $?)" 'layer artifact, dequantized'

# The structure check.
run inspect $Q --check
is "$rc $(tail -n 1 "$work/out")" '0 152 tensors, 35 quantized modules: every rule holds' '--check of a good checkpoint'
sed -i 's/"group_size": 128/"group_size": 64/' "$work/q/quantize_config.json"
run inspect "$work/q" --check
is "$rc $(cat "$work/out")" "1 quantize_config.json: group_size is 64, in config.json's quantization_config it is 128" '--check of a bad one'
like "$(cat "$work/err")" '^gptqpipe: error: .*1 rules? violated$' '--check: the verdict'

fails 64 'PATH' 'no path' inspect
fails 64 'go together' 'a tensor and no file' inspect $Q --tensor model.norm.weight
fails 64 'go together' 'dequant alone' inspect $Q --dequant
fails 64 'jsn' 'bad option' inspect $Q --jsn
fails 1 'no/such does not exist' 'missing path' inspect no/such
fails 1 'no tensor model.nrm.weight' 'unknown tensor' inspect $Q --tensor model.nrm.weight -o "$work/x"
fails 1 'I32.*--dequant takes' 'dequant of integers' inspect $Q --tensor $T.g_idx --dequant -o "$work/x"
fails 1 'NumPy files have no BF16' 'BF16 as .npy' inspect $Q --tensor model.norm.weight -o "$work/x.npy"
fails 1 'nodir' 'a folder that is not there' inspect $Q --tensor model.norm.weight -o "$work/nodir/x"
head -c 5000 $M/model.safetensors >"$work/cut.safetensors"
fails 1 'cut.safetensors' 'truncated safetensors' inspect "$work/cut.safetensors"
printf 'hello' >"$work/text.safetensors"
fails 1 'text.safetensors' 'no safetensors at all' inspect "$work/text.safetensors"
mkdir "$work/none"
fails 1 'neither a config.json nor' 'an empty folder' inspect "$work/none"
cp -r $M "$work/m" && sed -i 's/LlamaForCausalLM/GrokForCausalLM/; s/"model_type": "llama"/"model_type": "grok"/' "$work/m/config.json"
fails 1 'GrokForCausalLM' 'unknown architecture' inspect "$work/m"
rm -rf "$work/m" && cp -r $M "$work/m" && python3 tests/cli/poison.py "$work/m/model.safetensors" model.layers.1.mlp.up_proj.weight 77
fails 1 'model\.layers\.1\.mlp\.up_proj\.weight.*element 77' 'NaN under --dequant' inspect "$work/m" --tensor model.layers.1.mlp.up_proj --dequant -o "$work/x"
is "$(find "$work" -name 'x*' -o -name '.*' -not -name . | wc -l)" 0 'nothing left behind'
done_testing
