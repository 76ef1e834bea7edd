/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The TC hook: packets as socket buffers (struct sk_buff), before the kernel has
 * cut them into segments or after it has joined them (docs/records.md).
 */
#ifndef SKB_H
#define SKB_H

#include "common.h"
#include "parsing.h"

/*
 * TC_ACT_UNSPEC and TCX_NEXT, linux/pkt_cls.h and linux/bpf.h: the next program
 * or filter decides.
 */
#define TC_NEXT (-1)

#define VLAN_TAG_LEN 4
#define UDP_HEADER_LEN 8
#define SCTP_HEADER_LEN 12
#define OPTION_JUMBO 0xc2         /* RFC 2675, section 2 */
#define GSO_LEGACY_MAX_SIZE 65536 /* linux/netdevice.h */

/* UDP ports of tunnels: IANA, and Linux's own (drivers/net/vxlan/vxlan_core.c). */
enum tunnel_port {
	PORT_VXLAN = 4789,
	PORT_GENEVE = 6081,
	PORT_VXLAN_LINUX = 8472,
};

/* A hop-by-hop header that has the jumbo payload option alone. */
struct ipv6_jumbo {
	u8 next_header;
	u8 length;
	u8 option;
	u8 option_length;
	u32 payload_length;
};

/* Headers are read again at most once, after the kernel has made them readable. */
#define READINGS 2
/* Octets that are made readable: for IPv4, and where extension headers or a filter need more. */
#define PULL_IPV4 160
#define PULL_MAX 16460 /* OFFSET_MASK: the last header to read, and 14 octets of it */

/* What the filter is told of a VLAN tag in metadata. */
INLINE u64 tag_of(struct __sk_buff *skb)
{
	u64 tag = FILTER_TAG | (u32)from_be16((u16)skb->vlan_proto) << 16 | (u16)skb->vlan_tci;

	return FORGOTTEN(skb->vlan_present ? tag : 0, ANY_ZERO((long)skb->data));
}

/*
 * Puts a link-layer header back that is in the buffer, but hidden. Where a program of
 * generic XDP ran before, from Linux 6.9 on the packet may be a copy that lacks
 * the header's length (skb_pp_cow_data(), net/core/skbuff.c), so that it begins
 * with the network header here. Nothing but that length changes.
 */
INLINE void show_link_header(struct __sk_buff *skb)
{
	struct eth_header header, *found = (void *)(long)skb->data;
	u32 *there = (u32 *)&header, *here = (u32 *)found;
	/* Else the packet is shorter than the header that is hidden. */
	bool whole = (void *)(found + 1) <= (void *)(long)skb->data_end;
	u8 version;

	if (PATCHED(PATCH_RAW_IP) || PATCHED(PATCH_DIRECTION))
		return;
	if (whole) {
		version = found->dst_mac[0] >> 4;
		if (likely(found->etype == (u16)skb->protocol && version != 4 && version != 6))
			return;
	}
	/* An address may look like the beginning of an IP header, and a type may be a length. */
	if (bpf_skb_load_bytes_relative(skb, 0, &header, sizeof(header), BPF_HDR_START_MAC))
		return;
	if (whole && there[0] == here[0] && there[1] == here[1] && there[2] == here[2])
		return;
	if (!bpf_skb_change_head(skb, sizeof(header), 0))
		bpf_skb_store_bytes(skb, 0, &header, sizeof(header), 0);
}

/* Makes more of the packet readable; pointers into it are no longer valid. */
INLINE bool pull(struct __sk_buff *skb, u32 octets)
{
	u32 readable = skb->data_end - skb->data;

	if (readable >= skb->len || readable >= octets)
		return false;
	return !bpf_skb_pull_data(skb, skb->len < octets ? skb->len : octets);
}

/*
 * Whether an IPv6 packet has the hop-by-hop header that the kernel gives to those
 * of more than 64 KiB in memory (BIG TCP), and takes off before the wire:
 * ip6_xmit(), ipv6_gro_complete(), ipv6_hopopt_jumbo_remove(). Before other
 * protocols than TCP such a header stays: ipv6_has_hopopt_jumbo().
 */
