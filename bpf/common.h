/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Shared by all programs: constants set at load time, the filter, byte order, a packet's length. */
#ifndef COMMON_H
#define COMMON_H

#include <linux/types.h>

/*
 * A constant that the loader writes into the bytecode before it loads a
 * program: the verifier then knows its value, removes the branches that it
 * rules out, and nothing is looked up per packet. The loader finds the places
 * by the magic number, whose low octet is the slot.
 */
enum {
	PATCH_MAGIC = 0xf10a57e000000000,
};
#define PATCHED(slot)                                                                              \
	({                                                                                         \
		u64 value_;                                                                        \
		asm volatile("%0 = %1 ll" : "=r"(value_) : "i"(PATCH_MAGIC | (slot)));             \
		value_;                                                                            \
	})

/*
 * The packet filter: a function that the loader appends to the bytecode and puts
 * in the place of this call. Without a filter it puts FILTER_ACCEPT there, which
 * the verifier then knows.
 *
 * `data` and `end` are the part of the frame that can be read, `length` are the
 * octets of the whole frame, with the tag in metadata. `tag` is 0 or FILTER_TAG |
 * TPID << 16 | TCI: a VLAN tag that the kernel keeps in the packet's metadata, so
 * that octet 12 of the frame on the wire is its first, and what is at `data` + 12
 * comes behind it.
 */
enum {
	FILTER_CALL = 0x7ead,
	FILTER_TAG = 0x100000000,
	FILTER_TAG_BIT = 32,
};
static u64 (*filter)(void *data, void *end, u64 length, u64 tag) = (void *)FILTER_CALL;

/* Answers of the filter. */
enum filter_answer {
	FILTER_REJECT,
	FILTER_ACCEPT,
	FILTER_CUT, /* it needs an octet of the frame that is behind `end` */
};

/* Constants that the loader sets. */
enum patch_slot {
	PATCH_IF_INDEX,   /* interface index */
	PATCH_DIRECTION,  /* 0 ingress, 1 egress (IPFIX 61) */
	PATCH_SAMPLING,   /* 1 = every packet */
	PATCH_HAS_FRAGS,  /* 1 where bpf_xdp_get_buff_len() exists (kernel 5.18) */
	PATCH_RAW_IP,     /* 1 on links without a link-layer header */
	PATCH_HAS_FILTER, /* 1 where filter() is called */
};

/*
 * ANY_ZERO is 0, and to the verifier any number: the difference of two pointers.
 * FORGOTTEN is `value`, of which the verifier knows nothing afterwards, so that it
 * verifies once what follows paths that differ in nothing else.
 */
#define ANY_ZERO(pointer)                                                                          \
	({                                                                                         \
		u64 zero_;                                                                         \
		asm volatile("%0 = %1\n\t%0 -= %1" : "=&r"(zero_) : "r"(pointer));                 \
		zero_;                                                                             \
	})
#define FORGOTTEN(value, any_zero)                                                                 \
	({                                                                                         \
		u64 value_ = (value);                                                              \
		asm volatile("%0 ^= %1" : "+r"(value_) : "r"(any_zero));                           \
		value_;                                                                            \
	})

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define to_be16(x) __builtin_bswap16(x)
#define to_be32(x) __builtin_bswap32(x)
#define to_be64(x) __builtin_bswap64(x)
#else
#define to_be16(x) (x)
#define to_be32(x) (x)
#define to_be64(x) (x)
#endif
#define from_be16(x) to_be16(x)

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define INLINE static inline __attribute__((always_inline))

/*
 * The packet's length. data_end - data is only the first buffer of a packet
 * that is spread over several (XDP_HAS_FRAGS).
 */
#define full_length(ctx)                                                                           \
	(PATCHED(PATCH_HAS_FRAGS) ? bpf_xdp_get_buff_len(ctx)                                      \
				  : (u64)((ctx)->data_end - (ctx)->data))

#endif
