"""Scratch segments: named by this process, gone after each test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from pks.segments.shm import Segment, list_segments, retire, segment_name

MakeSegment = Callable[..., Segment]


@pytest.fixture
def instance() -> str:
    return f"test{os.getpid()}"


@pytest.fixture
def make_segment(instance: str) -> Iterator[MakeSegment]:
    """Factory: (body_bytes, base name) -> a LIVE segment."""

    def make(body_bytes: int, base: str = "pks-scratch-v1", **options: object) -> Segment:
        facts: dict[str, object] = {"layout_name": "scratch", "layout_version": 1, "layout_hash": 0xDEADBEEF12345678, **options}
        segment = Segment.create(segment_name(base, instance), body_bytes=body_bytes, **facts)  # type: ignore[arg-type]
        segment.go_live()
        return segment

    yield make
    for facts in list_segments(instance):
        retire(facts.name)
