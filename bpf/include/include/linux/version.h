/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Shim: the oldest kernel whose helpers the programs may use without a check of their own. */
#ifndef SHIM_LINUX_VERSION_H
#define SHIM_LINUX_VERSION_H
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define LINUX_VERSION_CODE KERNEL_VERSION(5, 9, 0)
#endif