INLINE bool has_jumbo(const struct ipv6_header *ip, const struct ipv6_jumbo *jumbo)
{
	return !ip->payload_length && ip->next_header == PROTO_HOPOPTS && !jumbo->length &&
	       jumbo->option == OPTION_JUMBO && jumbo->option_length == 4 &&
	       jumbo->next_header == PROTO_TCP;
}

/* Headers of an Ethernet frame of such a packet. */
struct big_headers {
	struct eth_header eth;
	struct ipv6_header ip;
	struct ipv6_jumbo jumbo;
} __attribute__((packed));

/*
 * Shows the filter such a frame as it is on the wire: moves what is before that
 * header over it. Returns by how many octets; unhide_jumbo() undoes it.
 */
INLINE u32 hide_jumbo(struct __sk_buff *skb, struct big_headers *big)
{
	const u32 hidden = sizeof(big->jumbo);

	if (!PATCHED(PATCH_HAS_FILTER) || likely(skb->len <= GSO_LEGACY_MAX_SIZE) ||
	    !skb->gso_size || PATCHED(PATCH_RAW_IP) || skb->protocol != to_be16(ETHER_TYPE_IPV6))
		return 0;
	if (bpf_skb_load_bytes(skb, 0, big, sizeof(*big)) || !has_jumbo(&big->ip, &big->jumbo))
		return 0;
	big->ip.next_header = big->jumbo.next_header;
	if (bpf_skb_store_bytes(skb, hidden, big, sizeof(*big) - hidden, 0))
		return 0;
	return hidden;
}

INLINE void unhide_jumbo(struct __sk_buff *skb, struct big_headers *big)
{
	big->ip.next_header = PROTO_HOPOPTS;
	bpf_skb_store_bytes(skb, 0, big, sizeof(*big), 0);
}

/*
 * The filter's answer, once what it needs of the packet is readable. It comes
 * before anything else is read: the verifier goes through the filter for each
 * state that it has before the call.
 */
INLINE u64 ask_filter(struct __sk_buff *skb, u64 tag)
{
	struct big_headers big;
	u32 hidden = FORGOTTEN(hide_jumbo(skb, &big), ANY_ZERO((long)skb->data)) &
		     sizeof(struct ipv6_jumbo);
	u64 length = skb->len - hidden + (tag >> FILTER_TAG_BIT) * VLAN_TAG_LEN;
	void *data = (void *)(long)skb->data + hidden;
	void *end = (void *)(long)skb->data_end;
	u64 answer = filter(data, end, length, tag);

	if (unlikely(answer == FILTER_CUT) && pull(skb, PULL_MAX)) {
		data = (void *)(long)skb->data + hidden;
		end = (void *)(long)skb->data_end;
		answer = filter(data, end, length, tag);
	}
	if (unlikely(hidden))
		unhide_jumbo(skb, &big);
	return answer;
}

/*
 * Segments. A packet of gso_size octets or more behind its headers stands for
 * several: the kernel or the device cuts it after the TC hook of egress, or
 * GRO has joined it before that of ingress. Each has all the headers. Sources:
 * tcp_gso_segment(), __udp_gso_segment(), sctp_gso_segment(), skb_segment() and
 * the gro_complete() functions beside them; virtio_net_hdr_to_skb() for packets
 * of guests, whose gso_segs is 0 (SKB_GSO_DODGY).
 */

/* Offset of what follows the inner transport header, 0: not known. */
INLINE u32 inner_headers(void *data, void *end, u16 etype, u32 offset)
{
	struct ipv4_header *ipv4 = data + offset;
	struct ipv6_header *ipv6 = data + offset;
	u8 proto, *head;

	if (etype == to_be16(ETHER_TYPE_IPV4)) {
		if ((void *)(ipv4 + 1) > end)
			return 0;
		proto = ipv4->proto;
		offset += (ipv4->version_ihl & 0x0f) * 4;
	} else if (etype == to_be16(ETHER_TYPE_IPV6)) {
		if ((void *)(ipv6 + 1) > end)
			return 0;
		proto = ipv6->next_header;
		offset += sizeof(*ipv6);
	} else {
		return 0;
	}
	head = data + offset;
	if (proto == PROTO_UDP)
		return offset + UDP_HEADER_LEN;
	if (proto != PROTO_TCP || (void *)(head + 13) > end)
		return 0;
	return offset + (head[12] >> 4) * 4;
}

