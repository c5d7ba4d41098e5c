/* SIGINT, SIGTERM and SIGHUP ask a run to stop; a second one ends the process at once with 128+n. */
#ifndef PIPELINE_SIGNALS_H
#define PIPELINE_SIGNALS_H

#include "pipeline/base/err.h"

/* Once per process. */
void signals_install(void);
int signals_pending(void); /* the signal's number, 0 while none came; any thread */
void signals_reset(void);  /* forgets one: for tests */
/* -ERR_CANCELLED with the signal noted, so that the exit status is 128+n. */
int signals_error(struct err *e);

#endif
