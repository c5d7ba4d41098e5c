/* The quantization_config of a checkpoint, in the spellings met in the wild: GPTQModel, AutoGPTQ, transformers' GPTQConfig (reference:
 * ModelCloud/GPTQModel@f4c327a17:gptqmodel/quantization/config.py). */
#include <string.h>

#include "pipeline/base/json.h"
#include "stages/lm/config.h"

/* First of the keys that is there and not null. */
static const char *pick(const json_t *o, const char *const *keys)
{
    for (; *keys; keys++) {
        const json_t *v = json_object_get(o, *keys);
        if (v && !json_is_null(v))
            return *keys;
    }
    return NULL;
}

static int check_method(const json_t *o, const char *where, struct err *e)
{
    static const char *const keys[] = {"quant_method", "method", NULL};
    for (const char *const *k = keys; *k; k++) {
        const char *method = "gptq"; /* AutoGPTQ's quantize_config.json does not say */
        int rc = json_opt_str(o, where, *k, &method, e);
        if (rc)
            return rc;
        if (strcmp(method, "gptq"))
            return err_set(e, ERR_UNSUPPORTED, "%s: \"%s\" is '%.60s'; only gptq checkpoints are read", where, *k, method);
    }
    return 0;
}

static int read_format(struct quant_config *q, const json_t *o, const char *where, struct err *e)
{
    static const char *const keys[] = {"checkpoint_format", "format", "version", NULL};
    const char *first_key = NULL, *first = NULL;
    for (const char *const *k = keys; *k; k++) {
        const json_t *v = json_object_get(o, *k);
        if (!v || json_is_null(v) || (!json_is_string(v) && !strcmp(*k, "version"))) /* "version" may be anything's number */
            continue;
        const char *format = NULL;
        int rc = json_opt_str(o, where, *k, &format, e);
        if (rc)
            return rc;
        if (strcmp(format, "gptq") && strcmp(format, "gptq_v2"))
            return err_set(e, ERR_UNSUPPORTED, "%s: \"%s\" is '%.60s'; gptq and gptq_v2 are read", where, *k, format);
        if (first && strcmp(first, format))
            return err_set(e, ERR_FORMAT, "%s: \"%s\" is '%s' but \"%s\" is '%s'", where, first_key, first, *k, format);
        first = format;
        first_key = *k;
    }
    q->v2 = first && !strcmp(first, "gptq_v2");
    return 0;
}

static int read_bits(struct quant_config *q, const json_t *o, const char *where, struct err *e)
{
    static const char *const bits_keys[] = {"bits", "w_bit", "wbits", NULL}, *const group_keys[] = {"group_size", "q_group_size",
                                                                                                    "groupsize", NULL};
    const char *bits_key = pick(o, bits_keys), *group_key = pick(o, group_keys);
    int64_t bits = 0, group = 128;
    int rc = json_need_int(o, where, bits_key ? bits_key : "bits", 1, 64, &bits, e);
    if (!rc && group_key)
        rc = json_opt_int(o, where, group_key, -1, INT32_MAX, &group, e);
    if (rc)
        return rc;
    if (bits != 2 && bits != 3 && bits != 4 && bits != 8)
        return err_set(e, ERR_UNSUPPORTED, "%s: %d bits; 2, 3, 4 and 8 are read", where, (int)bits);
    if (group == 0)
        return err_set(e, ERR_FORMAT, "%s: \"%s\" is 0", where, group_key);
    q->bits = (int)bits;
    q->group_size = (int)group;
    return 0;
}

/* Fields whose presence changes how the bytes are to be read. */
static int check_extras(const json_t *o, const char *where, struct err *e)
{
    bool marlin = false;
    const char *pack = "int32", *rotation = NULL;
    int rc = json_opt_bool(o, where, "is_marlin_format", &marlin, e);
    if (!rc)
        rc = json_opt_str(o, where, "pack_dtype", &pack, e);
    if (!rc)
        rc = json_opt_str(o, where, "rotation", &rotation, e);
    if (rc)
        return rc;
    if (marlin)
        return err_set(e, ERR_UNSUPPORTED, "%s: \"is_marlin_format\": repacked checkpoints are not read", where);
    if (strcmp(pack, "int32"))
        return err_set(e, ERR_UNSUPPORTED, "%s: \"pack_dtype\" is '%.40s'; only int32 is read", where, pack);
    if (rotation && rotation[0])
        return err_set(e, ERR_UNSUPPORTED, "%s: \"rotation\" is '%.40s'; rotated models are not read", where, rotation);
    return 0;
}

static int read_dynamic(struct quant_config *q, const json_t *o, const char *where, struct err *e)
{
    json_t *v = json_object_get(o, "dynamic");
    if (!v || json_is_null(v))
        return 0;
    if (!json_is_object(v))
        return err_set(e, ERR_FORMAT, "%s: \"dynamic\" must be an object", where);
    q->dynamic = json_object_size(v) ? v : NULL;
    return 0;
}

int quant_config_read(struct quant_config *q, const json_t *o, const char *where, struct err *e)
{
    *q = (struct quant_config){.present = true, .sym = true};
    if (!json_is_object(o))
        return err_set(e, ERR_FORMAT, "%s must be an object", where);
    bool zero_point = false;
    int rc = check_method(o, where, e);
    if (!rc)
        rc = check_extras(o, where, e);
    if (!rc)
        rc = read_format(q, o, where, e);
    if (!rc)
        rc = read_bits(q, o, where, e);
    if (!rc)
        rc = json_opt_bool(o, where, "zero_point", &zero_point, e);
    q->sym = !zero_point;
    if (!rc)
        rc = json_opt_bool(o, where, "sym", &q->sym, e);
    if (!rc)
        rc = json_opt_bool(o, where, "desc_act", &q->desc_act, e);
    if (!rc)
        rc = json_opt_bool(o, where, "lm_head", &q->lm_head, e);
    return rc ? rc : read_dynamic(q, o, where, e);
}