/* The same for a tunnel: the inner packet is what is cut. 0: none, or not known. */
INLINE u32 tunnel_headers(void *data, void *end, const struct flow_key *key,
			  const struct packet *packet)
{
	u32 offset = packet->transport & OFFSET_MASK;
	u8 *head = data + offset;
	struct eth_header *eth;
	u16 etype;

	switch (key->proto) {
	case PROTO_IPV4:
		etype = to_be16(ETHER_TYPE_IPV4);
		break;
	case PROTO_IPV6:
		etype = to_be16(ETHER_TYPE_IPV6);
		break;
	case PROTO_GRE: /* RFC 2784, RFC 2890 */
		if ((void *)(head + 4) > end)
			return 0;
		etype = *(u16 *)(head + 2);
		offset += 4 + (head[0] >> 7) * 4 + (head[0] >> 5 & 1) * 4 + (head[0] >> 4 & 1) * 4;
		break;
	case PROTO_UDP:
		if ((void *)(head + 16) > end)
			return 0;
		offset += 16;
		etype = to_be16(ETHER_TYPE_BRIDGED);
		if (key->dst_port == PORT_GENEVE) { /* RFC 8926 */
			offset += (head[8] & 0x3f) * 4;
			etype = *(u16 *)(head + 10);
		} else if (key->dst_port != PORT_VXLAN && key->dst_port != PORT_VXLAN_LINUX) {
			return 0;
		}
		break;
	default:
		return 0;
	}
	if (etype == to_be16(ETHER_TYPE_BRIDGED)) {
		eth = data + offset;
		if ((void *)(eth + 1) > end)
			return 0;
		etype = eth->etype;
		offset += sizeof(*eth);
	}
	return inner_headers(data, end, etype, offset);
}

/*
 * Octets of the outer headers, which each segment has: at least that of the link
 * layer. Whoever writes to a tap device or an AF_PACKET socket may ask for segments of
 * a packet that has none, such as a later fragment: its sums stay plausible, too.
 */
INLINE u32 outer_headers(const struct flow_key *key, const struct packet *packet)
{
	if (!packet->transport)
		return packet->network;
	switch (key->proto) {
	case PROTO_TCP:
		return packet->transport + (packet->tcp_offset >> 4) * 4;
	case PROTO_UDP:
		return packet->transport + UDP_HEADER_LEN;
	case PROTO_SCTP:
		return packet->transport + SCTP_HEADER_LEN;
	}
	return packet->transport;
}

/* Octets of the hop-by-hop header that a packet of BIG TCP has in memory alone. */
INLINE u32 jumbo_header(void *data, void *end, const struct flow_key *key,
			const struct packet *packet)
{
	struct ipv6_header *ip = data + (packet->network & LINK_MASK);
	struct ipv6_jumbo *jumbo = (void *)(ip + 1);

	if (key->etype != ETHER_TYPE_IPV6 || (void *)(jumbo + 1) > end)
		return 0;
	return has_jumbo(ip, jumbo) ? sizeof(*jumbo) : 0;
}

/* How many segments have `headers` octets of headers, if each has `size` behind them. */
INLINE u32 segments(u32 length, u32 headers, u32 size)
{
	return length > headers ? (length - headers + size - 1) / size : 1;
}

/* Sets packets, bytes and l2_bytes of a packet that has segments. */
INLINE void segment_size(struct __sk_buff *skb, void *data, void *end, const struct flow_key *key,
			 struct packet *packet)
{
	u32 jumbo = jumbo_header(data, end, key, packet);
	u32 length = packet->length - jumbo;
	u32 size = skb->gso_size, count = skb->gso_segs;
	u32 headers = outer_headers(key, packet), inner, tag;

