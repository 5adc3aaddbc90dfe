"""The alerts' worker: looks at counters, edges and the disk once a second, and tells people what they should know.

Owns what is watched and what counts as an episode. It hooks into no other worker: how many stands in the control segment, which refusals
in their streams. What was alerted is kept in its own cells and in the alerts' file, so another life of it tells nothing twice. Sending and
Postgres have a thread of their own and hold up nothing.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import msgspec

from pks.base.limits import EDGE_REST_NS_MAX, REST_NS_MAX
from pks.layouts.segment import CellKind
from pks.segments.errors import StaleHost
from pks.servers.endpoints import endpoint
from pks.topology import EDGE_WORKERS
from pks.workers.edges.edge import CELL_LAG_MS, CELL_STATE, EdgeState
from pks.workers.edges.refusals import RefusalTally, in_words
from pks.workers.edges.warm import warm_feed
from pks.workers.rejects import warm_reading
from pks.workers.runtime import Context

if TYPE_CHECKING:
    from pks.edges.chat.alerts import Alert, AlertClass

LOOK_NS = 1_000_000_000
ROWS_NS = 10_000_000_000
"""Between two attempts to bring alerts into Postgres that did not get there."""

DRAIN_NS_MAX = 5_000_000_000
CONNECT_SECONDS, ASK_SECONDS = 5.0, 10.0
UNWRITTEN_MAX = 1_000

COUNTERS = {
    "refused": ("rejections", ""),
    "events_refused": ("rejections", ""),
    "differences": ("shadow_differences", "{count} live position(s) differ from the second fold of the journal; run pks journal verify"),
    "dead_letters": ("dead_letters", "{count} message(s) could not be used; pks dlq list shows them"),
    "rows_set_aside": ("dead_letters", "{count} row(s) of time series were set aside: run/bo_positions.aside.jsonl in the data directory"),
}
"""Counter of any worker -> the alert's class and text; refusals' is made of their codes and sources. Capture's own `refused` and the
accumulators' are different events."""


