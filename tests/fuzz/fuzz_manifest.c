/* Loader, variables, typing, references, places and drawings on any bytes; no file is opened. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "pipeline/base/buf.h"
#include "pipeline/manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct manifest *m = NULL;
    struct err e;
    char text[ERR_TEXT_BYTES + ERR_FILE_BYTES + 64];
    static const char *const sets[] = {"seqlen=7"};
    err_clear(&e);
    int rc = manifest_parse("m.yaml", (const char *)data, size, sets, size && data[0] == 'v', &m, &e);
    if ((rc == 0) != (m != NULL) || (rc && (e.code != -rc || !e.text[0])))
        abort();
    if (rc == -ERR_MANIFEST && (e.line < 1 || e.col < 1))
        abort();
    err_format(&e, text, sizeof text);
    struct buf b = BUF_INIT;
    for (int f = DAG_DOT; m && f <= DAG_ASCII; f++)
        dag_draw(m, (enum dag_format)f, &b);
    static const char *const paths[] = {"", "bits", "dynamic.a.b.bits", "dynamic.0.match", "expect.kl_mean.max", "prompts.1"};
    for (size_t i = 0; m && i < m->stage_count; i++)
        for (size_t p = 0; p < sizeof paths / sizeof *paths; p++)
            if (manifest_place(&m->stages[i], paths[p]).line < 1)
                abort();
    buf_release(&b);
    manifest_free(m);
    return 0;
}