	inner = tunnel_headers(data, end, key, packet);
	/* A port does not make a tunnel: its segments must be as many as the kernel has. */
	if (inner && (!count || segments(length, inner, size) == count))
		headers = inner;
	/* On egress the kernel knows tunnels of all kinds: qdisc_pkt_len_init(). */
	if (PATCHED(PATCH_DIRECTION) && count > 1 && key->proto != PROTO_TCP &&
	    skb->wire_len > skb->len + (count - 1) * headers)
		headers = (skb->wire_len - skb->len) / (count - 1);
	headers -= jumbo;
	/* SCTP's segments are not of one size (GSO_BY_FRAGS), an unknown tunnel's not known. */
	packet->packets =
		count && key->proto != PROTO_TCP ? count : segments(length, headers, size);
	tag = packet->tagged * VLAN_TAG_LEN;
	packet->l2_bytes = length + (packet->packets - 1) * headers + packet->packets * tag;
	packet->bytes = packet->l2_bytes - packet->packets * (packet->network + tag);
}

/* Makes the verifier forget how a packet was read: it verifies once what follows. */
INLINE enum verdict forget(enum verdict verdict, struct packet *packet)
{
	packet->cut = FORGOTTEN(packet->cut, packet->any_zero);
	packet->network = FORGOTTEN(packet->network, packet->any_zero);
	packet->transport = FORGOTTEN(packet->transport, packet->any_zero);
	packet->tcp_offset = FORGOTTEN(packet->tcp_offset, packet->any_zero);
	return FORGOTTEN(verdict, packet->any_zero);
}

/*
 * Reads a packet's headers, and sets packets, bytes and l2_bytes as they are on
 * the wire. `key` has if_index and flow_direction afterwards, and what was read;
 * the transport header is left out unless it is asked for or tells the segments.
 * A packet that is left out is read only where that is needed to count it.
 */
INLINE enum verdict read_skb(struct __sk_buff *skb, u64 tag, u32 reason, bool transport,
			     struct flow_key *key, struct packet *packet)
{
	u64 tagged = tag >> FILTER_TAG_BIT;
	enum verdict verdict;
	void *data, *end;

	if (reason != NO_FLOW_REASONS && !skb->gso_size) {
		packet->packets = 1;
		packet->l2_bytes = skb->len + tagged * VLAN_TAG_LEN;
		return VERDICT_NON_IP;
	}
#pragma clang loop unroll(disable)
	for (int reading = 0; reading < READINGS; reading++) {
		data = (void *)(long)skb->data;
		end = (void *)(long)skb->data_end;
		__builtin_memset(packet, 0, sizeof(*packet));
		packet->any_zero = ANY_ZERO(data);
		clear_key(key, packet->any_zero);
		key->vlan_id = (u16)tag & VLAN_VID_MASK;
		packet->length = skb->len;
		packet->tagged = tagged;
		verdict = parse_headers(data, end, key, packet);
		if (verdict == VERDICT_FLOW && (transport || skb->gso_size))
			parse_transport(data, end, key, packet);
		verdict = forget(verdict, packet);
		if (likely(!packet->cut))
			break;
		if (!pull(skb, key->etype != ETHER_TYPE_IPV4 ? PULL_MAX : PULL_IPV4))
			break;
	}
	key->if_index = (u32)PATCHED(PATCH_IF_INDEX);
	key->flow_direction = (u8)PATCHED(PATCH_DIRECTION);
	packet->packets = 1;
	packet->l2_bytes = packet->length + tagged * VLAN_TAG_LEN;
	if (unlikely(skb->gso_size)) {
		/* A pull that failed has made the pointers invalid, too. */
		data = (void *)(long)skb->data;
		end = (void *)(long)skb->data_end;
		segment_size(skb, data, end, key, packet);
	}
	return verdict;
}

#endif
