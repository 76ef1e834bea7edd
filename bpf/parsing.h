/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Parsing of a packet (docs/records.md). A header's place is its offset from
 * `data`; each function checks that a field ends before `end` right before it
 * reads it. No map is touched here.
 *
 * Every interface has a load of its own, so verifying must be cheap. The
 * verifier follows each path, unless it has been at the same place with the
 * same knowledge before. So where paths meet it is made to forget how a packet
 * got there: FORGOTTEN(), offset_of(), and the read of `proto` in
 * parse_transport(). tests/test_kernel_verifier.py has what that amounts to.
 */
#ifndef PARSING_H
#define PARSING_H

#include "common.h"

/* EtherTypes (IEEE 802 Numbers, IANA). */
enum ether_type {
	ETHER_TYPE_IPV4 = 0x0800,
	ETHER_TYPE_BRIDGED = 0x6558, /* Ethernet in a tunnel (RFC 1701) */
	ETHER_TYPE_VLAN = 0x8100,    /* 802.1Q */
	ETHER_TYPE_IPV6 = 0x86dd,
	ETHER_TYPE_SERVICE_VLAN = 0x88a8, /* 802.1ad */
};

#define VLAN_TAGS_MAX 2
#define VLAN_VID_MASK 0x0fff
#define IPV4_OFFSET_MASK to_be16(0x1fff) /* RFC 791: fragment offset */
#define IPV6_OFFSET_MASK to_be16(0xfff8) /* RFC 8200, section 4.5 */
#define IPV6_EXT_MAX 8
#define IPV6_HEADER_LEN 40
#define LINK_MASK 0x1f     /* the IP header begins within 22 octets */
#define OFFSET_MASK 0x7fff /* the last header to read begins within 16,446 octets */

/* IANA protocol numbers. */
enum ip_protocol {
	PROTO_HOPOPTS = 0,
	PROTO_ICMP = 1,
	PROTO_IPV4 = 4, /* in IP */
	PROTO_TCP = 6,
	PROTO_UDP = 17,
	PROTO_DCCP = 33,
	PROTO_IPV6 = 41, /* in IP */
	PROTO_ROUTING = 43,
	PROTO_FRAGMENT = 44,
	PROTO_GRE = 47,
	PROTO_AH = 51,
	PROTO_ICMPV6 = 58,
	PROTO_DSTOPTS = 60,
	PROTO_SCTP = 132,
	PROTO_MOBILITY = 135,
	PROTO_UDPLITE = 136,
	PROTO_HIP = 139,
	PROTO_SHIM6 = 140,
};

struct eth_header {
	u8 dst_mac[6];
	u8 src_mac[6];
	u16 etype;
} __attribute__((packed));
_Static_assert(sizeof(struct eth_header) == 14, "IEEE 802.3");

struct vlan_tag {
	u16 tci;
	u16 etype;
};
_Static_assert(sizeof(struct vlan_tag) == 4, "IEEE 802.1Q");

struct ipv4_header {
	u8 version_ihl;
	u8 tos;
	u16 total_length;
	u16 id;
	u16 fragment;
	u8 ttl;
	u8 proto;
	u16 checksum;
	u32 src_addr;
	u32 dst_addr;
};
_Static_assert(sizeof(struct ipv4_header) == 20, "RFC 791");

struct ipv6_header {
	u8 version_class; /* version, high half of the traffic class */
	u8 class_label;   /* low half of the traffic class, flow label */
	u16 flow_label;
	u16 payload_length;
	u8 next_header;
	u8 hop_limit;
	u32 src_addr[4];
	u32 dst_addr[4];
};
_Static_assert(sizeof(struct ipv6_header) == IPV6_HEADER_LEN, "RFC 8200");

struct ipv6_extension {
	u8 next_header;
	u8 length;
	u16 fragment; /* fragment header only */
};

