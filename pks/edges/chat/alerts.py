"""Alerts: their classes, and how events of a class become one alert with a count, so that a storm is one message.

Owns the windows. A class's first event opens a window and is told at once; what follows in it is counted. When a window with more than
that first event is over, the alert is told once more, with its count. The next event opens another window. Pure: times are given, nothing
is sent or stored here.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from msgspec import Struct

from pks.base.config import AlertRule, Alerts

NS_PER_SECOND = 1_000_000_000

TEXT_CHARACTERS_MAX = 500


class AlertClass(StrEnum):
    """What may need a person."""

    DEAD_LETTERS = "dead_letters"  # messages or rows that could not be used were set aside
    REJECTIONS = "rejections"  # trades were refused
    SHADOW_DIFFERENCES = "shadow_differences"  # the second fold disagrees with a live slot
    EDGE_DOWN = "edge_down"  # a server does not take what it is given
    EDGE_LAG = "edge_lag"  # a server is far behind
    DISK_SPACE = "disk_space"  # the data directory's disk is nearly full


DEFAULT_RULES = {
    AlertClass.DEAD_LETTERS: AlertRule(severity="WARNING"),
    AlertClass.REJECTIONS: AlertRule(severity="INFO"),
    AlertClass.SHADOW_DIFFERENCES: AlertRule(severity="CRITICAL"),
    AlertClass.EDGE_DOWN: AlertRule(severity="WARNING"),
    AlertClass.EDGE_LAG: AlertRule(severity="WARNING"),
    AlertClass.DISK_SPACE: AlertRule(severity="CRITICAL"),
}
"""Without channels: kept and shown, sent nowhere."""
assert DEFAULT_RULES.keys() == set(AlertClass), "every class has its rule"


class Delivery(StrEnum):
    """What became of an alert's message."""

    PENDING = "PENDING"  # to be sent
    SENT = "SENT"
    FAILED = "FAILED"  # some channel did not take it; `error` says which
    MUTED = "MUTED"  # no channel is configured for the class


DELIVERY_MOVES = {
    Delivery.PENDING: {Delivery.SENT, Delivery.FAILED},
    Delivery.SENT: {Delivery.PENDING},  # its count goes out at the window's end
    Delivery.FAILED: {Delivery.PENDING},
    Delivery.MUTED: set[Delivery](),
}
assert DELIVERY_MOVES.keys() == set(Delivery), "every state has its moves"


class Alert(Struct, kw_only=True, rename={"alert_class": "class"}):
    """One alert: all events of a class in one window. Its key is (alert_class, window_start_ns)."""

    alert_class: AlertClass
    severity: str
    window_start_ns: int
    count: int
    text: str  # of the latest event
    channels: list[str]
    state: Delivery
    sent_ns: int = 0  # last message, 0 for none
    told_count: int = 0  # count in the last message
    error: str = ""

    @property
    def key(self) -> tuple[str, int]:
        """What makes it the same alert."""
        return self.alert_class.value, self.window_start_ns

    def enter(self, state: Delivery) -> None:
        """Take the next state."""
        assert state in DELIVERY_MOVES[self.state], f"{self.state} does not become {state}"
        self.state = state

    def message(self) -> tuple[str, str]:
        """(title, body) for people."""
        times = "" if self.count == 1 else f" ({self.count} times)"
        return f"PKS {self.severity}: {self.alert_class.replace('_', ' ')}{times}", self.text


def rules_of(alerts: Alerts) -> dict[AlertClass, AlertRule]:
    """The rule of every class: the configured one, else the default."""
    return {one: alerts.rules.get(one.value, rule) for one, rule in DEFAULT_RULES.items()}


class AlertBook:
    """The open window of each class."""

    def __init__(self, rules: dict[AlertClass, AlertRule], known: Iterable[Alert] = ()) -> None:
        """known: alerts of an earlier life, of which the newest of each class goes on while its window does."""
        self._rules = rules
        self._open: dict[AlertClass, Alert] = {}
        for alert in sorted(known, key=lambda alert: alert.window_start_ns):
            self._open[alert.alert_class] = alert

    def happened(self, alert_class: AlertClass, text: str, now_ns: int, count: int = 1) -> Alert:
        """`count` events of a class; the alert that they belong to, PENDING when it is new and has channels."""
        assert count > 0, "something happened"
        rule, alert = self._rules[alert_class], self._open.get(alert_class)
        if alert is None or self._is_over(alert, now_ns):
            alert = self._open[alert_class] = Alert(
                alert_class=alert_class,
                severity=rule.severity,
                window_start_ns=now_ns,
                count=0,
                text="",
                channels=list(rule.channels),
                state=Delivery.PENDING if rule.channels else Delivery.MUTED,
            )
        alert.count += count
        alert.text = text[:TEXT_CHARACTERS_MAX]
        return alert

    def count_of(self, alert_class: AlertClass, now_ns: int) -> int:
        """How many events the open window of a class has, 0 where none is open."""
        alert = self._open.get(alert_class)
        return 0 if alert is None or self._is_over(alert, now_ns) else alert.count

    def due(self, now_ns: int) -> list[Alert]:
        """Alerts whose window is over and of which more is to be told than was: PENDING again. Their windows are closed."""
        over = [alert for alert in self._open.values() if self._is_over(alert, now_ns)]
        for alert in over:
            del self._open[alert.alert_class]
        again = [alert for alert in over if alert.count > alert.told_count and alert.state in (Delivery.SENT, Delivery.FAILED)]
        for alert in again:
            alert.enter(Delivery.PENDING)
        return again

    def _is_over(self, alert: Alert, now_ns: int) -> bool:
        """Also where the clock has stepped back to before it: a window in the future would keep its class silent until then."""
        return not 0 <= now_ns - alert.window_start_ns < self.window_ns(alert.alert_class)

    def window_ns(self, alert_class: AlertClass) -> int:
        """How long what happens again is only counted."""
        return self._rules[alert_class].window * NS_PER_SECOND
