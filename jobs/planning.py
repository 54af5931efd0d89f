"""Progress of planning on stderr: a line when it takes longer than an instant, then one every few seconds."""

import threading
from types import TracebackType

from rich.console import Console

from infra.events import Event, Planning
from jobs.console import Common
from jobs.rendering.terminal import sentence

INSTANT, SECONDS_BETWEEN = 0.5, 5.0


class PlanningDisplay:
    """Listens to the events of planning and shows the latest at intervals: a small zoo is planned without a word."""

    def __init__(self, common: Common):
        """A display on stderr, silent with `--quiet`."""
        self._console = Console(stderr=True, quiet=common.quiet, highlight=False)
        self._latest, self._shown = "", ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._show_at_intervals, daemon=True)

    def __enter__(self) -> "PlanningDisplay":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def __call__(self, event: Event) -> None:
        """Takes note of one event."""
        if isinstance(event, Planning):
            place = f" ({event.number} of {event.models})" if event.models > 1 else ""
            self._latest = f"planning: model {event.model}{place}: {event.doing}"

    def _show_at_intervals(self) -> None:
        interval = INSTANT
        while not self._ended.wait(interval):
            interval = SECONDS_BETWEEN
            if self._latest != self._shown:
                self._shown = self._latest
                self._console.print(sentence(self._shown), markup=False, emoji=False, soft_wrap=True)
