"""Every byte that two processes share, or that outlives one: records, slots, rows, their codes, and the field catalogue."""
