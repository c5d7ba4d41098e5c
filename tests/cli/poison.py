"""poison.py FILE TENSOR ELEMENT: writes a NaN over one element of a BF16 tensor of a safetensors file."""
import json
import struct
import sys

path, tensor, element = sys.argv[1], sys.argv[2], int(sys.argv[3])
data = bytearray(open(path, "rb").read())
n = struct.unpack("<Q", data[:8])[0]
at = 8 + n + json.loads(data[8:8 + n])[tensor]["data_offsets"][0] + 2 * element
data[at:at + 2] = b"\xc0\x7f"
open(path, "wb").write(data)
