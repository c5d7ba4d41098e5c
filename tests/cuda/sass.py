"""Instructions of each kernel in a cubin, without a disassembler: python3 sass.py CUBIN NAME=LEAST... prints one line a kernel and fails when a count is under LEAST
(over, for NAME<MOST; another, for NAME==COUNT). An instruction is 16 bytes, the low 12 bits of its first word the opcode (sm_80 to sm_120: kernels of one source with and without each
instruction were compared). Names: HMMA LDSM LDGSTS LDL STL;
of sm_90a HGMMA (wgmma), UTMALDG (tensor copy), UBLKCP (bulk copy), USETMAXREG, MEMBAR (fence). LATE is not one: the most 16-bit arithmetic that follows a wait for wgmma before
the next wgmma or branch: what could have been done while products ran."""
import re
import struct
import sys

OPCODES = {"HMMA": {0x23C}, "LDSM": {0x83B}, "LDGSTS": {0xFAE}, "LDL": {0x983}, "STL": {0x387}, "HGMMA": {0xDF0}, "UTMALDG": {0x5B4},
           "UBLKCP": {0x3BA}, "USETMAXREG": {0x9C8}, "MEMBAR": {0x992}}


def sections(elf):
    """(name, bytes) of each section of a 64-bit ELF file."""
    offset, = struct.unpack_from("<Q", elf, 0x28)
    size, count, names = struct.unpack_from("<HHH", elf, 0x3A)
    heads = [struct.unpack_from("<IIQQQQ", elf, offset + i * size) for i in range(count)]
    strings = heads[names][4]
    for name, kind, _, _, at, length in heads:
        end = elf.index(b"\0", strings + name)
        yield elf[strings + name:end].decode(), b"" if kind == 8 else elf[at:at + length]


BRA, WARPGROUP, WAITS = 0x947, 0x9C5, 1 << 47  # WARPGROUP with the bit: DEPBAR, without: ARRIVE
HALF = {0x30, 0x31, 0x32}  # HADD2, HFMA2, HMUL2 by their low 9 bits: above is where operands come from


def counts(code):
    found = dict.fromkeys([*OPCODES, "LATE"], 0)
    late = None
    for at in range(0, len(code) - 15, 16):
        word = struct.unpack_from("<Q", code, at)[0]
        opcode = word & 0xFFF
        for name, values in OPCODES.items():
            found[name] += opcode in values
        if opcode == WARPGROUP and word & WAITS:
            late = 0
        elif opcode == BRA or opcode in OPCODES["HGMMA"]:
            late = None
        elif late is not None and opcode & 0x1FF in HALF:
            late += 1
            found["LATE"] = max(found["LATE"], late)
    return found


def main(cubin, *rules):
    elf = open(cubin, "rb").read()
    bad = kernels = 0
    for name, code in sections(elf):
        if not name.startswith(".text."):
            continue
        kernels += 1
        found = counts(code)
        wrong = []
        for rule in rules:
            what, relation, limit = re.fullmatch(r"(\w+)(==|=|<)(\d+)", rule).groups()
            if {"=": found[what] < int(limit), "<": found[what] > int(limit), "==": found[what] != int(limit)}[relation]:
                wrong.append(rule)
        bad += bool(wrong)
        print(name[6:], " ".join(f"{k}={v}" for k, v in found.items()), "WRONG: " + " ".join(wrong) if wrong else "")
    return bad != 0 or kernels == 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
