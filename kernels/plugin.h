/* The seam between the program and a plug-in that computes on a GPU: a shared library with one symbol, a table of functions.
 *
 *     const struct plugin *p;  char path[PLUGIN_PATH_BYTES];
 *     plugin_load(NULL, path, sizeof path, &p, e);      finds libgptqpipe_cuda.so beside the program, else in ../lib/gptqpipe
 *     p->device_count(&n, e); p->device_info(0, &info, e); p->open(&options, &par, &b, e);
 *
 * The table begins with the ABI's number (BACKEND_ABI: of struct backend, struct err and of this header), which is read before anything else. A plug-in stays loaded
 * until the program ends. Not here: which device a run takes (stages/device.h). */
#ifndef KERNELS_PLUGIN_H
#define KERNELS_PLUGIN_H

#include "kernels/backend.h"

#define PLUGIN_FILE "libgptqpipe_cuda.so"
#define PLUGIN_SYMBOL "gptqpipe_cuda"

enum { PLUGIN_PATH_BYTES = 4096 };

struct plugin_device {
    char name[96];     /* "NVIDIA H100 80GB HBM3" */
    char numerics[16]; /* class: "cuda-sm90" */
    int sm;            /* compute capability, 90 */
    int processors;
    int driver; /* the CUDA version that the driver serves, 1000 major + 10 minor: 13000 */
    uint64_t total_bytes, free_bytes;
    char no_machete[160]; /* by what rule it has no kernel machete; "": it has */
};

struct plugin_options {
    int device;
    const char *kernel; /* for quantized matrices: "auto", or a class that must serve every one of them ("simple", "marlin", "machete"); borrowed during open */
};

struct plugin {
    int abi;
    int revision; /* raised when any result changes by a bit: part of the keys of what ran on it */
    /* Devices that can be opened; -ERR_DEVICE says why there is none. */
    int (*device_count)(int *out, struct err *e);
    int (*device_info)(int device, struct plugin_device *out, struct err *e);
    /* The backend is used from the thread that opened it. par is copied. */
    int (*open)(const struct plugin_options *o, const struct parallel *par, struct backend **out, struct err *e);
};

/* file: a plug-in's path; NULL looks in the two places. path receives what was found. -ERR_NOTFOUND: there is none; -ERR_UNSUPPORTED: another ABI (both numbers are
 * named); -ERR_DEVICE: it cannot be opened. */
int plugin_load(const char *file, char *path, size_t path_bytes, const struct plugin **out, struct err *e);

#endif
