/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * xdp_counter: counts packets, and packets per IPv4 source; announces each
 * source when it is first seen. Cheap: no flow records. Always XDP_PASS.
 */
#include "common.h"
#include "parsing.h"

/* Keys of pkt_count; the counters only grow. l2_bytes are frame octets. */
enum pkt_counter {
	SEEN_PACKETS,
	SEEN_L2_BYTES,
	NON_IP_PACKETS, /* all but IPv4: IPv6 too */
	NON_IP_L2_BYTES,
	MALFORMED_PACKETS,
	MALFORMED_L2_BYTES,
	SAMPLED_OUT_PACKETS,
	SAMPLED_OUT_L2_BYTES,
	COUNTED_PACKETS, /* IPv4 */
	COUNTED_L2_BYTES,
	ANNOUNCED,
	ANNOUNCEMENT_LOST, /* new_flow_events was full */
	SOURCE_TABLE_FULL, /* packets whose source found no room in seen_ips */
	PKT_COUNTERS,
};

BPF_PERCPU_ARRAY(pkt_count, u64, 16);
BPF_TABLE("hash", u32, u64, seen_ips, 131072);
BPF_RINGBUF_OUTPUT(new_flow_events, 64);
_Static_assert(PKT_COUNTERS <= 16, "pkt_count has room for every counter");

/* Per CPU, and a program is never interrupted by another run of it: no atomic needed. */
INLINE void count(u32 which, u64 amount)
{
	u64 *counter = pkt_count.lookup(&which);

	if (counter)
		*counter += amount;
}

/*
 * A source enters seen_ips only together with its announcement, so that a full
 * ring buffer delays the announcement and never swallows it.
 */
INLINE void first_packet(u32 source)
{
	u64 one = 1, *packets;
	u32 *event = new_flow_events.ringbuf_reserve(sizeof(*event));

	if (!event) {
		count(ANNOUNCEMENT_LOST, 1);
		return;
	}
	*event = source;
	if (!seen_ips.insert(&source, &one)) {
		new_flow_events.ringbuf_submit(event, 0);
		count(ANNOUNCED, 1);
		return;
	}
	new_flow_events.ringbuf_discard(event, 0);
	/* Another CPU was first, or there is no room. */
	packets = seen_ips.lookup(&source);
	if (packets)
		__sync_fetch_and_add(packets, 1);
	else
		count(SOURCE_TABLE_FULL, 1);
}

INLINE void count_source(u32 source)
{
	u64 *packets = seen_ips.lookup(&source);

	if (packets)
		__sync_fetch_and_add(packets, 1);
	else
		first_packet(source);
}

int xdp_counter(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct flow_key key = {};
	struct packet packet = {.length = full_length(ctx)};
	enum verdict verdict;

	count(SEEN_PACKETS, 1);
	count(SEEN_L2_BYTES, packet.length);
	if (PATCHED(PATCH_SAMPLING) > 1 &&
	    bpf_get_prandom_u32() % (u32)PATCHED(PATCH_SAMPLING) != 0) {
		count(SAMPLED_OUT_PACKETS, 1);
		count(SAMPLED_OUT_L2_BYTES, packet.length);
		return XDP_PASS;
	}
	verdict = parse_headers(data, end, &key, &packet);
	if (verdict == VERDICT_MALFORMED) {
		count(MALFORMED_PACKETS, 1);
		count(MALFORMED_L2_BYTES, packet.length);
	} else if (verdict == VERDICT_NON_IP || key.etype != ETHER_TYPE_IPV4) {
		count(NON_IP_PACKETS, 1);
		count(NON_IP_L2_BYTES, packet.length);
	} else {
		count(COUNTED_PACKETS, 1);
		count(COUNTED_L2_BYTES, packet.length);
		count_source(key.src_addr[3]);
	}
	return XDP_PASS;
}
