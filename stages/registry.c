#include "stages/stages.h"

#include <openssl/evp.h>
#include <stdio.h>

const struct stage_kind *const stage_kinds[] = {&stage_fetch, &stage_calibrate, &stage_quantize, &stage_pack, &stage_validate, &stage_run, NULL};

void stage_sha256(const void *p, size_t bytes, char hex[65])
{
    unsigned char digest[32];
    if (!EVP_Digest(p, bytes, digest, NULL, EVP_sha256(), NULL))
        BUG("SHA-256 failed");
    for (int i = 0; i < 32; i++)
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
}
