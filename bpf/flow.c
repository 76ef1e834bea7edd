/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * xdp_flow and tc_flow: turn packets into flow records.
 *
 * A packet that belongs to a flow of the active table is added to it. A new
 * flow is inserted and announced. When the table is full the packet travels
 * as a record of its own; when that ring buffer is full too, its packets and
 * octets are counted as lost. The programs only observe: always XDP_PASS, or the
 * next program of the TC hook.
 *
 * The active table is the inner map in the one slot of `active_table`. User
 * space puts an empty twin there; after the grace period that the kernel's
 * update waits for, nothing writes to the old table and it can be drained.
 */
#include "common.h"
#include "flow_record.h"
#include "parsing.h"
#include "skb.h"

struct flow_value {
	u64 packets;
	u64 bytes;
	u64 l2_bytes;
	u64 time_start_ns; /* CLOCK_BOOTTIME */
	u64 time_end_ns;
	u8 flag_seen[8]; /* one byte per TCP flag, lowest first: 0 or 1 */
	u8 src_mac[6];
	u8 dst_mac[6];
	u8 tcp_flags; /* hint: flags known to stand in flag_seen */
	u8 ip_tos;
	u8 ip_ttl;
	u8 pad;
};
_Static_assert(sizeof(struct flow_value) == 64, "one cache line, no hole");

/* Per CPU and attachment; they only grow. l2_bytes are frame octets. */
struct counters {
	u64 seen_packets;
	u64 seen_l2_bytes;
	u64 no_flow_packets[NO_FLOW_REASONS];
	u64 no_flow_l2_bytes[NO_FLOW_REASONS];
	u64 overflow_packets; /* sent as records of their own: the table was full */
	u64 overflow_l2_bytes;
	u64 overflow_lost_packets; /* the table and the ring buffer were full */
	u64 overflow_lost_l2_bytes;
	u64 announced;
	u64 announcement_lost;
	/* Not counters: this CPU's clock, see packet_time(). */
	u64 clock_ns;
	u64 clock_jiffies;
	u64 clock_uses;
};

/* Packets that share one reading of the clock at most. */
#define CLOCK_USES_MAX 16

/* Fill of the active table; user space resets it before each swap. */
struct table_fill {
	u64 inserts;
	u64 limit; /* inserts at which user space is woken to swap early */
	u64 woken;
};

/*
 * The build for captures (CAPTURE): user space puts time, length and interface of
 * a packet before it, as XDP metadata.
 */
struct capture_meta {
	u64 time_ns; /* Unix time */
	u32 length;  /* on the wire: the capture may have less */
	u32 if_index;
};

BPF_PERCPU_ARRAY(counters, struct counters, 1);
BPF_ARRAY(table_fill, struct table_fill, 1);
BPF_TABLE("hash", struct flow_key, struct flow_value, flow_table, 131072);
BPF_ARRAY_OF_MAPS(active_table, "flow_table", 1);
BPF_TABLE("lru_hash", struct flow_key, u8, seen_flows, 262144);
BPF_RINGBUF_OUTPUT(announcements, 256);
BPF_RINGBUF_OUTPUT(overflow, 4096);
BPF_RINGBUF_OUTPUT(wakeups, 1);

#ifdef LAYOUTS
/* Only for the generator: layouts of structs that are in no map. */
BPF_ARRAY(layout_flow_record, struct flow_record, 1);
BPF_ARRAY(layout_capture_meta, struct capture_meta, 1);
#endif

/* A ring-buffer record is unaligned. */
#define put16(field, value) (*(u16 *)&(field) = to_be16(value))
#define put32(field, value) (*(u32 *)&(field) = to_be32(value))
#define put64(field, value) (*(u64 *)&(field) = to_be64(value))

/*
 * Writes every byte of the record. Times are CLOCK_BOOTTIME; user space turns
 * them into Unix time and stamps agent_epoch, host_id, sampler_address, seq,
 * time_received_ns and if_name. An announcement carries no packets: they are
 * counted in the flow's own record.
 */
