"""An independent reading of packets, and the packets to compare it on."""
