"""Instruments of recorded venue files, for people who book such a file into a system that does not know its coins.

Owns the naming of what the files call by a coin or pair. `pks ref` calls it; it may not apply anything.
"""

from __future__ import annotations

from collections.abc import Iterable

from pks.edges.files.desk import instrument_of
from pks.edges.files.rows import TradeRow
from pks.engine.instruments.catalogue import Catalogue
from pks.engine.instruments.definitions import AnyDefinition, Currency, Instrument, Source
from pks.layouts.codes import Subject

COLLATERAL = "USDC"


def perpetual(coin: str) -> Instrument:
    """Hyperliquid's perpetual of a coin, under the same name as the demo desk's."""
    return instrument_of(
        {
            "instrument_id": f"{coin}-PERP.HL",
            "asset_class": "CRYPTO_PERP",
            "symbol": coin,
            "name": f"Hyperliquid {coin} perpetual",
            "currency": COLLATERAL,
            "underlying": coin,
            "settle_cycle": "funding 1h",
            "calendar": "24/7",
        }
    )


def spot_pair(code: str, base: str, quote: str) -> Instrument:
    """A spot pair of two coins; its symbol is base and quote in one word, as venues write it."""
    return instrument_of(
        {
            "instrument_id": code,
            "asset_class": "CRYPTO_SPOT",
            "symbol": f"{base}{quote}",
            "name": f"{base} against {quote}",
            "base_currency": base,
            "currency": quote,
            "settle_cycle": "T+0",
            "calendar": "24/7",
        }
    )


def missing_perpetuals(rows: Iterable[TradeRow], known: Catalogue) -> list[AnyDefinition]:
    """What a file of Hyperliquid fills needs and `known` does not have: its currency, its source, then an instrument a coin."""
    coins: dict[str, None] = {}
    sources: dict[str, None] = {}
    for row in rows:
        coins.setdefault(row.instrument)
        sources.setdefault(row.source)
    missing: list[AnyDefinition] = []
    if not known.id_of(Subject.CURRENCY, COLLATERAL):
        missing.append(Currency(code=COLLATERAL, minor_digits=6))
    missing += [Source(code=source) for source in sources if not known.id_of(Subject.SOURCE, source)]
    missing += [perpetual(coin) for coin in coins if not known.find_instrument(coin)]
    return missing
