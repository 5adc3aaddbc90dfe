"""Form and check digits of security identifiers.

Owns the arithmetic of ISIN (ISO 6166), CUSIP (ANSI X9.6) and FIGI (OMG FIGI 1.0), called where a definition is checked. Knows no
instrument.
"""

from __future__ import annotations

import re

_ISIN = re.compile(r"[A-Z]{2}[A-Z0-9]{9}[0-9]", re.ASCII)
_CUSIP = re.compile(r"[A-Z0-9*@#]{8}[0-9]", re.ASCII)
_FIGI = re.compile(r"[B-DF-HJ-NP-TV-Z]{2}G[B-DF-HJ-NP-TV-Z0-9]{8}[0-9]", re.ASCII)
_CUSIP_VALUES = {character: value for value, character in enumerate("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ*@#")}


def isin_fault(isin: str) -> str:
    """Why `isin` is no ISIN, or "". Source: ISO 6166 annex A, the Luhn digit over letters as 10 .. 35."""
    if _ISIN.fullmatch(isin) is None:
        return "not two letters, nine letters or digits, and a check digit"
    digits = "".join(str(_CUSIP_VALUES[character]) for character in isin)
    total = sum(int(digit) if place % 2 == 0 else sum(divmod(2 * int(digit), 10)) for place, digit in enumerate(reversed(digits)))
    return "" if total % 10 == 0 else "the check digit is wrong"


def cusip_fault(cusip: str) -> str:
    """Why `cusip` is no CUSIP, or "". Source: ANSI X9.6, modulus 10 double add double."""
    if _CUSIP.fullmatch(cusip) is None:
        return "not eight letters or digits and a check digit"
    return _double_add_double(cusip)


def figi_fault(figi: str) -> str:
    """Why `figi` is no FIGI, or "". Source: OMG FIGI 1.0 section 6.1: consonants and digits, third letter G, same digit rule."""
    if _FIGI.fullmatch(figi) is None:
        return "not two consonants, G, eight consonants or digits, and a check digit"
    return _double_add_double(figi)


def _double_add_double(text: str) -> str:
    total = 0
    for place, character in enumerate(text[:-1]):
        value = _CUSIP_VALUES[character] * (2 if place % 2 else 1)
        total += sum(divmod(value, 10))
    return "" if (10 - total % 10) % 10 == int(text[-1]) else "the check digit is wrong"
