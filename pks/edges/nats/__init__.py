"""NATS: connection, streams, publishing with exactly-once effect, looking back into a stream. For `pks/workers/edges/` and clients."""
