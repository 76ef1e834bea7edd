"""What became of every packet and record: the books, and the counters record made of them."""
