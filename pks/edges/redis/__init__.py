"""What is shared with other programs for a while: marks, curves, sessions and the blocklist of tokens, each with a time to live."""
