"""Postgres: migrations, rows of a slice of events, positions of the shadow, and the journal's second copy."""
