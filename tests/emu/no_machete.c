/* The emulated device has no wgmma and no copies by TMA: in the emulated plug-in machete is a kernel that the device has not. (tests/kernels/machete_emu.h runs the kernel by
 * itself.) */
#include "kernels/cuda/machete.h"

int machete_device_open(struct machete_device *d, struct err *e)
{
    (void)d;
    return err_set(e, ERR_UNSUPPORTED, "the emulated device does not run kernel machete");
}

int machete_launch(const struct machete_device *d, const struct machete_call *call, const struct machete_config *c, void *stream, struct err *e)
{
    (void)d, (void)call, (void)c, (void)stream;
    return err_set(e, ERR_UNSUPPORTED, "the emulated device does not run kernel machete");
}