/* Key of a flow. Ports, VLAN and EtherType are in host order. */
struct flow_key {
	u32 src_addr[4];
	u32 dst_addr[4];
	u32 if_index;
	u16 src_port;
	u16 dst_port;
	u16 vlan_id;
	u16 etype; /* keeps IPv4 apart from IPv6 that carries v4-mapped addresses */
	u8 proto;
	u8 icmp_type;
	u8 icmp_code;
	u8 flow_direction;
};
_Static_assert(sizeof(struct flow_key) == 48, "no hole: the key is hashed as bytes");

/* Sets the key to 0 unknown to the verifier: to it, fields never set are like those that were. */
INLINE void clear_key(struct flow_key *key, u64 any_zero)
{
	u64 *words = (u64 *)key;

#pragma unroll
	for (int i = 0; i < sizeof(*key) / sizeof(*words); i++)
		words[i] = any_zero;
}

/* What is read beside the key. */
struct packet {
	u64 length;    /* octets of the whole packet; set by the caller */
	u64 packets;   /* on the wire, of which there may be several: see skb.h */
	u64 bytes;     /* IP octets of all of them, see ip_octets() */
	u64 l2_bytes;  /* frame octets of all of them */
	u64 any_zero;  /* see ANY_ZERO(); set by the caller */
	u32 network;   /* offset of the IP header */
	u32 transport; /* offset of the transport header, 0: none */
	u8 tagged;     /* the outer VLAN tag is in metadata; set by the caller */
	bool cut;      /* a header ends behind the octets that can be read */
	u8 ip_tos;
	u8 ip_ttl;
	u8 tcp_flags;
	u8 tcp_offset; /* octet 12 of the TCP header: its length in the high half */
};

/* Why a packet is in no flow record. docs/records.md: no_flow. */
enum no_flow_reason {
	NO_FLOW_NON_IP,
	NO_FLOW_MALFORMED,
	NO_FLOW_SAMPLED_OUT,
	NO_FLOW_COUNTED, /* by the counter programs, which make no flow records */
	NO_FLOW_FILTERED_OUT,
	NO_FLOW_REASONS,
};

/* Whether a packet belongs to a flow. */
enum verdict {
	VERDICT_FLOW,
	VERDICT_NON_IP,
	VERDICT_MALFORMED,
};

/* Why a packet is left out, unread; NO_FLOW_REASONS: it is not. The filter decides first. */
INLINE u32 left_out(u64 answer)
{
	if (answer != FILTER_ACCEPT)
		return NO_FLOW_FILTERED_OUT;
	if (PATCHED(PATCH_SAMPLING) > 1 &&
	    bpf_get_prandom_u32() % (u32)PATCHED(PATCH_SAMPLING) != 0)
		return NO_FLOW_SAMPLED_OUT;
	return NO_FLOW_REASONS;
}

/* Whether `pos` is behind the octets that can be read; notes that a header is cut. */
INLINE bool cut(struct packet *packet, void *pos, void *end)
{
	if (pos <= end)
		return false;
	packet->cut = true;
	return true;
}

/*
 * IP octets of the packet. The header's length is 0 for a segment that has not
 * been cut yet (TSO in generic mode, BIG TCP) and for jumbograms (RFC 2675):
 * then all octets behind the link-layer header count.
 */
INLINE u64 ip_octets(u32 in_header, const struct packet *packet)
{
	return in_header ? in_header : packet->length - packet->network;
}

/* IPv4 addresses are kept v4-mapped (RFC 4291, section 2.5.5.2). */
INLINE void map_ipv4(u32 *addr, u32 ipv4)
{
	addr[0] = 0;
	addr[1] = 0;
	addr[2] = to_be32(0x0000ffff);
	addr[3] = ipv4;
}

