"""Progress on stderr: a bar per stage on a terminal, a line per stage elsewhere."""

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from infra.events import Event, Notice, StageEnded, StageStarted, TaskEnded
from jobs.console import Common
from jobs.rendering.terminal import printable, sentence


class ProgressDisplay:
    """Listens to the events of a run and shows them."""

    def __init__(self, common: Common):
        """A display on stderr, silent with `--quiet`."""
        self._console = Console(stderr=True, quiet=common.quiet, highlight=False)
        self._bars = Progress(
            TextColumn("{task.description:>10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("tasks"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not sys.stderr.isatty(),
        )
        self._traces = common.verbose > 0
        self._stages: dict[str, TaskID] = {}
        self._reused: dict[str, int] = {}

    def __enter__(self) -> "ProgressDisplay":
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def __call__(self, event: Event) -> None:
        """Shows one event."""
        match event:
            case StageStarted(stage, tasks, reused):
                self._start(stage, tasks, reused)
            case TaskEnded(stage, model, _, error, trace):
                self._bars.advance(self._stages[stage])
                if error:
                    self._print(sentence(f"{stage}: a task of model {model} failed: {error}"))
                if self._traces and trace:
                    self._print(printable(trace))
            case StageEnded(stage, seconds):
                self._end(stage, seconds)
            case Notice(text):
                self._print(sentence(text))

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, emoji=False, soft_wrap=True)

    def _start(self, stage: str, tasks: int, reused: int) -> None:
        self._reused[stage] = self._reused.get(stage, 0) + reused
        if stage not in self._stages:
            self._stages[stage] = self._bars.add_task(stage, total=tasks, completed=reused)
            return
        bar = self._bars.tasks[self._stages[stage]]
        self._bars.update(bar.id, total=(bar.total or 0) + tasks, advance=reused)

    def _end(self, stage: str, seconds: float) -> None:
        bar = self._bars.tasks[self._stages[stage]]
        if not sys.stderr.isatty():
            done = f"{int(bar.completed)} of {int(bar.total or 0)} tasks"
            self._print(f"{stage}: {done}, {self._reused[stage]} of them reused, {seconds:.1f} s")
