/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Shim for compiling without kernel headers: bcc includes this file, nothing of it is needed. */
