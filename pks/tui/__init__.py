"""The terminal blotter: positions, tape and health of a running system, read from its segments and drawn with Textual."""