INLINE void fill_record(struct flow_record *record, u8 type, u8 end_reason,
			const struct flow_key *key, const struct flow_value *value)
{
	record->tag_array = TAG_ARRAY16;
	put16(record->array_fields, FLOW_RECORD_FIELDS);
	record->tag_record_type = TAG_U8;
	record->record_type = type;
	record->tag_schema_version = TAG_U8;
	record->schema_version = SCHEMA_VERSION;
	record->tag_agent_epoch = TAG_U64;
	put64(record->agent_epoch, 0);
	record->tag_host_id = TAG_BIN8;
	record->size_host_id = sizeof(record->host_id);
	__builtin_memset(record->host_id, 0, sizeof(record->host_id));
	record->tag_sampler_address = TAG_BIN8;
	record->size_sampler_address = sizeof(record->sampler_address);
	__builtin_memset(record->sampler_address, 0, sizeof(record->sampler_address));
	record->tag_seq = TAG_U64;
	put64(record->seq, 0);
	record->tag_time_received_ns = TAG_U64;
	put64(record->time_received_ns, 0);
	record->tag_time_flow_start_ns = TAG_U64;
	put64(record->time_flow_start_ns, value->time_start_ns);
	record->tag_time_flow_end_ns = TAG_U64;
	put64(record->time_flow_end_ns, value->time_end_ns);
	record->tag_etype = TAG_U16;
	put16(record->etype, key->etype);
	record->tag_proto = TAG_U8;
	record->proto = key->proto;
	record->tag_src_addr = TAG_BIN8;
	record->size_src_addr = sizeof(record->src_addr);
	record->tag_dst_addr = TAG_BIN8;
	record->size_dst_addr = sizeof(record->dst_addr);
#pragma unroll
	for (int i = 0; i < 4; i++) {
		*(u32 *)&record->src_addr[4 * i] = key->src_addr[i];
		*(u32 *)&record->dst_addr[4 * i] = key->dst_addr[i];
	}
	record->tag_src_net = TAG_U8;
	record->src_net = key->etype == ETHER_TYPE_IPV4 ? 32 : 128;
	record->tag_dst_net = TAG_U8;
	record->dst_net = record->src_net;
	record->tag_src_port = TAG_U16;
	put16(record->src_port, key->src_port);
	record->tag_dst_port = TAG_U16;
	put16(record->dst_port, key->dst_port);
	record->tag_icmp_type = TAG_U8;
	record->icmp_type = key->icmp_type;
	record->tag_icmp_code = TAG_U8;
	record->icmp_code = key->icmp_code;
	record->tag_tcp_flags = TAG_U8;
	record->tcp_flags = value->tcp_flags;
	record->tag_ip_tos = TAG_U8;
	record->ip_tos = value->ip_tos;
	record->tag_ip_ttl = TAG_U8;
	record->ip_ttl = value->ip_ttl;
	record->tag_vlan_id = TAG_U16;
	put16(record->vlan_id, key->vlan_id);
	record->tag_if_index = TAG_U32;
	put32(record->if_index, key->if_index);
	record->tag_if_name = TAG_STR15;
	__builtin_memset(record->if_name, 0, sizeof(record->if_name));
	record->tag_src_mac = TAG_BIN8;
	record->size_src_mac = sizeof(record->src_mac);
	record->tag_dst_mac = TAG_BIN8;
	record->size_dst_mac = sizeof(record->dst_mac);
#pragma unroll
	for (int i = 0; i < 6; i++) {
		record->src_mac[i] = value->src_mac[i];
		record->dst_mac[i] = value->dst_mac[i];
	}
	record->tag_packets = TAG_U64;
	record->tag_bytes = TAG_U64;
	record->tag_l2_bytes = TAG_U64;
	put64(record->packets, type == RECORD_FLOW ? value->packets : 0);
	put64(record->bytes, type == RECORD_FLOW ? value->bytes : 0);
	put64(record->l2_bytes, type == RECORD_FLOW ? value->l2_bytes : 0);
	record->tag_flow_count = TAG_U32;
	put32(record->flow_count, 1);
	record->tag_sampling_rate = TAG_U32;
	put32(record->sampling_rate, (u32)PATCHED(PATCH_SAMPLING));
	record->tag_end_reason = TAG_U8;
	record->end_reason = end_reason;
	record->tag_flow_direction = TAG_U8;
	record->flow_direction = key->flow_direction;
}

/*
 * Adds a packet to its flow. The sums are atomic, several CPUs may hold the
 * same flow. The flags are exact without an atomic: each has a byte that is
 * only ever set to 1, and a hint that lost a race only means that the bytes
 * are set once more. Smallest TTL and last time may lose a race to a packet
 * of the same instant.
 */
