"""Sending alerts by apprise: one URL a channel, whatever is behind it: a chat, mail, a webhook.

Owns the call, its time and what is said of a failure: never the URL, which holds secrets. Blocks: call it in a thread of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

import apprise

from pks.edges.chat.alerts import Alert, Delivery

SEND_SECONDS_MAX = 10.0
"""How long a channel may take."""

TYPES = {"INFO": apprise.NotifyType.INFO, "WARNING": apprise.NotifyType.WARNING, "CRITICAL": apprise.NotifyType.FAILURE}


class Channels:
    """The ways out, by name."""

    def __init__(self, urls: Mapping[str, str], system: str) -> None:
        """urls: name -> apprise's URL. What cannot be a URL of any kind is a fault of its channel, said with each alert. system: whose
        alerts these are, for the title.
        """
        self._system = system
        self._ways: dict[str, apprise.Apprise | None] = {}
        for name, url in urls.items():
            way = apprise.Apprise()
            self._ways[name] = way if way.add(url) else None

    def send(self, alert: Alert, now_ns: int) -> None:
        """Tell every channel of the alert, and leave in it what became of that."""
        assert alert.state is Delivery.PENDING, "it is to be sent"
        title, body = alert.message()
        title = f"{title} [{self._system}]"
        failed = [f"{name}: {fault}" for name in alert.channels if (fault := self._fault(name, title, body, alert.severity))]
        alert.enter(Delivery.FAILED if failed else Delivery.SENT)
        alert.sent_ns, alert.told_count, alert.error = now_ns, alert.count, "; ".join(failed)

    def _fault(self, name: str, title: str, body: str, severity: str) -> str:
        """Send to one channel; "" when it took it."""
        if name not in self._ways:
            return "no such channel is configured"
        way = self._ways[name]
        if way is None:
            return "its URL is of no known kind"
        done: list[bool] = []
        thread = threading.Thread(
            target=lambda: done.append(bool(way.notify(body=body, title=title, notify_type=TYPES[severity]))), daemon=True
        )
        thread.start()
        thread.join(SEND_SECONDS_MAX)
        if not done:
            return f"did not answer within {SEND_SECONDS_MAX:g} s"
        return "" if done[0] else "did not take it"
