"""The workers that talk to servers: each carries what is durable and judged to one of them, at its own cursor, and holds nobody back."""
