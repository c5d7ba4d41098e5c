# gptqpipe: the only makefile. `make help` lists the targets.
MODE  ?= release
CUDA  ?= auto
V     ?= 0
CC    ?= cc
OPT   ?=
PREFIX ?= /usr/local
ARGS  ?=

DEBS := gcc g++ libc6-dev pkg-config libyaml-dev libjansson-dev libpcre2-dev libutf8proc-dev libcmocka-dev libxxhash-dev \
        libarchive-dev libgit2-dev libssl-dev perl strace python3

ifeq ($(filter $(MODE),release debug asan tsan cov),)
$(error MODE must be release, debug, asan, tsan or cov, not '$(MODE)')
endif
ifeq ($(filter $(CUDA),auto 0 1),)
$(error CUDA must be auto, 0 or 1, not '$(CUDA)')
endif
NVCC ?= $(firstword $(wildcard $(addsuffix /nvcc,$(subst :, ,$(PATH)))) $(wildcard /usr/local/cuda/bin/nvcc))
ifeq ($(CUDA)$(NVCC),1)
$(error CUDA=1, but there is no nvcc: name it with NVCC=)
endif
HAVE_CUDA := $(if $(filter 0,$(CUDA)),,$(NVCC))
Q := $(if $(filter 1,$(V)),,@)

# release lives in build/ itself, the other flavours below it, so that no flavour needs a clean.
B := build$(if $(filter release,$(MODE)),,/$(MODE))
O := $(B)/obj

opt_release := -O2
opt_debug := -O0 -g3
opt_asan := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
opt_tsan := -O1 -g -fsanitize=thread
opt_cov := -O0 -g --coverage

PKGS := yaml-0.1 jansson libpcre2-8 libutf8proc libcrypto libarchive libgit2 libxxhash
PKG_CFLAGS := $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
PKG_LIBS := $(shell pkg-config --libs $(PKGS) 2>/dev/null)

WARN := -Wall -Wextra -Wshadow -Wvla -Wstrict-prototypes -Wmissing-prototypes -Wwrite-strings -Wpointer-arith \
        -Wno-format-truncation -Wno-unknown-warning-option -Werror
CFLAGS_ALL = -std=c11 -D_GNU_SOURCE -I. $(PKG_CFLAGS) -g -ffp-contract=off -fno-math-errno -fno-strict-aliasing -pthread \
             $(opt_$(MODE)) $(OPT) $(WARN) $(CFLAGS)
# The rpath is where `make dist` puts libraries: of the program in bin/, of tests in tests/gpu/.
LIBS = $(PKG_LIBS) -lm -ldl -pthread -Wl,--disable-new-dtags,-rpath,'$$ORIGIN/../lib/gptqpipe:$$ORIGIN/../../lib/gptqpipe'

