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
#define JUMBO_HEADER_LEN 8  /* RFC 2675, as an only option */
#define GSO_BY_FRAGS 0xffff /* linux/skbuff.h: segments are not of one size */

/* Headers are read again at most once, after the kernel has made them readable. */
#define READINGS 2
/* Octets that are made readable: for IPv4, and where extension headers or a filter need more. */
#define PULL_IPV4 160
#define PULL_MAX 16384

/* What the filter is told of a VLAN tag in metadata. */
INLINE u64 tag_of(struct __sk_buff *skb)
{
	if (!skb->vlan_present)
		return 0;
	return FILTER_TAG | (u32)from_be16((u16)skb->vlan_proto) << 16 | (u16)skb->vlan_tci;
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
 * The filter's answer, once what it needs of the packet is readable. It comes
 * before anything else is read: the verifier goes through the filter for each
 * state that it has before the call.
 */
INLINE u64 ask_filter(struct __sk_buff *skb, u64 tag)
{
	u64 length = (u64)skb->len + (tag ? VLAN_TAG_LEN : 0);
	void *data = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;
	u64 answer = filter(data, end, length, tag);

	if (likely(answer != FILTER_CUT) || !pull(skb, PULL_MAX))
		return answer;
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	return filter(data, end, length, tag);
}

/* Octets of the headers that every segment gets, 0: not known. */
INLINE u32 segment_headers(const struct flow_key *key, const struct packet *packet)
{
	if (!packet->transport)
		return 0;
	switch (key->proto) {
	case PROTO_TCP:
		return packet->tcp_offset ? packet->transport + (packet->tcp_offset >> 4) * 4 : 0;
	case PROTO_UDP:
		return packet->transport + UDP_HEADER_LEN;
	case PROTO_SCTP:
		return packet->transport + SCTP_HEADER_LEN;
	}
	return 0;
}

/*
 * Sets packets, bytes and l2_bytes as they are on the wire, where there are
 * segments that the kernel still has to cut or has joined.
 */
INLINE void wire_size(struct __sk_buff *skb, const struct flow_key *key, struct packet *packet)
{
	u32 link = packet->network + (packet->tagged ? VLAN_TAG_LEN : 0);
	u32 tag = packet->tagged ? VLAN_TAG_LEN : 0;
	u32 size = skb->gso_size, headers, payload;

	packet->packets = 1;
	packet->l2_bytes = packet->length + tag;
	if (likely(!size))
		return;
	headers = segment_headers(key, packet);
	payload = packet->length - headers;
	packet->packets = skb->gso_segs ? skb->gso_segs : 1;
	if (headers && size != GSO_BY_FRAGS && payload <= packet->length)
		packet->packets = (payload + size - 1) / size;
	packet->l2_bytes = packet->length + (packet->packets - 1) * headers + packet->packets * tag;
	packet->bytes = packet->l2_bytes - packet->packets * link;
}

#endif
