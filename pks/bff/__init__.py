"""The gateway: REST, WebSocket and gRPC for users, one process with one event loop. It reads slots as any reader on the host does."""
