/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Shim: ring buffers are sized by the loader, so any page size compiles. */
#ifndef SHIM_ASM_PAGE_H
#define SHIM_ASM_PAGE_H
#define PAGE_SIZE 4096
#endif
