"""The class table holds what the desk and the recorded files need, and its ids are stable."""

from __future__ import annotations

import pytest

from pks.engine.instruments.class_defaults import CLASSES, GENERIC, UNLISTED_CLASS_BIT, asset_class_id, defaults_of


def test_scales_fit_64_bits_and_money_fits_128() -> None:
    for name, defaults in CLASSES.items():
        assert defaults.money_scale == max(defaults.price_scale + defaults.qty_scale, 18), name
        assert 10 ** (18 - defaults.price_scale) >= 10**9, "a price of a thousand million fits"
        assert 10 ** (18 - defaults.qty_scale) >= 10**9, "a quantity of a thousand million fits"


@pytest.mark.parametrize(
    ("name", "class_id"),
    [("GENERIC", 1), ("EQUITY", 2), ("FUTURE", 10), ("EQUITY_OPTION", 20), ("BOND", 30), ("FX_SPOT", 40), ("IRS", 50), ("CRYPTO_PERP", 71)],
)
def test_ids_are_in_journals_and_never_change(name: str, class_id: int) -> None:
    assert asset_class_id(name) == class_id


def test_a_class_that_is_not_listed_gets_generic_figures_and_a_number_of_its_own() -> None:
    assert defaults_of("CAT_BOND") is GENERIC
    assert asset_class_id("CAT_BOND") & UNLISTED_CLASS_BIT
    assert asset_class_id("CAT_BOND") != asset_class_id("WEATHER")


def test_rules_of_price() -> None:
    assert not CLASSES["EQUITY"].negative_price
    assert CLASSES["FUTURE"].negative_price
    assert CLASSES["EQUITY_OPTION"].zero_price
    assert CLASSES["BOND"].quote_factor == "1/100"
    assert [name for name, defaults in CLASSES.items() if defaults.cleared] == ["FUTURE"]
