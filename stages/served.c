#include "stages/served.h"

#include <stdio.h>
#include <string.h>

/* "gptq-w4g128", "gptq-w4chan", "bf16" */
static void module_format(const struct model *m, int64_t layer, enum module_id mod, char out[64])
{
    int bits, group;
    struct tensor_view v;
    if (model_is_quantized(m, layer, mod)) {
        model_module_bits(m, layer, mod, &bits, &group);
        if (group < 0)
            snprintf(out, 64, "gptq-w%dchan", bits);
        else
            snprintf(out, 64, "gptq-w%dg%d", bits, group);
        return;
    }
    if (model_dense_view(m, layer, mod, &v, NULL))
        v.dtype = m->config.dtype;
    snprintf(out, 64, "%s", v.dtype == DT_BF16 ? "bf16" : v.dtype == DT_F16 ? "f16" : "f32");
}

void served_add(struct served *s, int64_t layer, enum module_id mod, const char *kernel, const char *why)
{
    char format[64], one[112];
    struct buf *seen = &s->of[mod].seen, *text = &s->of[mod].text;
    if (*why && !s->of[mod].why)
        s->of[mod].why = why;
    module_format(s->m, layer, mod, format);
    snprintf(one, sizeof one, "+%s/%s+", kernel, format);
    if (seen->len && strstr(seen->data, one))
        return;
    buf_addstr(seen, one);
    buf_addstr(text, text->len ? "+" : "");
    if (strcmp(s->of[mod].last, kernel) != 0)
        buf_printf(text, "%s/", kernel);
    buf_addstr(text, format);
    snprintf(s->of[mod].last, sizeof s->of[mod].last, "%s", kernel);
}

json_t *served_json(const struct served *s)
{
    json_t *kernel = json_object(), *reasons = json_object();
    for (int i = 0; i <= MOD_COUNT; i++) {
        const char *name = i == MOD_COUNT ? "lm_head" : config_module_short((enum module_id)i), *dot = strrchr(name, '.');
        name = dot ? dot + 1 : name;
        if (!s->of[i].text.len)
            continue;
        json_object_set_new(kernel, name, json_string(s->of[i].text.data));
        if (s->of[i].why)
            json_object_set_new(reasons, name, json_string(s->of[i].why));
    }
    json_t *o = json_pack("{s:o}", "kernel", kernel);
    if (json_object_size(reasons))
        json_object_set(o, "kernel_why", reasons);
    json_decref(reasons);
    return o;
}

json_t *served_decoder(const struct model *m, const struct decoder *d)
{
    struct served s = {.m = m};
    const char *why;
    for (int i = 0; i < MOD_COUNT; i++)
        for (int64_t layer = 0; layer < m->config.layers; layer++) {
            const char *kernel = decoder_kernel(d, layer, (enum module_id)i, &why);
            served_add(&s, layer, (enum module_id)i, kernel, why);
        }
    const char *kernel = decoder_kernel(d, -1, MOD_COUNT, &why);
    served_add(&s, -1, MOD_COUNT, kernel, why);
    json_t *o = served_json(&s);
    served_release(&s);
    return o;
}

void served_release(struct served *s)
{
    for (int i = 0; i <= MOD_COUNT; i++) {
        buf_release(&s->of[i].seen);
        buf_release(&s->of[i].text);
    }
}
