/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The published flow record: a packed struct whose bytes are one MessagePack
 * array. Every field stands behind its constant type tag (0xcf u64, 0xce u32,
 * 0xcd u16, 0xcc u8, 0xc4 n: n bytes, 0xaf: text of 15 bytes) and is
 * big-endian. A field is only ever added at the end, which raises
 * FLOW_RECORD_FIELDS; SCHEMA_VERSION is raised only when the meaning of an
 * existing field changes.
 *
 * This file is the single source of the layout: flowstream/layouts/ is
 * generated from it. docs/records.md has meanings and units.
 */
#ifndef FLOW_RECORD_H
#define FLOW_RECORD_H

#include <linux/types.h>

enum {
	SCHEMA_VERSION = 1,      /* of every record */
	FLOW_RECORD_FIELDS = 34, /* elements of the MessagePack array */
};

/* Type tags of MessagePack. */
enum msgpack_tag {
	TAG_U8 = 0xcc,
	TAG_U16 = 0xcd,
	TAG_U32 = 0xce,
	TAG_U64 = 0xcf,
	TAG_BIN8 = 0xc4,
	TAG_STR15 = 0xaf,
	TAG_ARRAY16 = 0xdc,
};

/* First field of every record. */
enum record_type {
	RECORD_FLOW = 1,
	RECORD_NEW_FLOW = 2,
	RECORD_COUNTERS = 3,
};

/* Values of end_reason that flowstream publishes: flowEndReason (IPFIX 136). */
enum end_reason {
	END_NONE = 0, /* announcements */
	END_INTERVAL_OVER = 2,
	END_FORCED = 4,            /* shutdown */
	END_LACK_OF_RESOURCES = 5, /* the table was nearly full and swapped early, or full */
};

struct flow_record {
	u8 tag_array;
	u16 array_fields;
	u8 tag_record_type;
	u8 record_type;
	u8 tag_schema_version;
	u8 schema_version;
	u8 tag_agent_epoch;
	u64 agent_epoch;
	u8 tag_host_id;
	u8 size_host_id;
	u8 host_id[16];
	u8 tag_sampler_address;
	u8 size_sampler_address;
	u8 sampler_address[16];
	u8 tag_seq;
	u64 seq;
	u8 tag_time_received_ns;
	u64 time_received_ns;
	u8 tag_time_flow_start_ns;
	u64 time_flow_start_ns;
	u8 tag_time_flow_end_ns;
	u64 time_flow_end_ns;
	u8 tag_etype;
	u16 etype;
	u8 tag_proto;
	u8 proto;
	u8 tag_src_addr;
	u8 size_src_addr;
	u8 src_addr[16];
	u8 tag_dst_addr;
	u8 size_dst_addr;
	u8 dst_addr[16];
	u8 tag_src_net;
	u8 src_net;
	u8 tag_dst_net;
	u8 dst_net;
	u8 tag_src_port;
	u16 src_port;
	u8 tag_dst_port;
	u16 dst_port;
	u8 tag_icmp_type;
	u8 icmp_type;
	u8 tag_icmp_code;
	u8 icmp_code;
	u8 tag_tcp_flags;
	u8 tcp_flags;
	u8 tag_ip_tos;
	u8 ip_tos;
	u8 tag_ip_ttl;
	u8 ip_ttl;
	u8 tag_vlan_id;
	u16 vlan_id;
	u8 tag_if_index;
	u32 if_index;
	u8 tag_if_name;
	u8 if_name[15];
	u8 tag_src_mac;
	u8 size_src_mac;
	u8 src_mac[6];
	u8 tag_dst_mac;
	u8 size_dst_mac;
	u8 dst_mac[6];
	u8 tag_packets;
	u64 packets;
	u8 tag_bytes;
	u64 bytes;
	u8 tag_l2_bytes;
	u64 l2_bytes;
	u8 tag_flow_count;
	u32 flow_count;
	u8 tag_sampling_rate;
	u32 sampling_rate;
	u8 tag_end_reason;
	u8 end_reason;
	u8 tag_flow_direction;
	u8 flow_direction;
} __attribute__((packed));

_Static_assert(sizeof(struct flow_record) == 230, "the wire format has no hole");

#endif