SRC_LIB := $(wildcard pipeline/*.c pipeline/base/*.c cache/*.c stages/*.c stages/*/*.c kernels/*.c)
SRC_CMD := $(wildcard cmd/*.c)
SRC_LIB += $(addprefix kernels/cuda/,pack_units.c marlin_pack.c marlin_choose.c machete_pack.c machete_choose.c)
SRC_CPU := $(wildcard kernels/cpu/*.c)
ISAS := scalar avx2 avx512
# A sanitizer's checks in unrolled loops take -O3 minutes and 700 MB a file: those builds are -O1, and kernels/cpu/simd.h unrolls nothing in them.
# No bits change by -fno-trapping-math (clang's default): it lets gcc make vector code of floor and of choices.
isa_opt := $(if $(filter asan tsan,$(MODE)),-O1,-O3) -fno-trapping-math
isa_scalar := -DISA=scalar -DISA_SCALAR
isa_avx2 := -DISA=avx2 -DISA_AVX2 -mavx2 -mfma -mf16c
isa_avx512 := -DISA=avx512 -DISA_AVX512 -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl

OBJ_LIB := $(SRC_LIB:%.c=$(O)/%.o) $(foreach i,$(ISAS),$(SRC_CPU:%.c=$(O)/%.$(i).o))
OBJ_CMD := $(SRC_CMD:%.c=$(O)/%.o)
LIB := $(B)/libgptqpipe.a
PROG := $(B)/gptqpipe

# The CUDA plug-in: host code by CC, kernels by nvcc, both hidden but for one symbol. nvcc's report on registers and spills stays beside each object (.ptxas).
PLUGIN := $(if $(HAVE_CUDA),$(B)/libgptqpipe_cuda.so)
CUDA_HOME := $(abspath $(dir $(realpath $(NVCC)))/..)
CUDA_ARCH ?= 80 86 89 90 100 120
GENCODE := $(foreach a,$(CUDA_ARCH),-gencode arch=compute_$(a),code=sm_$(a)) -gencode arch=compute_80,code=compute_80
NVCC_FLAGS := -std=c++17 -O3 -fmad=false -DMARLIN_EXACT_ONLY -DMACHETE_FIXED_ONLY -I. $(GENCODE) -Xptxas -v -Werror all-warnings -Xcompiler -fPIC,-fvisibility=hidden,-Wall,-Wextra
# marlin_inst.cu is compiled once for each line of marlin.def (NAME:ROWS:WN:SCALED:BLOCKS here); the plug-in has those of exact weights.
MARLIN_ROWS := $(shell sed -n 's/^MARLIN(\([0-9]*\), \([0-3]\), \([01]\), \([12]\))$$/\1_\2:\1:\2:\3:\4/p' kernels/cuda/marlin.def)
marlin_inst = $(join -DMARLIN_INST_ROWS= -DMARLIN_INST_WN= -DMARLIN_INST_SCALED= -DMARLIN_INST_BLOCKS=,$(wordlist 2,5,$(subst :, ,$(filter $(1):%,$(MARLIN_ROWS)))))
PLUGIN_HOST := $(wildcard kernels/cuda/*.c) kernels/select.c kernels/tensor.c pipeline/base/err.c
PLUGIN_CU := $(filter-out %/marlin_inst.cu %/marlin_gather.cu %/machete_inst.cu,$(wildcard kernels/cuda/*.cu))
PLUGIN_ROWS := $(foreach r,$(filter %:0:1 %:0:2,$(MARLIN_ROWS)),kernels/cuda/marlin_rows$(firstword $(subst :, ,$(r))).cu.o)
# machete_inst.cu alike (NAME:ROWS:WIDE:SCALED:BLOCKS:SM), for sm_90a and nothing else; the plug-in has the tiles of fixed mode, which are those above #ifndef.
machete_rows = $(shell sed -n $(1) -e 's/^MACHETE(\([0-9]*\), \([12]\), \([01]\), \([12]\), \([12]\))$$/\1_\2:\1:\2:\3:\4:\5/p' kernels/cuda/machete.def)
MACHETE_ROWS := $(call machete_rows)
machete_inst = $(join -DMACHETE_INST_ROWS= -DMACHETE_INST_WIDE= -DMACHETE_INST_SCALED= -DMACHETE_INST_BLOCKS= -DMACHETE_INST_SM=,$(wordlist 2,6,$(subst :, ,$(filter $(1):%,$(MACHETE_ROWS)))))
PLUGIN_MACHETE := $(foreach r,$(call machete_rows,-e '/^.ifndef/q'),$(O)/kernels/cuda/machete_rows$(firstword $(subst :, ,$(r))).cu.o)
OBJ_PLUGIN := $(PLUGIN_HOST:%.c=$(O)/%.pic.o) $(PLUGIN_CU:%.cu=$(O)/%.cu.o) $(PLUGIN_ROWS:%=$(O)/%) $(PLUGIN_MACHETE)

# The same sources for a device that is this processor (tests/emu), beside a second name of the program.
EMU := $(B)/emu/libgptqpipe_cuda.so
EMU_FLAGS := -O2 -g -DMARLIN_EXACT_ONLY -ffp-contract=off -fno-strict-aliasing -fPIC -fvisibility=hidden -Itests/emu/include -I. -Wall -Wextra -Wno-unknown-pragmas -Wno-format-truncation -Werror
OBJ_EMU := $(PLUGIN_HOST:%.c=$(O)/emu/%.o) $(patsubst %.cu,$(O)/emu/%.cu.o,$(filter-out %/machete.cu,$(PLUGIN_CU))) $(PLUGIN_ROWS:%=$(O)/emu/%) $(O)/emu/tests/emu/emu.o \
           $(O)/emu/tests/emu/no_machete.o
GPU_CHECKS := $(patsubst tests/%.c,$(B)/tests/%,$(wildcard tests/gpu/check_*.c))

UNIT := $(patsubst tests/%.c,$(B)/tests/%,$(wildcard tests/unit/test_*.c tests/kernels/check_*.c))
BENCH := $(patsubst tests/%.c,$(B)/tests/%,$(wildcard tests/bench/bench_*.c))
FUZZ := $(patsubst tests/fuzz/%.c,build/fuzz/%,$(wildcard tests/fuzz/fuzz_*.c))
ALL_OBJ := $(OBJ_LIB) $(OBJ_CMD) $(patsubst $(B)/tests/%,$(O)/tests/%.o,$(UNIT) $(BENCH) $(GPU_CHECKS)) $(OBJ_PLUGIN) $(OBJ_EMU)

.DELETE_ON_ERROR:
.SECONDARY:
.PHONY: all deps quickstart check test test-build test-slow test-peers test-gpu dist bench lint format fuzz fuzz-run cov bench-gpu install clean help FORCE

all: $(PROG) $(PLUGIN) ## build the program (default), and the CUDA plug-in where there is nvcc (CUDA=auto|0|1)
ifeq ($(HAVE_CUDA),)
	@rm -f $(B)/libgptqpipe_cuda.so
endif

$(PROG): $(OBJ_CMD) $(LIB)
	@echo "  LD    $@"
	$(Q)$(CC) $(CFLAGS_ALL) -o $@ $(OBJ_CMD) $(LIB) $(LIBS)

$(LIB): $(OBJ_LIB)
	@echo "  AR    $@"
	$(Q)rm -f $@ && ar rcs $@ $^

# Objects are rebuilt when compiler or flags change.
STAMP := $(O)/flags
$(STAMP): FORCE
	@mkdir -p $(@D)
	@echo '$(CC) $(CFLAGS_ALL) $(isa_opt) $(isa_scalar) $(isa_avx2) $(isa_avx512)' | cmp -s - $@ || echo '$(CC) $(CFLAGS_ALL) $(isa_opt) $(isa_scalar) $(isa_avx2) $(isa_avx512)' > $@

define compile
	@mkdir -p $(@D)
	@echo "  CC    $@"
	$(Q)$(CC) $(CFLAGS_ALL) $(1) -MMD -MP -c -o $@ $<
endef

$(O)/%.o: %.c $(STAMP)
	$(call compile,$(if $(filter pipeline/% cache/%,$<),-Wconversion))
$(O)/%.scalar.o: %.c $(STAMP)
	$(call compile,$(isa_opt) $(isa_scalar) $(OPT))
$(O)/%.avx2.o: %.c $(STAMP)
	$(call compile,$(isa_opt) $(isa_avx2) $(OPT))
$(O)/%.avx512.o: %.c $(STAMP)
	$(call compile,$(isa_opt) $(isa_avx512) $(OPT))

$(O)/nvcc-flags: FORCE
	@mkdir -p $(@D)
	@echo '$(NVCC) $(NVCC_FLAGS)' | cmp -s - $@ || echo '$(NVCC) $(NVCC_FLAGS)' > $@
$(O)/emu-flags: FORCE
	@mkdir -p $(@D)
	@echo '$(CC) $(CXX) $(EMU_FLAGS)' | cmp -s - $@ || echo '$(CC) $(CXX) $(EMU_FLAGS)' > $@
$(O)/%.pic.o: %.c $(STAMP)
	$(call compile,-fPIC -fvisibility=hidden -I$(CUDA_HOME)/include)
define plugin_nvcc
	@mkdir -p $(@D)
	@echo "  NVCC  $@"
	$(Q)$(NVCC) $(NVCC_FLAGS) $(1) -MMD -MF $(@:.o=.d) -c -o $@ $< 2>$(@:.o=.ptxas) || { cat $(@:.o=.ptxas) >&2; exit 1; }
endef
$(O)/%.cu.o: %.cu $(O)/nvcc-flags
	$(call plugin_nvcc)
$(PLUGIN_ROWS:%=$(O)/%): $(O)/kernels/cuda/marlin_rows%.cu.o: kernels/cuda/marlin_inst.cu kernels/cuda/marlin.def $(O)/nvcc-flags
	$(call plugin_nvcc,$(call marlin_inst,$*))
$(PLUGIN_MACHETE): private NVCC_FLAGS := $(filter-out $(GENCODE),$(NVCC_FLAGS)) -gencode arch=compute_90a,code=sm_90a
$(PLUGIN_MACHETE): $(O)/kernels/cuda/machete_rows%.cu.o: kernels/cuda/machete_inst.cu kernels/cuda/machete.def $(O)/nvcc-flags
	$(call plugin_nvcc,$(call machete_inst,$*))
$(PLUGIN): $(OBJ_PLUGIN)
	@echo "  LD    $@"
	$(Q)$(NVCC) -shared -cudart static -o $@ $^ -Xlinker --exclude-libs,ALL -ldl -lpthread

$(O)/emu/%.o: %.c $(O)/emu-flags
	@mkdir -p $(@D)
	$(Q)$(CC) -std=c11 -D_GNU_SOURCE $(EMU_FLAGS) -MMD -MP -c -o $@ $<
define emu_cxx
	@mkdir -p $(@D)
	@echo "  EMU   $@"
	$(Q)$(CXX) -x c++ -std=c++17 $(EMU_FLAGS) $(1) -MMD -MP -c -o $@ $<
endef
$(O)/emu/%.cu.o: %.cu $(O)/emu-flags
	$(call emu_cxx)
$(PLUGIN_ROWS:%=$(O)/emu/%): $(O)/emu/kernels/cuda/marlin_rows%.cu.o: kernels/cuda/marlin_inst.cu kernels/cuda/marlin.def $(O)/emu-flags
	$(call emu_cxx,$(call marlin_inst,$*))
$(O)/emu/%.o: %.cc $(O)/emu-flags
	@mkdir -p $(@D)
	$(Q)$(CXX) -std=c++17 $(EMU_FLAGS) -MMD -MP -c -o $@ $<
$(EMU): $(OBJ_EMU)
	@mkdir -p $(@D)
	@echo "  LD    $@"
	$(Q)$(CXX) -shared -o $@ $^
$(B)/emu/gptqpipe: $(PROG)
	@mkdir -p $(@D)
	$(Q)ln -f $< $@

-include $(ALL_OBJ:.o=.d)

$(B)/tests/%: $(O)/tests/%.o $(LIB)
	@mkdir -p $(@D)
	@echo "  LD    $@"
	$(Q)$(CC) $(CFLAGS_ALL) -o $@ $< $(LIB) -lcmocka $(LIBS)

$(B)/tests/gpu/%: $(O)/tests/gpu/%.o $(LIB)
	@mkdir -p $(@D)
	@echo "  LD    $@"
	$(Q)$(CC) $(CFLAGS_ALL) -o $@ $< $(LIB) -Wl,--as-needed $(LIBS)

# The Marlin and Machete kernels thread by thread on the CPU.
CXX ?= c++
KERNEL_EMU := $(O)/tests/kernels/marlin_emu.o $(O)/tests/kernels/machete_emu.o
$(KERNEL_EMU): $(O)/tests/kernels/%.o: tests/kernels/%.cc $(STAMP)
	@mkdir -p $(@D)
	@echo "  CXX   $@"
	$(Q)$(CXX) -std=c++17 -I. -g -O2 -ffp-contract=off -Wall -Wextra -Wno-unknown-pragmas -Werror -MMD -MP -c -o $@ $<
-include $(KERNEL_EMU:.o=.d)
$(B)/tests/kernels/check_marlin_emu $(B)/tests/kernels/check_machete_emu: $(B)/tests/kernels/check_%: $(O)/tests/kernels/check_%.o $(O)/tests/kernels/%.o $(LIB)
	@mkdir -p $(@D)
	@echo "  LD    $@"
	$(Q)$(CC) $(CFLAGS_ALL) -o $@ $(filter %.o,$^) $(LIB) -lcmocka $(LIBS) -lstdc++

# Weights on the emulated device: the plug-in in one program with its test.
$(O)/tests/kernels/check_reorder.o: private CFLAGS_ALL += -Itests/emu/include
$(B)/tests/kernels/check_reorder: $(O)/tests/kernels/check_reorder.o $(OBJ_EMU) $(LIB)
	@mkdir -p $(@D)
	@echo "  LD    $@"
	$(Q)$(CC) $(CFLAGS_ALL) -o $@ $^ -lcmocka $(LIBS) -lstdc++

# The Marlin and Machete kernels by themselves, all tiles and types: programs that test and time them on a device, each with all it needs linked in. MACHETE_GUARD=1: in
# build/cuda-guard, and waits of Machete's kernels that last two seconds end with an error that says where.
CUDA_ARCHS ?= 80 90
# The smallest fat binaries that nvcc makes (12.8 and newer know the option): `make dist` carries every kernel three times.
FATBIN := $(if $(HAVE_CUDA),$(if $(findstring --compress-mode,$(shell $(NVCC) --help 2>/dev/null)),--compress-mode=size))
NVFLAGS = -std=c++17 -O3 -fmad=false -I. -Werror all-warnings $(FATBIN) $(foreach a,$(CUDA_ARCHS),-gencode arch=compute_$(a),code=sm_$(a)) -gencode arch=compute_80,code=compute_80
MACHETE_GUARD ?= 0
CUDA_OUT := build/cuda$(if $(filter 1,$(MACHETE_GUARD)),-guard)
OC := build/obj/cuda$(if $(filter 1,$(MACHETE_GUARD)),-guard)
MARLIN_ROW_OBJ := $(foreach r,$(MARLIN_ROWS),$(OC)/kernels/cuda/marlin_rows$(firstword $(subst :, ,$(r))).o)
MARLIN_OBJ := $(OC)/kernels/cuda/marlin.o $(OC)/kernels/cuda/marlin_gather.o $(MARLIN_ROW_OBJ)
MACHETE_ROW_OBJ := $(foreach r,$(MACHETE_ROWS),$(OC)/kernels/cuda/machete_rows$(firstword $(subst :, ,$(r))).o)
MACHETE_OBJ := $(OC)/kernels/cuda/machete.o $(MACHETE_ROW_OBJ)
CLASS_HOST_OBJ := $(addprefix $(O)/,$(addprefix kernels/cuda/,pack_units.o marlin_pack.o marlin_choose.o machete_pack.o machete_choose.o) kernels/tensor.o kernels/wfmt.o pipeline/base/err.o)
GPU_TESTS := $(patsubst tests/gpu/%.cu,$(CUDA_OUT)/%,$(wildcard tests/gpu/check_*.cu))
GPU_BENCHES := $(patsubst tests/bench/%.cu,$(CUDA_OUT)/%,$(wildcard tests/bench/bench_*.cu))
.PHONY: gpu-programs
define nvcc_compile
	@mkdir -p $(@D)
	@echo "  NVCC  $@"
	$(Q)$(NVCC) $(NVFLAGS) $(1) -MMD -MP -c -o $@ $<
endef
$(MARLIN_ROW_OBJ): $(OC)/kernels/cuda/marlin_rows%.o: kernels/cuda/marlin_inst.cu kernels/cuda/marlin.def
	$(call nvcc_compile,$(call marlin_inst,$*))
$(MACHETE_ROW_OBJ): override CUDA_ARCHS := 90a
$(MACHETE_ROW_OBJ): $(OC)/kernels/cuda/machete_rows%.o: kernels/cuda/machete_inst.cu kernels/cuda/machete.def
	$(call nvcc_compile,$(call machete_inst,$*) -DMACHETE_GUARD=$(MACHETE_GUARD))
$(OC)/%.o: %.cu
	$(call nvcc_compile)
$(CUDA_OUT)/check_marlin: $(MARLIN_OBJ)
$(CUDA_OUT)/check_machete: $(MACHETE_OBJ)
$(GPU_TESTS): $(CUDA_OUT)/%: $(OC)/tests/gpu/%.o $(OC)/kernels/cuda/marlin_gather.o $(CLASS_HOST_OBJ)
	@mkdir -p $(@D)
	@echo "  NVLD  $@"
	$(Q)$(NVCC) -cudart static -o $@ $^ -ldl
$(GPU_BENCHES): $(CUDA_OUT)/%: $(OC)/tests/bench/%.o $(MARLIN_OBJ) $(MACHETE_OBJ) $(CLASS_HOST_OBJ)
	@mkdir -p $(@D)
	@echo "  NVLD  $@"
	$(Q)$(NVCC) -cudart static -o $@ $^ -ldl
-include $(MARLIN_OBJ:.o=.d) $(MACHETE_OBJ:.o=.d) $(GPU_TESTS:$(CUDA_OUT)/%=$(OC)/tests/gpu/%.d) $(GPU_BENCHES:$(CUDA_OUT)/%=$(OC)/tests/bench/%.d)
gpu-programs: $(GPU_TESTS) $(GPU_BENCHES) ## build check_marlin, check_machete and bench_class for a GPU (nvcc)

deps: ## install the Debian packages that the build and the tests need
	$(Q)missing=; for p in $(DEBS); do dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then echo "  APT  $$missing"; apt-get update -q >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $$missing >/dev/null; fi

quickstart: deps ## install what is missing, build the program, run manifests/quickstart.yaml
	$(Q)$(MAKE) --no-print-directory $(PROG)
	$(PROG) apply manifests/quickstart.yaml

check: deps ## install what is missing, build, run the tests
	$(Q)$(MAKE) --no-print-directory test

test-build: all $(UNIT) $(GPU_CHECKS) $(EMU) $(B)/emu/gptqpipe

test: test-build ## unit, kernel and command-line tests
	$(Q)GPTQPIPE=$(abspath $(PROG)) BUILD=$(B) MODE=$(MODE) prove --timer -r --exec tests/run $(ARGS) $(UNIT) $(wildcard tests/cli/*.t tests/fault/*.t tests/cuda/*.t)

test-gpu: all $(GPU_CHECKS) $(if $(HAVE_CUDA),$(GPU_TESTS)) ## what a GPU computes, against the CPU, f64 and golden data; skips by name without one (ARGS=--first: what tells most; --all: sanitizers and speed too)
	$(Q)tests/gpu/run.sh $(ARGS) $(B)

bench-gpu: all $(if $(HAVE_CUDA),$(GPU_BENCHES)) ## speed on a GPU, as share of its measured bandwidth
	$(Q)tests/gpu/run.sh --bench $(ARGS) $(B)

dist: all $(GPU_CHECKS) $(if $(HAVE_CUDA),$(GPU_TESTS) $(GPU_BENCHES)) ## a tarball that runs on another x86-64 Linux: program, plug-in, libraries, quickstart, GPU tests
	$(if $(HAVE_CUDA),$(Q)$(MAKE) --no-print-directory MACHETE_GUARD=1 build/cuda-guard/check_machete)
	$(Q)tests/gpu/dist.sh $(B)

test-slow: test-build ## long tests: kills, compilers, whole-model runs
	$(Q)GPTQPIPE=$(abspath $(PROG)) BUILD=$(B) MODE=$(MODE) prove --timer --exec tests/run $(ARGS) $(wildcard tests/slow/*.t)

test-peers: test-build ## tests against GPTQModel, Transformers and vLLM (PEERS=folder with their environments)
	$(Q)GPTQPIPE=$(abspath $(PROG)) BUILD=$(B) prove --timer --exec tests/run $(ARGS) $(wildcard tests/peers/*.t)

bench: all $(BENCH) ## kernel and pipeline speed, each beside its bound
	$(Q)for b in $(BENCH); do $$b $(ARGS) || exit 1; done

lint: ## layering, banned functions, formatting, headers alone, cppcheck, shellcheck
	$(Q)tests/lint/lint.sh

format: ## clang-format every C file
	$(Q)git ls-files '*.c' '*.h' | xargs clang-format-14 -i

# Fuzz targets: libFuzzer with ASan and UBSan in everything but kernels/cpu, which they link and never call (MODE=asan checks it).
FUZZ_CFLAGS := -std=c11 -D_GNU_SOURCE -I. $(PKG_CFLAGS) -g -O1 -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -ffp-contract=off \
               -fno-math-errno -fno-strict-aliasing -pthread
FUZZ_PLAIN := -fno-sanitize=all
FUZZ_OBJ := $(SRC_LIB:%.c=build/fuzz/obj/%.o) $(foreach i,$(ISAS),$(SRC_CPU:%.c=build/fuzz/obj/%.$(i).o))
build/fuzz/obj/%.o: %.c
	@mkdir -p $(@D)
	$(Q)clang -MMD -MP $(FUZZ_CFLAGS) -c -o $@ $<
build/fuzz/obj/%.scalar.o: %.c
	@mkdir -p $(@D)
	$(Q)clang -MMD -MP $(FUZZ_CFLAGS) $(FUZZ_PLAIN) $(isa_scalar) -c -o $@ $<
build/fuzz/obj/%.avx2.o: %.c
	@mkdir -p $(@D)
	$(Q)clang -MMD -MP $(FUZZ_CFLAGS) $(FUZZ_PLAIN) $(isa_avx2) -c -o $@ $<
build/fuzz/obj/%.avx512.o: %.c
	@mkdir -p $(@D)
	$(Q)clang -MMD -MP $(FUZZ_CFLAGS) $(FUZZ_PLAIN) $(isa_avx512) -c -o $@ $<
-include $(FUZZ_OBJ:.o=.d)
build/fuzz/libgptqpipe.a: $(FUZZ_OBJ)
	$(Q)rm -f $@ && ar rcs $@ $^
build/fuzz/%: tests/fuzz/%.c build/fuzz/libgptqpipe.a
	@echo "  FUZZ  $@"
	$(Q)clang $(FUZZ_CFLAGS) -fsanitize=fuzzer -o $@ $< build/fuzz/libgptqpipe.a $(LIBS)
fuzz: $(FUZZ) ## build the fuzz targets (clang)
FUZZ_SECONDS ?= 60
fuzz-run: fuzz ## run each fuzz target for FUZZ_SECONDS
	$(Q)for f in $(FUZZ); do n=$$(basename $$f); mkdir -p build/fuzz/corpus/$$n; echo "== $$n"; \
	$$f -max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=4096 -verbosity=0 -print_final_stats=1 -artifact_prefix=build/fuzz/ \
	build/fuzz/corpus/$$n $$(ls -d tests/fuzz/corpus/$$n 2>/dev/null) || exit 1; done

install: all ## install under PREFIX (default /usr/local)
	install -D -m 755 $(PROG) $(DESTDIR)$(PREFIX)/bin/gptqpipe
	$(if $(PLUGIN),install -D -m 755 $(PLUGIN) $(DESTDIR)$(PREFIX)/lib/gptqpipe/libgptqpipe_cuda.so)

clean: ## remove build/
	rm -rf build

help: ## this list
	@grep -E '^[a-z-]+:.*## ' Makefile | sed 's/:.*## /\t/' | expand -t 14
