#!/bin/sh
# Every instance of the Machete kernel compiles for sm_90a: no spills, nothing that ptxas has to say about wgmma, and the instructions it is built around in its machine code.
. tests/cli/lib.sh
. tests/cuda/gate.sh
[ -n "$NVCC" ] || skip_all "nvcc is not installed"
"$NVCC" --list-gpu-code | grep -qx sm_90 || skip_all "nvcc has no sm_90"
[ "$(machete_rows | wc -l)" = "$(grep -c '^MACHETE(' kernels/cuda/machete.def)" ]
ok $? "every line of machete.def is read"
for row in $(machete_rows); do
    IFS=: read -r rows wide scaled blocks sm <<ROW
$row
ROW
    machete_gate "$rows" "$wide" "$scaled" "$blocks" "$sm"
    ok $? "$rows rows by $((128 * wide)) columns"
done
# The host side needs no sm_90a, and its kernels are no part of other architectures' objects.
"$NVCC" -std=c++17 -O3 -I. -Werror all-warnings -gencode arch=compute_80,code=sm_80 -cubin -o "$work/host.cubin" kernels/cuda/machete.cu >"$work/log" 2>&1 &&
    ! grep -aq machete_kernel "$work/host.cubin"
ok $? "the host side compiles for other architectures, without kernels"
done_testing
