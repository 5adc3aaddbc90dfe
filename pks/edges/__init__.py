"""One module or folder an outside system: its formats and its sessions. Edges never import each other."""