INLINE enum verdict parse_ipv4(void *data, void *end, struct flow_key *key, struct packet *packet)
{
	struct ipv4_header *ip = data + packet->network;
	u32 header_len;

	if (cut(packet, ip + 1, end) || ip->version_ihl >> 4 != 4)
		return VERDICT_MALFORMED;
	header_len = (ip->version_ihl & 0x0f) * 4;
	if (header_len < sizeof(*ip) || cut(packet, (void *)ip + header_len, end))
		return VERDICT_MALFORMED;

	map_ipv4(key->src_addr, ip->src_addr);
	map_ipv4(key->dst_addr, ip->dst_addr);
	key->proto = ip->proto;
	key->etype = ETHER_TYPE_IPV4;
	packet->bytes = ip_octets(from_be16(ip->total_length), packet);
	packet->ip_tos = ip->tos;
	packet->ip_ttl = ip->ttl;
	/* Fragments past the first have no transport header. */
	if (!(ip->fragment & IPV4_OFFSET_MASK))
		packet->transport = packet->network + header_len;
	return VERDICT_FLOW;
}

INLINE bool is_extension(u8 proto)
{
	switch (proto) {
	case PROTO_HOPOPTS:
	case PROTO_ROUTING:
	case PROTO_FRAGMENT:
	case PROTO_AH:
	case PROTO_DSTOPTS:
	case PROTO_MOBILITY:
	case PROTO_HIP:
	case PROTO_SHIM6:
		return true;
	}
	return false;
}

INLINE u32 extension_length(u8 proto, u8 length)
{
	if (proto == PROTO_FRAGMENT)
		return 8; /* RFC 8200, section 4.5: the byte is reserved */
	if (proto == PROTO_AH)
		return (length + 2) * 4; /* RFC 4302, section 2.2 */
	return (length + 1) * 8;
}

/* To the verifier, the difference of two pointers is any number. */
INLINE u32 offset_of(void *pos, void *data)
{
	return (pos - data) & OFFSET_MASK;
}

/* Moves `transport` behind the extension headers, and sets the protocol that follows them. */
INLINE void skip_extensions(void *data, void *end, struct flow_key *key, struct packet *packet)
{
	u32 offset = packet->transport;
	u8 proto = key->proto;

#pragma unroll
	for (int i = 0; i < IPV6_EXT_MAX; i++) {
		struct ipv6_extension *ext = data + offset;
		u32 length;

		if (!is_extension(proto))
			break;
		if (cut(packet, ext + 1, end))
			break;
		length = extension_length(proto, ext->length);
		if (cut(packet, (void *)ext + length, end))
			break;
		if (proto == PROTO_FRAGMENT && ext->fragment & IPV6_OFFSET_MASK) {
			key->proto = ext->next_header;
			packet->transport = 0;
			return;
		}
		proto = ext->next_header;
		offset = offset_of((void *)ext + length, data);
	}
	key->proto = proto;
	packet->transport = offset;
}

INLINE enum verdict parse_ipv6(void *data, void *end, struct flow_key *key, struct packet *packet)
{
	struct ipv6_header *ip = data + packet->network;

	if (cut(packet, ip + 1, end) || ip->version_class >> 4 != 6)
		return VERDICT_MALFORMED;

	__builtin_memcpy(key->src_addr, ip->src_addr, sizeof(key->src_addr));
	__builtin_memcpy(key->dst_addr, ip->dst_addr, sizeof(key->dst_addr));
	key->proto = ip->next_header;
	key->etype = ETHER_TYPE_IPV6;
	packet->bytes = ip_octets(
		ip->payload_length ? IPV6_HEADER_LEN + from_be16(ip->payload_length) : 0, packet);
	packet->ip_tos = ip->version_class << 4 | ip->class_label >> 4;
	packet->ip_ttl = ip->hop_limit;
	packet->transport = packet->network + sizeof(*ip);
	if (unlikely(is_extension(key->proto)))
		skip_extensions(data, end, key, packet);
	return VERDICT_FLOW;
}

/* Sets `network`, and the EtherType, in network order, of what is there. */
INLINE enum verdict parse_ethernet(void *data, void *end, struct flow_key *key,
				   struct packet *packet, u16 *etype)
{
	struct eth_header *eth = data;