class AlertsWorker:
    """Implements runtime.Worker."""

    def __init__(self, context: Context) -> None:
        from pks.edges.chat import alerts, keep

        self._alerts = alerts
        self.context, self.config = context, context.config.alerts
        self.rules = alerts.rules_of(self.config)
        self.file = keep.AlertFile(context.paths.run)
        known = self.file.read()
        self.book = alerts.AlertBook(self.rules, known)
        self.changed: dict[tuple[str, int], Alert] = {alert.key: alert for alert in known if alert.state is alerts.Delivery.PENDING}
        self.unwritten: dict[tuple[str, int], Alert] = {alert.key: alert for alert in known}
        self.seen = {name: context.cells.counter(f"alerted_{name}") for name in COUNTERS}
        self.tally = RefusalTally(context.host, context.paths)
        self.refusals: Counter[tuple[str, str]] = Counter()  # of the open window
        self.raised = context.cells.counter("alerts")
        self.lost = context.cells.counter("alerts_not_kept")
        self.since_ns: dict[str, int] = {}  # episode -> when it began
        self.told_ns: dict[str, int] = {}  # episode -> when it was last told
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="alerts")
        self.under_way: Future[tuple[list[Alert], bool]] | None = None
        self._look_ns = self._rows_ns = 0
        self._drain_ns = 0
        context.ready()

    def step(self) -> int:
        """Look once a second; how many alerts have changed."""
        now = self.context.clock.monotonic_ns()
        self._collect()
        if now < self._look_ns:
            return 0
        self._look_ns = now + LOOK_NS
        try:
            self._look(now)
        except StaleHost:  # the supervisor is late on a busy host; if it is dead, so are we in a moment
            self.context.log.info("the control segment is stale")
            return 0
        changed = len(self.changed)
        self._deliver(now)
        return changed

    def idle(self) -> None:
        """Sleep a little."""
        self.context.nap(REST_NS_MAX if self.under_way is not None else EDGE_REST_NS_MAX)

    def housekeeping(self) -> None:
        """Nothing."""

    # what is watched

    def _look(self, now_ns: int) -> None:
        control = self.context.host.control
        names = {facts.owner: facts.name for facts in control.workers()}
        totals = dict.fromkeys(COUNTERS, 0)
        edges: dict[str, dict[str, int]] = {}
        for cell in control.read_cells():
            if not isinstance(cell.value, int) or cell.owner == self.context.number:
                continue
            if cell.kind is CellKind.COUNTER and cell.name in totals and cell.owner in names:
                totals[cell.name] += cell.value
            elif cell.name in (CELL_STATE, CELL_LAG_MS) and cell.owner in names:
                edges.setdefault(names[cell.owner], {})[cell.name] = cell.value
        refused = 0
        for name, total in totals.items():
            more = total - self.seen[name].value()
            if more > 0:
                self.seen[name].add(more)
                alert_class, text = COUNTERS[name]
                refused += more if not text else 0
                if text:
                    self._happened(self._alerts.AlertClass(alert_class), text.format(count=more), more)
        if refused:
            self._refused(refused)
        for episode, alert_class, text, patience in self._episodes(edges):
            self._goes_on(episode, alert_class, text, patience, now_ns)

    def _refused(self, more: int) -> None:
        """Tell refusals, with what the window has of them."""
        rejections = self._alerts.AlertClass.REJECTIONS
        before = self.book.count_of(rejections, self.context.clock.wall_ns())
        if not before:
            self.refusals.clear()
        self.tally.look()
        self.refusals.update(self.tally.take())
        which = in_words(self.refusals, before + more)
        text = f"{before + more} input(s) were refused{f': {which}' if which else ''}; each source was told why"
        self._happened(rejections, text, more)

    def _episodes(self, edges: dict[str, dict[str, int]]) -> Iterator[tuple[str, AlertClass, str, int]]:
        """(name, class, text or "" while it is not so, seconds that it must last) of what can be so for a while."""
        servers = {worker: edge for edge, worker in EDGE_WORKERS.items()}
        for worker, cells in sorted(edges.items()):
            server = servers.get(worker, worker)
            is_down = cells.get(CELL_STATE) == EdgeState.DOWN
            text = f"{worker}: {server} does not take what it is given; pks status says why" if is_down else ""
            yield f"{worker} down", self._alerts.AlertClass.EDGE_DOWN, text, self.config.down_seconds
            seconds = cells.get(CELL_LAG_MS, 0) // 1000
            is_behind = seconds >= self.config.lag_seconds
            text = f"{worker}: {server} is {seconds} s behind" if is_behind else ""
            yield f"{worker} behind", self._alerts.AlertClass.EDGE_LAG, text, 0
        free_mb = shutil.disk_usage(self.context.paths.data_dir).free >> 20
        text = f"{free_mb} MB are free where the data are, {self.context.paths.data_dir}" if free_mb < self.config.disk_free_mb else ""
        yield "disk", self._alerts.AlertClass.DISK_SPACE, text, 0

    def _goes_on(self, episode: str, alert_class: AlertClass, text: str, patience: int, now_ns: int) -> None:
        """Tell an episode when it has lasted, and again in each window in which it still does."""
        if not text:
            self.since_ns.pop(episode, None)
            self.told_ns.pop(episode, None)
            return
        since_ns = self.since_ns.setdefault(episode, now_ns)
        told_ns = self.told_ns.get(episode)
        if now_ns - since_ns < patience * 1_000_000_000 or (told_ns is not None and now_ns - told_ns < self.book.window_ns(alert_class)):
            return
        self.told_ns[episode] = now_ns
        self._happened(alert_class, text)

    def _happened(self, alert_class: AlertClass, text: str, count: int = 1) -> None:
        alert = self.book.happened(alert_class, text, self.context.clock.wall_ns(), count)
        if alert.count == count:
            self.raised.add()
            self.context.log.warning("alert", alert_class=alert_class.value, severity=alert.severity, text=text)
        self.changed[alert.key] = alert

    # telling

    def _deliver(self, now_ns: int) -> None:
        """Keep what changed, and give what is to be sent or written to the thread if it is free."""
        for alert in self.book.due(self.context.clock.wall_ns()):
            self.changed[alert.key] = alert
        if self.changed:
            self._keep(list(self.changed.values()))
        if self.under_way is not None:
            return
        pending = [alert for alert in self.changed.values() if alert.state is self._alerts.Delivery.PENDING]
        self.unwritten.update(self.changed)
        while len(self.unwritten) > UNWRITTEN_MAX:
            del self.unwritten[next(iter(self.unwritten))]
        if not pending and not (self.unwritten and now_ns >= self._rows_ns):
            self.changed.clear()
            return
        self.changed.clear()
        self._rows_ns = now_ns + ROWS_NS
        self._sent = {alert.key: alert for alert in pending}
        copies = [msgspec.structs.replace(alert) for alert in self.unwritten.values()]
        self.under_way = self.thread.submit(self._tell, copies)

    def _keep(self, alerts: list[Alert]) -> None:
        try:
            self.file.put(alerts)
        except OSError as error:
            self.lost.add(len(alerts))
            self.context.log.warning("alerts are not kept in their file", error=str(error))

    def _tell(self, alerts: list[Alert]) -> tuple[list[Alert], bool]:
        """In the thread: send what is PENDING, write all rows; (the alerts as they are now, whether the rows are written)."""
        from pks.edges.chat.send import Channels

        where = f"{self.context.config.instance or 'pks'} on {socket.gethostname()}"
        channels = Channels(self.config.channels, where)
        for alert in alerts:
            if alert.state is self._alerts.Delivery.PENDING:
                channels.send(alert, self.context.clock.wall_ns())
        return alerts, asyncio.run(self._write_rows(alerts))

    async def _write_rows(self, alerts: list[Alert]) -> bool:
        import asyncpg

        from pks.edges.chat.keep import put_rows

        place = endpoint(self.context.config, "postgres")
        if place is None:
            return False
        try:
            connection = await asyncpg.connect(place.url, timeout=CONNECT_SECONDS, command_timeout=ASK_SECONDS)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False  # it is down, which its own edge says
        try:
            return await put_rows(connection, alerts)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            self.context.log.info("alerts are not in Postgres yet", error=" ".join(str(error).split()))
            return False
        finally:
            connection.terminate()

    def _collect(self) -> None:
        """Take what the thread has done."""
        if self.under_way is None or not self.under_way.done():
            return
        told, is_written = self.under_way.result()
        self.under_way = None
        for copy in told:
            alert = self._sent.get(copy.key)
            if alert is not None:
                alert.state, alert.sent_ns, alert.told_count, alert.error = copy.state, copy.sent_ns, copy.told_count, copy.error
                self.changed[alert.key] = alert
            elif is_written and self.unwritten.get(copy.key) == copy:
                del self.unwritten[copy.key]

    def drain(self) -> bool:
        """What is to be told is told, or it takes too long: the next start goes on."""
        now = self.context.clock.monotonic_ns()
        self._drain_ns = self._drain_ns or now + DRAIN_NS_MAX
        self._collect()
        is_over = self.under_way is None and not self.changed
        return is_over or now >= self._drain_ns

    def close(self) -> None:
        """The thread may still wait for somebody; the process ends without it."""
        self.thread.shutdown(wait=False, cancel_futures=True)


def make(context: Context) -> AlertsWorker:
    """The worker."""
    return AlertsWorker(context)


def warm() -> None:
    """What reading the control segment and the streams of refusals calls."""
    warm_feed()
    warm_reading()
