"""Quantities by account, over books and by book."""

from __future__ import annotations

from decimal import Decimal

import pytest

from pks.client import UnknownName


@pytest.fixture
def held(small):
    small.put("ALPHA", "SBER.MOEX", 12)
    small.put("BETA", "SBER.MOEX", -5)
    small.put_account("NSD-RU-01", "ALPHA", "SBER.MOEX", 7)
    small.put_account("NSD-RU-02", "ALPHA", "SBER.MOEX", 5)
    small.put_account("NSD-RU-01", "BETA", "SBER.MOEX", -5)
    return small


def test_books_add_up(held, host) -> None:
    quantity = host.accounts["NSD-RU-01", "SBER.MOEX"]
    assert quantity.quantity == 2
    assert quantity.by_book == {"ALPHA": Decimal(7), "BETA": Decimal(-5)}
    assert quantity.last_sequence == 2


def test_accounts_add_up_to_the_position(held, host) -> None:
    found = host.accounts.find(book="ALPHA", instrument="RU00021")
    assert sum(one.quantity for one in found) == host.positions["ALPHA", "SBER.MOEX"].quantity
    assert [one.account for one in found] == ["NSD-RU-01", "NSD-RU-02"]


def test_changes_are_seen(held, host) -> None:
    assert len(host.accounts) == 2
    held.put_account("NSD-RU-02", "ALPHA", "SBER.MOEX", 6)
    assert host.accounts["NSD-RU-02", "SBER.MOEX"].quantity == 6
    held.put("ALPHA", "GAZP.MOEX", 1)
    held.put_account("NSD-RU-02", "ALPHA", "GAZP.MOEX", 1)
    assert [(one.instrument, one.quantity) for one in host.accounts.find("NSD-RU-02")] == [("SBER.MOEX", 6), ("GAZP.MOEX", 1)]


def test_unknown_names_and_pairs(held, host) -> None:
    with pytest.raises(UnknownName, match="no account 'NSD-RU-03'; is it NSD-RU-0"):
        _ = host.accounts["NSD-RU-03", "SBER.MOEX"]
    with pytest.raises(KeyError, match="quantity"):
        _ = host.accounts["NSD-RU-01", "OFZ26238"]


def test_as_tables(held, host) -> None:
    assert host.accounts.to_numpy()["qty_raw"].sum() == 7
    assert host.accounts.to_dicts()[0] == {
        "account": "NSD-RU-01", "instrument": "SBER.MOEX", "quantity": "2", "by_book": {"ALPHA": "7", "BETA": "-5"}, "last_sequence": 2,
    }  # fmt: skip
