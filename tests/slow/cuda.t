#!/bin/sh
# Every CUDA kernel compiles for every architecture without spills and holds the instructions it is built around.
. tests/cli/lib.sh
. tests/cuda/gate.sh
[ -n "$NVCC" ] || skip_all "nvcc is not installed"
gates "80 86 89 90 100 120" "$(marlin_rows)"
done_testing
