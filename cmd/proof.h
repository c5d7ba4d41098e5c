/* What selftest found of a GPU on this machine, by which `--device auto` takes it or not. It is a record of the cache without outputs: ls shows it, verify checks it, evict
 * takes it back. Its key is of what it speaks for: the plug-in's bytes and ABI, the device's name, compute capability and processors, the driver, and selftest's revision;
 * so a change of any of them leaves no verdict. The cache is the user's (cmd_cache_dir), not one that a manifest names: it speaks for the machine. */
#ifndef CMD_PROOF_H
#define CMD_PROOF_H

#include <jansson.h>

#include "cmd/cmd.h"
#include "stages/selftest.h"

enum proof_state {
    PROOF_NONE,
    PROOF_PASSED,
    PROOF_FAILED,     /* text: at what */
    PROOF_UNREADABLE, /* text: why. No proof */
};
struct proof {
    enum proof_state state;
    int64_t made_unix_s;
    char text[SELFTEST_NAME_BYTES + SELFTEST_WHAT_BYTES];
};

/* p: found. Never makes a cache. */
void proof_read(struct cmd_ctx *c, const struct device_probe *p, struct proof *out);
/* The same as device_want's `proven`; arg is the struct cmd_ctx. */
bool proof_passed(void *arg, const struct device_probe *p);

/* Takes back what was found before, so that a selftest that never ends leaves nothing. */
int proof_drop(struct cmd_ctx *c, const struct device_probe *p, struct err *e);
/* failed_at: NULL when passed. groups: a JSON array, borrowed. */
int proof_keep(struct cmd_ctx *c, const struct device_probe *p, const char *failed_at, json_t *groups, struct err *e);

#endif
