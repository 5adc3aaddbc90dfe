"""Definitions as rows and policies."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np

from pks.edges.files.desk import read_desk
from pks.engine.instruments import DATE_FIRST, Catalogue, book_policy, instrument_policy, method_change, subject_of, to_policy, to_row
from pks.engine.instruments.rows import cut
from pks.layouts.codes import Contract, Method, Oversell, Subject
from pks.layouts.refdata import ROW

DESK = read_desk(Path(str(files("pks") / "desk_data")))
CATALOGUE = Catalogue()
for _sequence, _definition in enumerate(DESK.definitions, start=1):
    CATALOGUE.apply(subject_of(_definition), CATALOGUE.next_id(subject_of(_definition)), _definition, _sequence)


def test_every_definition_of_the_desk_has_a_row() -> None:
    for sequence, definition in enumerate(DESK.definitions, start=1):
        subject = subject_of(definition)
        row_id = CATALOGUE.id_of(subject, definition.code)
        row = to_row(definition, CATALOGUE, row_id, sequence)[0]
        assert (row["row_id"], row["subject"], row["last_sequence"]) == (row_id, subject, sequence)
        assert row["code"].decode() == definition.code


def test_policy_of_an_inverse_contract() -> None:
    inverse = CATALOGUE.instrument(CATALOGUE.find_instrument("BTCUSD-INV.BYB"))
    policy = instrument_policy(inverse, CATALOGUE)[0]
    assert policy["contract"] == Contract.INVERSE
    assert policy["pnl_currency_id"] == CATALOGUE.id_of(Subject.CURRENCY, "BTC")
    assert policy["base_currency_id"] == 0
    assert policy["value_digits"] == 18


def test_policy_of_bonds_and_futures() -> None:
    ofz = instrument_policy(CATALOGUE.instrument(CATALOGUE.find_instrument("RU000A1038V6")), CATALOGUE)[0]
    assert (ofz["multiplier_numerator"], ofz["multiplier_denominator"], ofz["cleared"]) == (10, 1, 0)
    ust = instrument_policy(CATALOGUE.instrument(CATALOGUE.find_instrument("91282CMM0")), CATALOGUE)[0]
    assert (ust["multiplier_numerator"], ust["multiplier_denominator"]) == (1, 100)
    brent = instrument_policy(CATALOGUE.instrument(CATALOGUE.find_instrument("BRJ5")), CATALOGUE)[0]
    assert (brent["multiplier_numerator"], brent["cleared"], brent["negative_price"]) == (10, 1, 1)
    assert brent["pnl_currency_id"] == CATALOGUE.id_of(Subject.CURRENCY, "USD")


def test_policy_of_a_book() -> None:
    spot = CATALOGUE.book(CATALOGUE.id_of(Subject.BOOK, "CR-SPOT"))
    policy = book_policy(spot, CATALOGUE)[0]
    assert (policy["known"], policy["oversell"], policy["fees_in_cost"]) == (1, Oversell.REJECT, 0)
    assert CATALOGUE.zones[policy["zone_id"]] == "UTC+4"
    assert to_policy(CATALOGUE.book(1), CATALOGUE) is not None
    assert to_policy(DESK.definitions[0], CATALOGUE) is None


def test_method_changes() -> None:
    changes = [method_change(definition, CATALOGUE, DATE_FIRST, 5) for definition in DESK.definitions]
    made = np.concatenate([change for change in changes if change is not None])
    assert made.size == 12
    average = [(change["book_id"], change["asset_class_id"]) for change in made if change["method"] == Method.AVERAGE]
    book = {code: CATALOGUE.id_of(Subject.BOOK, code) for code in ("CR-SPOT", "US-DRV", "G10-RT")}
    assert sorted(average) == sorted([(book["CR-SPOT"], 0), (book["US-DRV"], 20), (book["G10-RT"], 40)])


def test_long_texts_are_cut_between_characters() -> None:
    assert cut("й" * 10, 5) == "йй".encode()
    assert ROW["symbol"].itemsize == 48
