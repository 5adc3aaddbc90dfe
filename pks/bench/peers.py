"""Optional peers, which live in a virtual environment of their own and are driven over a pipe: one line in, one figure out.

Owns finding and starting them. A peer that is not there is a reason in the report, never an error.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import TracebackType

NO_VENV = "no --peer-venv given"

NAUTILUS = """
import gc, sys, time
from nautilus_trader.core import nautilus_pyo3 as p
from nautilus_trader.test_kit.providers import TestInstrumentProvider
import nautilus_trader

made = TestInstrumentProvider.default_fx_ccy("AUD/USD")
instrument = p.CurrencyPair.from_dict(type(made).to_dict(made))
prices = [p.Price.from_str(f"{0.9 + i / 1000:.5f}") for i in range(64)]
sizes = [p.Quantity.from_int(1000 * (1 + i % 7)) for i in range(64)]
usd = p.Currency.from_str("USD")
fee = p.Money(1.5, usd)
trader, strategy, account = p.TraderId("TRADER-001"), p.StrategyId("S-001"), p.AccountId("SIM-001")


def fill(i, position):
    return p.OrderFilled(
        trader_id=trader, strategy_id=strategy, instrument_id=instrument.id, client_order_id=p.ClientOrderId(f"O-{i}"),
        venue_order_id=p.VenueOrderId(f"V-{i}"), account_id=account, trade_id=p.TradeId(f"T-{i}"),
        position_id=p.PositionId(f"P-{position}"), order_side=p.OrderSide.SELL if i % 3 == 2 else p.OrderSide.BUY,
        order_type=p.OrderType.MARKET, last_qty=sizes[i % 64], last_px=prices[i % 64], currency=usd, commission=fee,
        liquidity_side=p.LiquiditySide.TAKER, event_id=p.UUID4(), ts_event=i, ts_init=i, reconciliation=False,
    )


print(nautilus_trader.__version__, flush=True)
for line in sys.stdin:
    positions, fills = map(int, line.split())
    events = [fill(i, i % positions) for i in range(positions + fills)]
    held = [p.Position(instrument, e) for e in events[:positions]]
    gc.collect()
    gc.disable()
    start = time.perf_counter()
    k = 0
    for e in events[positions:]:
        held[k].apply(e)
        k = k + 1 if k + 1 < positions else 0
    took = time.perf_counter() - start
    gc.enable()
    print(fills / took, flush=True)
"""


class PeerMissing(Exception):
    """The peer cannot be run; the text says why. Handled within the benches."""


class Nautilus:
    """nautilus_trader's compiled Position.apply, events made beforehand; alive between figures so that sides can take turns."""

    def __init__(self, venv: Path | None) -> None:
        """Raises PeerMissing."""
        if venv is None:
            raise PeerMissing(f"{NO_VENV}: nautilus_trader is looked for there")
        python = venv / "bin" / "python"
        if not python.exists():
            raise PeerMissing(f"{venv} is no virtual environment")
        self.process = subprocess.Popen(
            [str(python), "-c", NAUTILUS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.version = self._answer()

    def fills_per_s(self, positions: int, fills: int) -> float:
        """Rate of `fills` applied over that many positions. Raises PeerMissing when the peer ends."""
        assert self.process.stdin is not None, "a pipe"
        self.process.stdin.write(f"{positions} {fills}\n")
        self.process.stdin.flush()
        return float(self._answer())

    def _answer(self) -> str:
        assert self.process.stdout is not None and self.process.stderr is not None, "pipes"
        line = self.process.stdout.readline()
        if not line:
            said = self.process.stderr.read().strip().splitlines()
            self.close()
            raise PeerMissing(f"nautilus_trader does not run in that environment: {said[-1] if said else 'it ended'}")
        return line.strip()

    def close(self) -> None:
        """End the peer."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def __enter__(self) -> Nautilus:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
