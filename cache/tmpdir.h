/* Folders below a store's tmp/ whose names say who owns them, so that what a killed process left can be told from what a live one uses.
 *
 *     name = boot-id "." pid-namespace "." pid "." start-time "." 6 random characters
 *
 * A process is known by pid and start time within one boot and one pid namespace. What another machine or container made (a shared folder)
 * cannot be asked after: it goes only when nothing in it changed for two days. Names of another form are never touched. */
#ifndef CACHE_TMPDIR_H
#define CACHE_TMPDIR_H

#include <time.h>

#include "pipeline/base/err.h"

/* A fresh folder in tmp. The caller frees *dir. */
int tmpdir_make(const char *tmp, char **dir, struct err *e);
/* Removes what dead owners left; now_s is the time. What cannot be removed stays: this is housekeeping and never fails. */
void tmpdir_sweep(const char *tmp, time_t now_s);

#endif