INLINE void add_packet(struct flow_value *flow, const struct flow_value *packet)
{
	u8 fresh = packet->tcp_flags & ~flow->tcp_flags;

	__sync_fetch_and_add(&flow->packets, packet->packets);
	__sync_fetch_and_add(&flow->bytes, packet->bytes);
	__sync_fetch_and_add(&flow->l2_bytes, packet->l2_bytes);
	if (packet->time_end_ns > flow->time_end_ns)
		flow->time_end_ns = packet->time_end_ns;
	if (packet->ip_ttl < flow->ip_ttl)
		flow->ip_ttl = packet->ip_ttl;
	if (unlikely(fresh)) {
#pragma unroll
		for (int i = 0; i < 8; i++)
			if (fresh & 1 << i)
				flow->flag_seen[i] = 1;
		flow->tcp_flags |= fresh;
	}
}

#ifdef CAPTURE
INLINE u64 exact_time(void *hook)
{
	struct xdp_md *ctx = hook;
	struct capture_meta *meta = (void *)(long)ctx->data_meta;

	return (void *)(meta + 1) <= (void *)(long)ctx->data ? meta->time_ns : 0;
}

INLINE u64 packet_time(void *hook, struct counters *count)
{
	(void)count;
	return exact_time(hook);
}

INLINE u64 packet_length(struct xdp_md *ctx)
{
	struct capture_meta *meta = (void *)(long)ctx->data_meta;

	return (void *)(meta + 1) <= (void *)(long)ctx->data ? meta->length : 0;
}

INLINE u32 interface_index(struct xdp_md *ctx)
{
	struct capture_meta *meta = (void *)(long)ctx->data_meta;

	return (void *)(meta + 1) <= (void *)(long)ctx->data ? meta->if_index : 0;
}
#else
INLINE u64 exact_time(void *hook)
{
	(void)hook;
	return bpf_ktime_get_boot_ns();
}

/*
 * CLOCK_BOOTTIME, early by at most one tick of the kernel and 16 packets of
 * this CPU: reading the clock costs as much as the hash lookup, jiffies cost
 * nothing. A CPU that gets less than a packet per tick reads it every time.
 */
INLINE u64 packet_time(void *hook, struct counters *count)
{
	u64 jiffies = bpf_jiffies64();

	if (count->clock_jiffies != jiffies || count->clock_uses >= CLOCK_USES_MAX) {
		count->clock_ns = exact_time(hook);
		count->clock_jiffies = jiffies;
		count->clock_uses = 0;
	}
	count->clock_uses += 1;
	return count->clock_ns;
}

INLINE u64 packet_length(struct xdp_md *ctx)
{
	return full_length(ctx);
}

INLINE u32 interface_index(struct xdp_md *ctx)
{
	(void)ctx;
	return (u32)PATCHED(PATCH_IF_INDEX);
}
#endif

/* Best effort: a flow is marked as seen only after its announcement found room. */
INLINE void announce(struct counters *count, struct flow_key *key, const struct flow_value *packet)
{
	struct flow_record *record;
	u8 seen = 1;

	if (seen_flows.lookup(key))
		return;
	record = announcements.ringbuf_reserve(sizeof(*record));
	if (!record) {
		count->announcement_lost += 1;
		return;
	}
	fill_record(record, RECORD_NEW_FLOW, END_NONE, key, packet);
	announcements.ringbuf_submit(record, 0);
	count->announced += 1;
	seen_flows.update(key, &seen);
}

/* Wakes user space once per swap when the table is about to be full. */
INLINE void note_insert(void)
{
	u32 zero = 0;
	struct table_fill *fill = table_fill.lookup(&zero);
	u64 *wakeup;

	if (!fill)
		return;
	__sync_fetch_and_add(&fill->inserts, 1);
	/* Two CPUs may both wake: harmless. */
	if (likely(fill->inserts < fill->limit || fill->woken))
		return;
	fill->woken = 1;
	wakeup = wakeups.ringbuf_reserve(sizeof(*wakeup));
	if (!wakeup)
		return;
	*wakeup = fill->inserts;
	wakeups.ringbuf_submit(wakeup, BPF_RB_FORCE_WAKEUP);
}

/* The table had no room: the packet travels as a record of its own. */
INLINE void overflow_packet(struct counters *count, const struct flow_key *key,
			    const struct flow_value *packet)
{
	struct flow_record *record = overflow.ringbuf_reserve(sizeof(*record));

	if (!record) {
		count->overflow_lost_packets += packet->packets;
		count->overflow_lost_l2_bytes += packet->l2_bytes;
		return;
	}
	fill_record(record, RECORD_FLOW, END_LACK_OF_RESOURCES, key, packet);
	overflow.ringbuf_submit(record, 0);
	count->overflow_packets += packet->packets;
	count->overflow_l2_bytes += packet->l2_bytes;
}

INLINE void count_no_flow(struct counters *count, enum no_flow_reason reason,
			  const struct packet *packet)
{
	count->no_flow_packets[reason] += packet->packets;
	count->no_flow_l2_bytes[reason] += packet->l2_bytes;
}

