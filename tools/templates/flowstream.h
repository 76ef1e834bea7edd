/*
@HEAD@
 */
#ifndef FLOWSTREAM_H
#define FLOWSTREAM_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
	FLOWSTREAM_SCHEMA_VERSION = @VERSION@,
	FLOWSTREAM_FLOW_OCTETS = @OCTETS@,
	/* Offset of each field. */
@OFFSETS@
};

enum flowstream_result {
	FLOWSTREAM_OK,
	FLOWSTREAM_NOT_A_FLOW, /* counters, another format, or cut */
	FLOWSTREAM_OTHER_VERSION,
};

struct flowstream_flow {
@MEMBERS@
};

static inline uint64_t flowstream_number(const uint8_t *value, size_t offset, size_t octets)
{
	uint64_t number = 0;

	for (size_t n = 0; n < octets; n++)
		number = number << 8 | value[offset + n];
	return number;
}

/* Reads a value of this many octets into *flow, which changes only with FLOWSTREAM_OK. */
static inline enum flowstream_result flowstream_decode(const uint8_t *value, size_t octets,
						       struct flowstream_flow *flow)
{
	if (octets < FLOWSTREAM_FLOW_OCTETS || value[0] != @ARRAY@ ||
	    flowstream_number(value, 1, 2) < @FIELDS@ || value[3] != @U8@ || value[5] != @U8@ ||
	    (value[4] != @FLOW@ && value[4] != @NEW_FLOW@))
		return FLOWSTREAM_NOT_A_FLOW;
	if (value[FLOWSTREAM_SCHEMA_VERSION_OFFSET] != FLOWSTREAM_SCHEMA_VERSION)
		return FLOWSTREAM_OTHER_VERSION;
@READS@
	return FLOWSTREAM_OK;
}

#endif
