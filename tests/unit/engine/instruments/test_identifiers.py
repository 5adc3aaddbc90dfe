"""Check digits of real identifiers, and of the same with one digit changed."""

from __future__ import annotations

import pytest

from pks.engine.instruments.identifiers import cusip_fault, figi_fault, isin_fault

WRONG_DIGIT = "the check digit is wrong"


@pytest.mark.parametrize("isin", ["US0378331005", "RU0009029540", "RU000A1038V6", "DE000BU2Z049", "US91282CMM00", "AU0000XVGZA3"])
def test_isin(isin: str) -> None:
    assert isin_fault(isin) == ""
    assert isin_fault(isin[:-1] + str((int(isin[-1]) + 1) % 10)) == WRONG_DIGIT


@pytest.mark.parametrize("cusip", ["037833100", "91282CMM0", "46625HRV4"])
def test_cusip(cusip: str) -> None:
    assert cusip_fault(cusip) == ""
    assert cusip_fault(cusip[:-1] + str((int(cusip[-1]) + 3) % 10)) == WRONG_DIGIT


@pytest.mark.parametrize("figi", ["BBG004730N88", "BBG000B9XRY4", "BBG004731489"])
def test_figi(figi: str) -> None:
    assert figi_fault(figi) == ""
    assert figi_fault(figi[:-1] + str((int(figi[-1]) + 1) % 10)) == WRONG_DIGIT


@pytest.mark.parametrize("text", ["", "US037833100", "us0378331005", "US03783310０5", "US037833100X"])
def test_form(text: str) -> None:
    for fault in (isin_fault, cusip_fault, figi_fault):
        assert fault(text).startswith("not ")
