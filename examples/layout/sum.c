/*
 * Sums the flow records of a topic in MessagePack; prints one JSON object.
 *
 *   gcc -O2 -I schemas/c -o sum examples/layout/sum.c
 *   kcat -C -e -b 127.0.0.1:9092 -t flowstream.flows -f '%R%s' | ./sum
 *
 * kcat writes each value behind its length: 32 bits, big-endian.
 */
#include <inttypes.h>
#include <stdio.h>

#include "flowstream.h"

#define MAX_OCTETS 65536

int main(void)
{
	static uint8_t value[MAX_OCTETS];
	uint64_t records = 0, packets = 0, bytes = 0, l2_bytes = 0;
	struct flowstream_flow flow;
	uint8_t length[4];

	while (fread(length, sizeof(length), 1, stdin) == 1) {
		size_t octets = flowstream_number(length, 0, sizeof(length));

		if (octets > sizeof(value) || fread(value, 1, octets, stdin) != octets ||
		    flowstream_decode(value, octets, &flow) != FLOWSTREAM_OK) {
			fprintf(stderr, "value %" PRIu64 ": not a flow record\n", records);
			return 1;
		}
		records++;
		packets += flow.packets;
		bytes += flow.bytes;
		l2_bytes += flow.l2_bytes;
	}
	printf("{\"records\":%" PRIu64 ",\"packets\":%" PRIu64 ",\"bytes\":%" PRIu64
	       ",\"l2_bytes\":%" PRIu64 "}\n",
	       records, packets, bytes, l2_bytes);
	return 0;
}
