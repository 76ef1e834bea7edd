/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * count_ipv4 and tc_counter: count packets, and packets per IPv4 source;
 * announce each source when it is first seen. Cheap: no flow records. Packets
 * go on: XDP_PASS, or the next program of the TC hook.
 */
#include "common.h"
#include "parsing.h"
#include "skb.h"

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
	FILTERED_OUT_PACKETS,
	FILTERED_OUT_L2_BYTES,
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
INLINE void first_packet(u32 source, u64 amount)
{
	u64 *packets;
	u32 *event = new_flow_events.ringbuf_reserve(sizeof(*event));

	if (!event) {
		count(ANNOUNCEMENT_LOST, 1);
		return;
	}
	*event = source;
	if (!seen_ips.insert(&source, &amount)) {
		new_flow_events.ringbuf_submit(event, 0);
		count(ANNOUNCED, 1);
		return;
	}
	new_flow_events.ringbuf_discard(event, 0);
	/* Another CPU was first, or there is no room. */
	packets = seen_ips.lookup(&source);
	if (packets)
		__sync_fetch_and_add(packets, amount);
	else
		count(SOURCE_TABLE_FULL, amount);
}

INLINE void count_source(u32 source, u64 amount)
{
	u64 *packets = seen_ips.lookup(&source);

	if (packets)
		__sync_fetch_and_add(packets, amount);
	else
		first_packet(source, amount);
}

/* `which` is the counter of packets; that of octets follows it. */
INLINE void count_packet(u32 which, const struct packet *packet)
{
	count(which, packet->packets);
	count(which + 1, packet->l2_bytes);
}

/* Counts a packet as seen. False: it is left out, and counted as that. */
INLINE bool admit(const struct packet *packet, u32 reason)
{
	count_packet(SEEN_PACKETS, packet);
	if (reason == NO_FLOW_REASONS)
		return true;
	count_packet(reason == NO_FLOW_SAMPLED_OUT ? SAMPLED_OUT_PACKETS : FILTERED_OUT_PACKETS,
		     packet);
	return false;
}

INLINE void count_verdict(enum verdict verdict, const struct flow_key *key,
			  const struct packet *packet)
{
	if (verdict == VERDICT_MALFORMED) {
		count_packet(MALFORMED_PACKETS, packet);
	} else if (verdict == VERDICT_NON_IP || key->etype != ETHER_TYPE_IPV4) {
		count_packet(NON_IP_PACKETS, packet);
	} else {
		count_packet(COUNTED_PACKETS, packet);
		count_source(key->src_addr[3], packet->packets);
	}
}

int count_ipv4(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	u64 length = full_length(ctx);
	struct packet packet = {
		.length = length, .packets = 1, .l2_bytes = length, .any_zero = ANY_ZERO(data)};
	struct flow_key key = {};

	if (admit(&packet, left_out(filter(data, end, length, 0))))
		count_verdict(parse_headers(data, end, &key, &packet), &key, &packet);
	return XDP_PASS;
}

int tc_counter(struct __sk_buff *skb)
{
	u64 tag = tag_of(skb);
	struct packet packet;
	struct flow_key key;
	enum verdict verdict;
	u32 reason;

	show_link_header(skb);
	reason = left_out(ask_filter(skb, tag));
	verdict = read_skb(skb, tag, reason, false, &key, &packet);
	if (admit(&packet, reason))
		count_verdict(verdict, &key, &packet);
	return TC_NEXT;
}
