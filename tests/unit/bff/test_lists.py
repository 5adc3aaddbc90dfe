"""Pages of lists: every row once, whatever the order, the size of a page, and what comes and goes meanwhile."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pks.bff.lists import as_csv, decode_cursor, encode_cursor, order_of, page_of
from pks.bff.problems import Problem

VALUES = st.one_of(st.none(), st.integers(-5, 5), st.sampled_from(["-1.5", "0", "2", "10", "a", "b", "é"]))
ROWS = st.lists(
    st.fixed_dictionaries({"book": st.sampled_from("AB"), "instrument": st.text("xyz", min_size=1, max_size=3), "quantity": VALUES}),
    unique_by=lambda row: (row["book"], row["instrument"]),
    max_size=20,
)
SORTS = st.sampled_from([None, "quantity", "-quantity", "-book,quantity", "instrument,-quantity"])


def pages(rows: list[dict[str, Any]], sort: str | None, size: int) -> list[dict[str, Any]]:
    order = order_of(sort, ("book", "instrument", "quantity"), ("book", "instrument"))
    seen: list[dict[str, Any]] = []
    after = None
    while True:
        page = page_of(rows, order, size, after)
        seen += page.rows  # type: ignore[arg-type]
        if page.next is None:
            return seen
        after = page.next


@given(ROWS, SORTS, st.integers(1, 7))
def test_pages_have_every_row_once_in_one_order(rows: list[dict[str, Any]], sort: str | None, size: int) -> None:
    whole = pages(rows, sort, 1000)
    assert pages(rows, sort, size) == whole
    assert sorted(map(str, whole)) == sorted(map(str, rows))


@given(ROWS, SORTS, st.integers(1, 5), st.data())
def test_a_row_that_goes_takes_no_other_with_it(rows: list[dict[str, Any]], sort: str | None, size: int, data: st.DataObject) -> None:
    order = order_of(sort, ("book", "instrument", "quantity"), ("book", "instrument"))
    first = page_of(rows, order, size, None)
    if first.next is None:
        return
    gone = data.draw(st.sampled_from(first.rows))
    rest = [row for row in rows if row != gone]
    second = page_of(rest, order, 1000, first.next)
    assert [*first.rows, *second.rows] == pages(rows, sort, 1000)


@given(st.lists(st.one_of(st.none(), st.integers(-(2**60), 2**60), st.text(max_size=20)), max_size=4))
def test_a_cursor_comes_back_as_it_was(place: list[Any]) -> None:
    assert decode_cursor(encode_cursor(place), len(place)) == place


@pytest.mark.parametrize("text", ["x", "!!!", "bnVsbA", "eyJhIjoxfQ", "WzEuNV0", "W10", "A" * 5000])
def test_what_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(Problem) as refused:
        decode_cursor(text, 1)
    assert (refused.value.status, refused.value.field) == (400, "after")


def test_a_field_that_rows_do_not_have_sorts_none() -> None:
    with pytest.raises(Problem, match="book"):
        order_of("-nothing", ("book",), ("book",))


def test_csv_has_maps_as_json_and_nothing_for_none() -> None:
    assert as_csv([{"a": None, "b": {"USD": "1"}}, {"a": 'x"y', "b": {}}], ("a", "b")) == b'a,b\n,"{""USD"":""1""}"\n"x""y",{}\n'
