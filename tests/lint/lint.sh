#!/bin/sh
# Rules of the house that the compiler does not check. Exit status is the verdict; what cannot run here is named.
#   includes  who may include whom (DESIGN "The house"), from cc -MM      headers   each compiles alone
#   banned    functions that are never right                              size      a file has at most 800 lines, a function 80 (ctags)
#   paths     no absolute path of a machine in tracked text               cppcheck, shellcheck where installed
cd "$(dirname "$0")/../.." || exit 1
CC=${CC:-cc}
FLAGS="-std=c11 -D_GNU_SOURCE -I."
failed=0
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT

fail() {
    echo "lint: $*" >&2
    failed=1
}
skip() {
    echo "lint: skipped: $*"
}
files() { # tracked files by pattern that are there
    git ls-files -- "$@" | while IFS= read -r f; do [ -f "$f" ] && printf '%s\n' "$f"; done
}

# The folder whose rules a file is under.
part() {
    case $1 in
    pipeline/base/*) echo base ;;
    pipeline/stage.h) echo stage ;;
    pipeline/*) echo pipeline ;;
    cache/*) echo cache ;;
    stages/*) echo stages ;;
    kernels/*) echo kernels ;;
    cmd/*) echo cmd ;;
    *) echo other ;;
    esac
}

# allowed FROM TO INCLUDED-FILE
allowed() {
    case $1:$2 in
    base:base | cache:cache | cache:base | kernels:kernels) return 0 ;;
    kernels:base) [ "$3" = pipeline/base/err.h ] || [ "$3" = pipeline/base/err.def ] ;;
    pipeline:pipeline | pipeline:stage | pipeline:cache | pipeline:base | stage:base) return 0 ;;
    stages:stages | stages:kernels | stages:stage | stages:base) return 0 ;;
    cmd:*) return 0 ;;
    *) return 1 ;;
    esac
}

# Every include written in a file, resolved from the root; what those include is checked at their own place.
check_includes() {
    files 'pipeline/*.[ch]' 'cache/*.[ch]' 'stages/*.[ch]' 'kernels/*.[ch]' 'pipeline/*.def' 'kernels/*.def' 'stages/*.def' | while IFS= read -r f; do
        from=$(part "$f")
        sed -n 's/^[[:space:]]*#[[:space:]]*include[[:space:]]*"\([^"]*\)".*/\1/p' "$f" | while IFS= read -r inc; do
            [ -f "$inc" ] || { echo "$f: includes \"$inc\", which is no path from the root"; continue; }
            allowed "$from" "$(part "$inc")" "$inc" || echo "$f: $from may not include $inc"
        done
    done >"$tmp/includes"
    # The same arrows over what cc really reads, to catch what comes in by another name. Headers that a stage or cache header brings along are judged above.
    files 'kernels/*.c' 'pipeline/base/*.c' 'cache/*.c' | while IFS= read -r f; do
        from=$(part "$f")
        isa=''
        case $f in
        kernels/cpu/*) isa='-DISA=scalar -DISA_SCALAR' ;;
        kernels/cuda/*) isa=-Itests/emu/include ;; # the runtime's names without the toolkit
        esac
        # shellcheck disable=SC2086
        $CC $FLAGS $PKG_CFLAGS $isa -MM "$f" 2>"$tmp/mm" | tr -d '\\\\' | tr ' ' '\n' | grep -E '\.(h|def)$' | sort -u | while IFS= read -r inc; do
            case $inc in /* | tests/emu/*) continue ;; esac
            allowed "$from" "$(part "$inc")" "$inc" || echo "$f: $from may not include $inc (cc -MM)"
        done
        [ -s "$tmp/mm" ] && sed "s|^|$f: |" "$tmp/mm" | head -n 1
    done >>"$tmp/includes"
    while IFS= read -r line; do fail "$line"; done <"$tmp/includes"
}

check_headers() {
    files '*.h' | while IFS= read -r h; do
        case $h in
        kernels/cpu/simd_*.h | tests/*) continue ;; # parts of one header, and of tests
        esac
        isa=''
        case $h in
        kernels/cpu/*) isa='-DISA=scalar -DISA_SCALAR' ;;
        kernels/cuda/*) isa=-Itests/emu/include ;;
        esac
        printf '#include "%s"\nextern int lint_header_alone;\n' "$h" >"$tmp/alone.c"
        # shellcheck disable=SC2086
        $CC $FLAGS $PKG_CFLAGS $isa -Wall -Wextra -Werror -Wno-unused-function -fsyntax-only "$tmp/alone.c" 2>"$tmp/alone" || echo "$h does not compile alone: $(head -n 1 "$tmp/alone")"
    done >"$tmp/headers"
    while IFS= read -r line; do fail "$line"; done <"$tmp/headers"
}

check_banned() {
    files '*.c' '*.h' | xargs grep -nE '(^|[^a-zA-Z0-9_.>])(strcpy|strcat|sprintf|vsprintf|strtok|gets|atoi|atol|atof)[[:space:]]*\(' >"$tmp/banned"
    while IFS= read -r line; do fail "banned function: $line"; done <"$tmp/banned"
}

check_size() {
    files '*.c' '*.h' '*.cu' '*.cuh' '*.cc' | while IFS= read -r f; do
        n=$(wc -l <"$f")
        [ "$n" -le 800 ] || echo "$f has $n lines, at most 800"
    done >"$tmp/size"
    while IFS= read -r line; do fail "$line"; done <"$tmp/size"
    if ! command -v ctags >/dev/null || ! ctags --version | grep -q Universal; then
        skip "length of functions (Universal Ctags is not installed)"
        return
    fi
    files '*.c' '*.h' | ctags -L - -f - --languages=C --langmap=C:.c.h --kinds-C=f --fields=+ne-P --output-format=u-ctags 2>/dev/null | awk -F '\t' '
        { line = end = 0
          for (i = 4; i <= NF; i++) { if ($i ~ /^line:/) line = substr($i, 6); if ($i ~ /^end:/) end = substr($i, 5) }
          if (end - line + 1 > 80) printf "%s:%d: function %s has %d lines, at most 80\n", $2, line, $1, end - line + 1 }' >"$tmp/functions"
    while IFS= read -r line; do fail "$line"; done <"$tmp/functions"
}

check_paths() {
    git grep -nIE '(^|[^A-Za-z0-9_.$}>])/(home|root|work|Users|mnt|data|scratch)/[A-Za-z0-9]' -- . ':!tests/lint/lint.sh' >"$tmp/paths"
    while IFS= read -r line; do fail "path of a machine: $line"; done <"$tmp/paths"
}

check_tools() {
    if command -v cppcheck >/dev/null; then
        # zerodivcond: group_size is -1 or positive in every resolved table, which cppcheck does not see; legacyUninitvar and ctu*: it does not follow
        # "set when the return code is 0"
        cat >"$tmp/macros.h" <<'H'
#define json_array_foreach(a, i, v) for (i = 0; (v = json_array_get(a, i)); i++)
#define json_object_foreach(o, k, v) for (k = json_first(o); (v = json_value(k)); k = json_next(k))
H
        files 'cmd/*.c' 'pipeline/*.c' 'cache/*.c' 'stages/*.c' | cppcheck -q --std=c11 --enable=warning,portability --inline-suppr --error-exitcode=1 -I. -D_GNU_SOURCE \
            --include="$tmp/macros.h" --suppress=missingIncludeSystem \
            --suppress=preprocessorErrorDirective --suppress=zerodivcond --suppress=legacyUninitvar --suppress=ctuuninitvar --suppress=ctunullpointer --suppress='*:/usr/*' --template='{file}:{line}: {severity}: {message} [{id}]' --file-list=- 2>"$tmp/cppcheck" || :
        while IFS= read -r line; do case $line in *': '*) fail "cppcheck: $line" ;; esac; done <"$tmp/cppcheck"
    else
        skip "cppcheck (not installed)"
    fi
    if command -v shellcheck >/dev/null; then
        # SC2034: variables of lib.sh for its users; SC2209: words that happen to be commands (model=cut)
        files '*.sh' '*.t' tests/run | xargs shellcheck -x -s sh -S warning -e SC1091,SC2034,SC2209 -f gcc >"$tmp/shellcheck"
        while IFS= read -r line; do fail "shellcheck: $line"; done <"$tmp/shellcheck"
    else
        skip "shellcheck (not installed)"
    fi
    skip "clang-format (its settings are not fixed yet)"
}

PKG_CFLAGS=$(pkg-config --cflags yaml-0.1 jansson libpcre2-8 libutf8proc libcrypto libarchive libgit2 libxxhash 2>/dev/null)
check_includes
check_headers
check_banned
check_size
check_paths
check_tools
[ $failed = 0 ] && echo "lint: clean"
exit $failed
