# shellcheck shell=sh
# gate ARCH ROWS WN SCALED BLOCKS: compiles one line of kernels/cuda/marlin.def for sm_ARCH; its kernels must spill nothing and hold the instructions they are built around.
# Products of a whole chunk of 64 by 64: 16 for every 8 rows, and 4 for every 8 rows for the sums of x where the weights are exact.
: "${work:?source tests/cli/lib.sh first}"
NVCC=${NVCC:-$(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null)}
gate() {
    cubin=$work/marlin_$2_$3.sm_$1.cubin
    if ! "$NVCC" -std=c++17 -O3 -fmad=false -I. -Werror all-warnings -gencode "arch=compute_$1,code=sm_$1" -Xptxas -v -cubin -DMARLIN_INST_ROWS="$2" -DMARLIN_INST_WN="$3" \
        -DMARLIN_INST_SCALED="$4" -DMARLIN_INST_BLOCKS="$5" -o "$cubin" kernels/cuda/marlin_inst.cu >"$work/log" 2>&1; then
        grep -E 'error|warning' "$work/log" | head -5 | sed 's/^/# /'
        return 1
    fi
    [ "$(grep -c ' bytes spill stores' "$work/log")" = 4 ] || { echo "# not 4 kernels"; return 1; }
    if grep ' bytes spill stores' "$work/log" | grep -qv ' 0 bytes spill stores, 0 bytes spill loads'; then
        grep -B1 ' bytes spill stores' "$work/log" | grep -v ' 0 bytes spill' | sed 's/^/# /'
        return 1
    fi
    case $2 in 8) mma=20 ldsm=2 ;; 16) mma=40 ldsm=8 ;; 32) mma=80 ldsm=16 ;; 48) mma=96 ldsm=12 ;; *) mma=128 ldsm=16 ;; esac
    python3 tests/cuda/sass.py "$cubin" HMMA=$mma LDSM=$ldsm LDGSTS=10 'LDL<0' 'STL<0' >"$work/sass" || { sed 's/^/# /' "$work/sass"; return 1; }
}
# Lines of marlin.def as words ROWS:WN:SCALED:BLOCKS.
marlin_rows() { sed -n 's/^MARLIN(\([0-9]*\), \([0-3]\), \([01]\), \([12]\))$/\1:\2:\3:\4/p' kernels/cuda/marlin.def; }
# gates "ARCHS" "ROWS...": one line a pair.
gates() {
    for arch in $1; do
        if ! "$NVCC" --list-gpu-code | grep -qx "sm_$arch"; then
            skip 1 "nvcc has no sm_$arch"
            continue
        fi
        for row in $2; do
            IFS=: read -r rows wn scaled blocks <<ROW
$row
ROW
            gate "$arch" "$rows" "$wn" "$scaled" "$blocks"
            ok $? "sm_$arch: $rows rows by $((64 << wn)) columns"
        done
    done
}

# machete_gate ROWS WIDE SCALED BLOCKS SM: the same for a line of kernels/cuda/machete.def, sm_90a. Besides spills, ptxas may say nothing of its C75xx: each tells of products that wait
# for each other, or of a register file that is not dealt out. Products in the code: a whole step for each of two sets of registers, or one step where a step has two parts.
# Fences: two where sums are shown to the cluster, two at the end; none where stages change hands. After a wait, only scales are made numbers.
machete_gate() {
    cubin=$work/machete_$1_$2.cubin
    if ! "$NVCC" -std=c++17 -O3 -fmad=false -I. -Werror all-warnings -gencode arch=compute_90a,code=sm_90a -Xptxas -v -cubin -DMACHETE_INST_ROWS="$1" -DMACHETE_INST_WIDE="$2" \
        -DMACHETE_INST_SCALED="$3" -DMACHETE_INST_BLOCKS="$4" -DMACHETE_INST_SM="$5" -o "$cubin" kernels/cuda/machete_inst.cu >"$work/log" 2>&1; then
        grep -E 'error|warning' "$work/log" | head -5 | sed 's/^/# /'
        return 1
    fi
    if grep -E 'C75[0-9][0-9]|serialized' "$work/log" >"$work/said"; then
        head -3 "$work/said" | sed 's/^/# /'
        return 1
    fi
    kernels=$((4 * ($3 ? 1 : 3)))
    [ "$(grep -c ' bytes spill stores' "$work/log")" = $kernels ] || { echo "# not $kernels kernels"; return 1; }
    if grep ' bytes spill stores' "$work/log" | grep -qv ' 0 bytes spill stores, 0 bytes spill loads'; then
        grep -B1 ' bytes spill stores' "$work/log" | grep -v ' 0 bytes spill' | sed 's/^/# /'
        return 1
    fi
    products=$((4 * $4 * $2 * ($1 > 16 && $1 * $2 < 128 ? 2 : 1)))
    python3 tests/cuda/sass.py "$cubin" HGMMA==$products 'HMMA<0' UTMALDG=2 UBLKCP=4 USETMAXREG==2 'MEMBAR<4' 'LATE<2' 'LDL<0' 'STL<0' >"$work/sass" || { sed 's/^/# /' "$work/sass"; return 1; }
}
# Lines of machete.def as words ROWS:WIDE:SCALED:BLOCKS:SM.
machete_rows() { sed -n 's/^MACHETE(\([0-9]*\), \([12]\), \([01]\), \([12]\), \([12]\))$/\1:\2:\3:\4:\5/p' kernels/cuda/machete.def; }
