"""Answers are compressed where the client takes it, and read as they were."""

from __future__ import annotations

import gzip
from typing import Any

import pytest
import zstandard

from pks.bff.compress import BYTES_MIN, Compress, compressed, encoding_of

BODY = b'{"a": 1}' * BYTES_MIN


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        (b"", b""), (b"identity", b""), (b"gzip", b"gzip"), (b"gzip, deflate, br, zstd", b"zstd"), (b"zstd;q=0, gzip", b"gzip"),
        (b"GZIP;q=0.5", b"gzip"), (b"gzip; q=0", b""), (b",,;", b""),
    ],
)  # fmt: skip
def test_the_best_that_the_client_takes(accepted: bytes, encoding: bytes) -> None:
    assert encoding_of(accepted) == encoding


def read(body: bytes, encoding: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompress(body) if encoding == b"zstd" else gzip.decompress(body)


@pytest.mark.parametrize("encoding", [b"zstd", b"gzip"])
def test_a_body_is_read_as_it_was(encoding: bytes) -> None:
    assert read(compressed(BODY, encoding), encoding) == BODY


async def said_by(messages: list[dict[str, Any]], accepted: bytes = b"gzip") -> list[dict[str, Any]]:
    """What an application that says these messages is heard to say."""
    heard: list[dict[str, Any]] = []

    async def inside(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    async def send(message: Any) -> None:
        heard.append(message)

    await Compress(inside)({"type": "http", "headers": [(b"accept-encoding", accepted)]}, None, send)
    return heard


def start(kind: bytes, *more: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind), (b"content-length", b"9"), *more]}


async def test_a_long_answer_is_smaller_and_says_so() -> None:
    first, body = await said_by([start(b"application/json; charset=utf-8"), {"type": "http.response.body", "body": BODY}])
    headers = dict(first["headers"])
    assert headers[b"content-encoding"] == b"gzip"
    assert int(headers[b"content-length"]) == len(body["body"]) < len(BODY)
    assert read(body["body"], b"gzip") == BODY


@pytest.mark.parametrize(
    "messages",
    [
        [start(b"application/json"), {"type": "http.response.body", "body": b"short"}],
        [start(b"image/png"), {"type": "http.response.body", "body": BODY}],
        [start(b"application/json", (b"content-encoding", b"br")), {"type": "http.response.body", "body": BODY}],
        [start(b"text/csv"), {"type": "http.response.body", "body": BODY, "more_body": True}, {"type": "http.response.body", "body": BODY}],
    ],
)
async def test_other_answers_stay_as_they_are(messages: list[dict[str, Any]]) -> None:
    assert await said_by([dict(message) for message in messages]) == messages
