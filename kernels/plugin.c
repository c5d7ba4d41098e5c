#include "kernels/plugin.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* The folder that the running program lies in, without the last slash. */
static int program_dir(char *out, size_t bytes, struct err *e)
{
    ssize_t n = readlink("/proc/self/exe", out, bytes - 1);
    if (n <= 0 || (size_t)n >= bytes - 1)
        return err_set(e, ERR_NOTFOUND, "no CUDA plug-in: the program's own place is not known (/proc/self/exe)");
    out[n] = 0;
    char *slash = strrchr(out, '/');
    if (slash)
        *slash = 0;
    return 0;
}

static int find(char *path, size_t bytes, struct err *e)
{
    char dir[PLUGIN_PATH_BYTES];
    static const char *const places[] = {"", "/../lib/gptqpipe"};
    int rc = program_dir(dir, sizeof dir, e);
    for (size_t i = 0; !rc && i < sizeof places / sizeof *places; i++) {
        int n = snprintf(path, bytes, "%s%s/" PLUGIN_FILE, dir, places[i]);
        if (n > 0 && (size_t)n < bytes && access(path, F_OK) == 0)
            return 0;
    }
    return rc ? rc : err_set(e, ERR_NOTFOUND, "no CUDA plug-in: " PLUGIN_FILE " is neither beside the program nor in ../lib/gptqpipe");
}

int plugin_load(const char *file, char *path, size_t path_bytes, const struct plugin **out, struct err *e)
{
    *out = NULL;
    int rc = 0;
    if (file)
        snprintf(path, path_bytes, "%s", file);
    else
        rc = find(path, path_bytes, e);
    if (rc)
        return rc;
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!handle)
        return err_set(e, ERR_DEVICE, "the CUDA plug-in cannot be opened: %s", dlerror());
    const struct plugin *p = dlsym(handle, PLUGIN_SYMBOL);
    if (!p)
        rc = err_set(e, ERR_UNSUPPORTED, "%s is no plug-in: it has no symbol " PLUGIN_SYMBOL, path);
    else if (p->abi != BACKEND_ABI)
        rc = err_set(e, ERR_UNSUPPORTED, "the CUDA plug-in %s has ABI %d, this program wants %d: build both together", path, p->abi, BACKEND_ABI);
    if (rc)
        dlclose(handle);
    else
        *out = p;
    return rc;
}
