"""The gateway: REST, WebSocket and gRPC for users, in one process with one event loop.

The supervisor meets this room by the name of its worker only, and only that module is imported before the fork; every other one may import
libraries of servers at the top.
"""
