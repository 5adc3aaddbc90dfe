"""Time series of trades: rows out of events, the stores that keep them, questions about the past, and what no store takes."""