/* Counts a packet as seen. False: it is left out, and counted as that. */
INLINE bool admit(struct counters *count, const struct packet *packet, u32 reason)
{
	count->seen_packets += packet->packets;
	count->seen_l2_bytes += packet->l2_bytes;
	if (reason == NO_FLOW_REASONS)
		return true;
	count_no_flow(count, reason, packet);
	return false;
}

INLINE enum verdict read_packet(void *data, void *end, struct flow_key *key, struct packet *packet)
{
	enum verdict verdict = parse_headers(data, end, key, packet);

	if (verdict == VERDICT_FLOW)
		parse_transport(data, end, key, packet);
	return verdict;
}

/* Adds a packet that was read to its flow, or counts it as one without. */
INLINE void record_packet(void *hook, void *data, void *end, struct counters *count, void *table,
			  enum verdict verdict, struct flow_key *key, const struct packet *read)
{
	struct flow_value *flow, packet = {};
	struct eth_header *eth = data;

	if (verdict != VERDICT_FLOW) {
		count_no_flow(count, verdict == VERDICT_NON_IP ? NO_FLOW_NON_IP : NO_FLOW_MALFORMED,
			      read);
		return;
	}
	packet.packets = read->packets;
	packet.bytes = read->bytes;
	packet.l2_bytes = read->l2_bytes;
	packet.time_end_ns = packet_time(hook, count);
	packet.tcp_flags = read->tcp_flags;
	packet.ip_tos = read->ip_tos;
	packet.ip_ttl = read->ip_ttl;

	flow = bpf_map_lookup_elem(table, key);
	if (likely(flow)) {
		add_packet(flow, &packet);
		return;
	}

	/* A flow begins exactly. */
	packet.time_start_ns = packet.time_end_ns = exact_time(hook);
	if (!PATCHED(PATCH_RAW_IP)) {
		/* The verifier has forgotten the check in parse_ethernet(). */
		if ((void *)(eth + 1) > end)
			return;
		__builtin_memcpy(packet.src_mac, eth->src_mac, sizeof(packet.src_mac));
		__builtin_memcpy(packet.dst_mac, eth->dst_mac, sizeof(packet.dst_mac));
	}
#pragma unroll
	for (int i = 0; i < 8; i++)
		packet.flag_seen[i] = packet.tcp_flags >> i & 1;

	if (!bpf_map_update_elem(table, key, &packet, BPF_NOEXIST)) {
		note_insert();
	} else {
		/* Another CPU was first, or there is no room. */
		flow = bpf_map_lookup_elem(table, key);
		if (flow) {
			add_packet(flow, &packet);
			return;
		}
		overflow_packet(count, key, &packet);
	}
	announce(count, key, &packet);
}

int xdp_flow(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	u64 length = packet_length(ctx);
	struct packet packet = {
		.length = length, .packets = 1, .l2_bytes = length, .any_zero = ANY_ZERO(data)};
	struct flow_key key = {};
	struct counters *count;
	enum verdict verdict;
	void *table;
	u32 zero = 0;

	/* This CPU's own counters, and a program is never interrupted by another run of it. */
	count = counters.lookup(&zero);
	table = active_table.lookup(&zero);
	if (!count || !table)
		return XDP_PASS;
	if (!admit(count, &packet, left_out(filter(data, end, length, 0))))
		return XDP_PASS;

	/* Read anew: the verifier forgets what the filter has compared them with. */
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	key.if_index = interface_index(ctx);
	key.flow_direction = (u8)PATCHED(PATCH_DIRECTION);
	verdict = read_packet(data, end, &key, &packet);
	record_packet(ctx, data, end, count, table, verdict, &key, &packet);
	return XDP_PASS;
}

#ifndef CAPTURE
int tc_flow(struct __sk_buff *skb)
{
	u64 tag = tag_of(skb);
	struct packet packet;
	struct flow_key key;
	struct counters *count;
	enum verdict verdict;
	void *table, *data, *end;
	u32 reason, zero = 0;

	show_link_header(skb);
	reason = left_out(ask_filter(skb, tag));
	count = counters.lookup(&zero);
	table = active_table.lookup(&zero);
	if (!count || !table)
		return TC_NEXT;
	verdict = read_skb(skb, tag, reason, true, &key, &packet);
	if (!admit(count, &packet, reason))
		return TC_NEXT;
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	record_packet(skb, data, end, count, table, verdict, &key, &packet);
	return TC_NEXT;
}
#endif
