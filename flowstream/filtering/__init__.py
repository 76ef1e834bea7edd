"""Filters of packets in the language of tcpdump (pcap-filter(7)): compiled by libpcap."""
