#!/bin/sh
# All GPU tests. run.sh BUILD: of a build folder; without: of an unpacked tarball, from its top folder. --sanitize: compute-sanitizer over small cases instead.
# Exit status is the verdict; without a GPU every part skips by name. GPTQPIPE_SHARED names the folder with models/ and golden/ (default ../shared).
cd "$(dirname "$0")/../.." || exit 1
sanitize=0
[ "${1:-}" = --sanitize ] && { sanitize=1; shift; }
if [ $# -gt 0 ]; then
    program=$1/gptqpipe checks=$1/tests/gpu plugin=$1/libgptqpipe_cuda.so
else
    program=bin/gptqpipe checks=tests/gpu plugin=lib/gptqpipe/libgptqpipe_cuda.so
fi
if [ ! -f "$plugin" ]; then
    echo "run.sh: SKIP: this build has no CUDA plug-in ($plugin)"
    exit 0
fi
failed=0
part() {
    name=$1 start=$(date +%s)
    shift
    echo "== $name"
    "$@" || { failed=1; echo "== $name FAILED"; }
    echo "== $name: $(($(date +%s) - start)) s"
}
if [ $sanitize = 1 ]; then
    if ! command -v compute-sanitizer >/dev/null; then
        echo 'run.sh: SKIP: compute-sanitizer is not installed'
        exit 0
    fi
    part 'memcheck: ops' compute-sanitizer --tool memcheck --leak-check no --error-exitcode 9 "$checks/check_ops" "$plugin" small
    part 'memcheck: products' compute-sanitizer --tool memcheck --leak-check no --error-exitcode 9 "$checks/check_linear" "$plugin" small
    part 'racecheck: products' compute-sanitizer --tool racecheck --error-exitcode 9 "$checks/check_linear" "$plugin" small
    part 'racecheck: ops' compute-sanitizer --tool racecheck --error-exitcode 9 "$checks/check_ops" "$plugin" small
else
    part 'ops' "$checks/check_ops" "$plugin"
    part 'products' "$checks/check_linear" "$plugin" full
    part '100 repeats' "$checks/check_linear" "$plugin" repeat
    part 'models' env GPTQPIPE="$program" sh tests/gpu/models.t
fi
[ $failed = 0 ] && echo '== all passed' || echo '== FAILED'
exit $failed
