"""Answers made smaller where the client takes it: zstd, else gzip. Short ones, and those that are compressed already, stay as they are."""

from __future__ import annotations

import gzip
from typing import Any

import zstandard
from litestar.types import ASGIApp, Receive, Send

BYTES_MIN = 1024
GZIP_LEVEL, ZSTD_LEVEL = 1, 3
KINDS = (b"application/json", b"application/problem+json", b"text/", b"application/vnd.apache.arrow")

ZSTD, GZIP = b"zstd", b"gzip"


def encoding_of(accepted: bytes) -> bytes:
    """The best of ours that an Accept-Encoding allows; b"" for none."""
    offered = {}
    for part in accepted.lower().split(b","):
        name, _, quality = part.strip().partition(b";")
        offered[name.strip()] = quality.replace(b" ", b"") not in (b"q=0", b"q=0.0", b"q=0.00", b"q=0.000")
    return next((name for name in (ZSTD, GZIP) if offered.get(name, False)), b"")


def compressed(body: bytes, encoding: bytes) -> bytes:
    """The body in this encoding."""
    if encoding == ZSTD:
        return zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(body)
    return gzip.compress(body, GZIP_LEVEL, mtime=0)


class Compress:
    """ASGI: compresses what the application inside says at once; what it says in parts passes through."""

    def __init__(self, inside: ASGIApp) -> None:
        self._inside = inside

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._inside(scope, receive, send)
            return
        encoding = encoding_of(next((value for name, value in scope["headers"] if name == b"accept-encoding"), b""))
        if not encoding:
            await self._inside(scope, receive, send)
            return
        start: Any = None

        async def smaller(message: Any) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
                return
            if start is not None:
                first, start = start, None
                if message["type"] == "http.response.body" and not message.get("more_body") and _fits(first, message["body"]):
                    message["body"] = compressed(message["body"], encoding)
                    first["headers"] = [
                        (name, value) for name, value in first["headers"] if name.lower() not in (b"content-length", b"vary")
                    ] + [
                        (b"content-length", b"%d" % len(message["body"])), (b"content-encoding", encoding), (b"vary", b"Accept-Encoding"),
                    ]  # fmt: skip
                await send(first)
            await send(message)

        await self._inside(scope, receive, smaller)


def _fits(start: Any, body: bytes) -> bool:
    headers = {name.lower(): value for name, value in start["headers"]}
    return len(body) >= BYTES_MIN and b"content-encoding" not in headers and headers.get(b"content-type", b"").startswith(KINDS)
