#!/bin/sh
# Kernels of the smallest and the tallest tile compile for sm_80 and sm_90 without spills and hold their instructions; tests/slow/cuda.t does all for all.
. tests/cli/lib.sh
. tests/cuda/gate.sh
[ -n "$NVCC" ] || skip_all "nvcc is not installed"
gates "80 90" "$(marlin_rows | sed -n '1p;$p')"
done_testing