	if (cut(packet, eth + 1, end))
		return VERDICT_MALFORMED;
	packet->network = sizeof(*eth);
	*etype = eth->etype;
#pragma unroll
	for (int i = 0; i < VLAN_TAGS_MAX; i++) {
		struct vlan_tag *tag =
			data + (FORGOTTEN(packet->network, packet->any_zero) & LINK_MASK);

		if (*etype != to_be16(ETHER_TYPE_VLAN) &&
		    *etype != to_be16(ETHER_TYPE_SERVICE_VLAN))
			break;
		/* A tag in metadata is the first one. */
		if (packet->tagged && i == VLAN_TAGS_MAX - 1)
			break;
		if (cut(packet, tag + 1, end))
			return VERDICT_MALFORMED;
		if (i == 0 && !packet->tagged)
			key->vlan_id = from_be16(tag->tci) & VLAN_VID_MASK;
		*etype = tag->etype;
		packet->network += sizeof(*tag);
	}
	return VERDICT_FLOW;
}

/* The EtherType that the IP version stands for, 0 for any other; in network order. */
INLINE enum verdict parse_ip_version(void *data, void *end, struct packet *packet, u16 *etype)
{
	u8 *version = data;

	if (cut(packet, version + 1, end))
		return VERDICT_MALFORMED;
	*etype = 0;
	if (*version >> 4 == 4)
		*etype = to_be16(ETHER_TYPE_IPV4);
	if (*version >> 4 == 6)
		*etype = to_be16(ETHER_TYPE_IPV6);
	return VERDICT_FLOW;
}

/*
 * Reads the headers up to that of the transport protocol. Fills key (zeroed but
 * for if_index, flow_direction and the VLAN of a tag in metadata) and packet
 * (zeroed but for length, any_zero and tagged).
 */
INLINE enum verdict parse_headers(void *data, void *end, struct flow_key *key,
				  struct packet *packet)
{
	u16 etype;
	enum verdict verdict = PATCHED(PATCH_RAW_IP)
				       ? parse_ip_version(data, end, packet, &etype)
				       : parse_ethernet(data, end, key, packet, &etype);

	if (verdict != VERDICT_FLOW)
		return verdict;
	packet->network = FORGOTTEN(packet->network, packet->any_zero) & LINK_MASK;
	key->vlan_id = FORGOTTEN(key->vlan_id, packet->any_zero);
	etype = FORGOTTEN(etype, packet->any_zero);
	if (etype == to_be16(ETHER_TYPE_IPV4))
		return parse_ipv4(data, end, key, packet);
	if (etype == to_be16(ETHER_TYPE_IPV6))
		return parse_ipv6(data, end, key, packet);
	return VERDICT_NON_IP;
}

/* Reads the transport header whose place and protocol parse_headers() found. */
INLINE void parse_transport(void *data, void *end, struct flow_key *key, struct packet *packet)
{
	u8 *head = data + packet->transport;
	/* Read from memory: the verifier forgets the protocols that it was compared with. */
	u8 proto = *(volatile u8 *)&key->proto;

	if (!packet->transport)
		return;
	switch (proto) {
	case PROTO_ICMP:
	case PROTO_ICMPV6:
		if (cut(packet, head + 2, end))
			return;
		key->icmp_type = head[0];
		key->icmp_code = head[1];
		return;
	case PROTO_TCP:
	case PROTO_UDP:
	case PROTO_DCCP:
	case PROTO_SCTP:
	case PROTO_UDPLITE:
		if (cut(packet, head + 4, end))
			return;
		key->src_port = from_be16(*(u16 *)head);
		key->dst_port = from_be16(*(u16 *)(head + 2));
		/* RFC 9293: the flags are byte 13. */
		if (proto == PROTO_TCP && !cut(packet, head + 14, end)) {
			packet->tcp_offset = head[12];
			packet->tcp_flags = head[13];
		}
		return;
	}
}

#endif
