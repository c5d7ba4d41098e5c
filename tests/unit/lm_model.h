/* A model on the CPU backend, for tests of stages/lm. */
#ifndef TESTS_UNIT_LM_MODEL_H
#define TESTS_UNIT_LM_MODEL_H

#include "tests/unit/lm_test.h"

#include <jansson.h>

#include "pipeline/base/pool.h"
#include "stages/lm/decoder.h"

struct lm {
    struct model m;
    struct pool *pool;
    struct backend *b;
    struct decoder *d;
};

/* The model and the backend, no decoder. */
static inline void lm_open_model_isa(struct lm *lm, const char *path, enum isa isa, int threads)
{
    struct err err = {0};
    struct fileset files = FILESET_INIT;
    *lm = (struct lm){.pool = threads > 1 ? pool_create(threads) : NULL};
    OK(fileset_from_path(&files, path, &err));
    OK(model_open(&lm->m, &files, &err));
    fileset_release(&files);
    const struct parallel par = {pool_run, lm->pool, threads};
    OK(cpu_backend_create(isa, &par, &lm->b, &err));
}

static inline void lm_open_model(struct lm *lm, const char *path)
{
    lm_open_model_isa(lm, path, ISA_AUTO, 1);
}

static inline void lm_open_isa(struct lm *lm, const char *path, enum isa isa, int threads)
{
    struct err err = {0};
    lm_open_model_isa(lm, path, isa, threads);
    OK(decoder_open(&lm->d, lm->b, &lm->m, lm->m.config.context, &err));
}

static inline void lm_open(struct lm *lm, const char *path)
{
    lm_open_isa(lm, path, ISA_AUTO, 1);
}

static inline void lm_close(struct lm *lm)
{
    decoder_free(lm->d);
    lm->b->destroy(lm->b);
    model_close(&lm->m);
    pool_free(lm->pool);
}

/* The quickstart files are part of the repository; tests run from its root. */
#define NEED_FILE(path)                                                                                                                    \
    do {                                                                                                                                   \
        if (!io_exists(path)) {                                                                                                            \
            print_message("skip: %s is not there\n", path);                                                                                \
            skip();                                                                                                                        \
        }                                                                                                                                  \
    } while (0)

static inline size_t json_ids(const json_t *list, int32_t *out, size_t cap)
{
    size_t n = json_array_size(list);
    assert_true(n <= cap);
    for (size_t i = 0; i < n; i++)
        out[i] = (int32_t)json_integer_value(json_array_get(list, i));
    return n;
}

/* The case's object of a file of expected values; *root is the caller's. */
static inline json_t *json_cases(const char *path, json_t **root)
{
    *root = json_load_file(path, 0, NULL);
    assert_non_null(*root);
    json_t *cases = json_object_get(*root, "cases");
    assert_true(json_array_size(cases) > 0);
    return cases;
}

#endif
