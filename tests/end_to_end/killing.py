"""Runs audits in processes of their own and kills them, suddenly and repeatably, with SIGKILL at a chosen moment.

On a disk a moment is an operation by which storage changes: a scratch file opened, a file given its name. Python's
audit hooks announce each one just before it happens, so a process can kill itself there. On S3 a moment is a request
that writes, as a relay sees it: either just before the store hears of it, or when the store has done it and before the
client hears of that.
"""

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Condition, Event, Lock, current_thread
from urllib.parse import unquote

from pipeline.config.audit_config import AuditConfig
from pipeline.config.sections import Raw
from pipeline.planning import chains
from pipeline.planning.from_models import plan_audit
from pipeline.root.logs import STAGES
from pipeline.run import run_audit
from tests.infra.relays import WRITES, Exchange, pass_on
from tests.processes import FORKED, ended

PUBLICATION = "publication"


TIMED = ".lock/"  # renewed at intervals, so a killed run may not reach it


@dataclass(frozen=True)
class AuditProcess:
    """An audit to run in a process of its own: its config, relative to a folder, and the variables of its environment.

    Its costs, and its moments on a disk, are in the file `notes` if it ends by itself. `task_draws`: how many draws of
    a chain a segment has, so that a short chain has several.
    """

    raw: Raw
    folder: Path
    notes: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    task_draws: int = chains.TASK_DRAWS

    def start(self, kill_at: int | None = None) -> BaseProcess:
        """Starts it; it kills itself at this moment on a disk, if told to."""
        process = FORKED.Process(target=_audit, args=(self, kill_at))
        process.start()
        return process

    def run(self, kill_at: int | None = None) -> int:
        """Runs it to its end, and returns the exit code."""
        return ended(self.start(kill_at))

    def moments(self) -> list[str]:
        """The stages of its moments on a disk, in order."""
        stages: list[str] = json.loads(self.notes.read_text())["moments"]
        return stages

    def costs(self, model: str) -> Mapping[str, Mapping[str, int]]:
        """What it did for a model, by stage."""
        costs: Mapping[str, Mapping[str, int]] = json.loads(self.notes.read_text())["stages"][model]
        return costs


def stage_of(path: str) -> str:
    """The stage that writes a path, relative to the root."""
    parts = path.split("/")
    return parts[1] if len(parts) > 2 and parts[1] in STAGES else PUBLICATION


class Moments:
    """Counts moments below a root on a disk; kills the process at one of them, if told to.

    What the thread that renews the lock writes, it writes at times of its own: no moments that could be met again.
    """

    def __init__(self, root: str, kill_at: int | None):
        self.root, self.kill_at = root, kill_at
        self.stages: list[str] = []
        self._unnamed = 0

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if current_thread().name == "lock":
            return
        if event == "open" and f"{self.root}/.tmp/" in str(arguments[0]):
            self._unnamed += 1
        elif event in ("os.link", "os.rename") and str(arguments[1]).startswith(self.root):
            self.stages += [stage_of(str(arguments[1])[len(self.root) + 1 :])] * (self._unnamed + 1)
            self._unnamed = 0
        else:
            return
        if self.kill_at is not None and len(self.stages) + self._unnamed > self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


class WritesSeen:
    """A relay's plan that counts writes below a root on S3 by stage, and kills their sender at one if told to.

    Args:
        root: BUCKET/FOLDER.
        kill_at: the stage, and which of its requests; None never kills.
        done: whether the store does what is asked in it.
    """

    def __init__(self, root: str, kill_at: tuple[str, int] | None = None, done: bool = False):
        self.root, self.kill_at, self.done = root, kill_at, done
        self.counts: Counter[str] = Counter()
        self._process, self._known, self._lock = 0, Event(), Lock()
        self._under_way, self._idle = 0, Condition()

    def watch(self, process: BaseProcess) -> None:
        """Names the process, which has begun; until then nothing is passed on."""
        assert process.pid is not None
        self._process = process.pid
        self._known.set()

    def await_end(self) -> None:
        """Until the store has done what the killed process still asked of it."""
        with self._idle:
            assert self._idle.wait_for(lambda: not self._under_way, 60), "the store does not answer"

    def __call__(self, exchange: Exchange) -> None:
        with self._idle:
            self._under_way += 1
        try:
            self._answer(exchange)
        finally:
            with self._idle:
                self._under_way -= 1
                self._idle.notify_all()

    def _answer(self, exchange: Exchange) -> None:
        assert self._known.wait(60), "the process that sends these requests is not known"
        path = unquote(exchange.path.partition("?")[0]).removeprefix(f"/{self.root}/")
        if exchange.command not in WRITES or path.startswith(TIMED):
            return pass_on(exchange)
        with self._lock:
            moment = (stage_of(path), self.counts[stage_of(path)])
            self.counts[stage_of(path)] += 1
        if moment != self.kill_at:
            return pass_on(exchange)
        if self.done:
            exchange.ask_store()
        os.kill(self._process, signal.SIGKILL)
        return exchange.hang_up()


def _audit(audit: AuditProcess, kill_at: int | None) -> None:
    """In the new process, whose environment is the fork server's."""
    os.environ.update(audit.environment)
    chains.TASK_DRAWS = audit.task_draws
    config = AuditConfig.parse(audit.raw, str(audit.folder))
    plan = plan_audit(config)
    moments = Moments(config.root, kill_at)
    sys.addaudithook(moments)
    outcome = run_audit(plan).outcome
    assert outcome is not None
    stages = {
        name: {stage: cost.json_object for stage, cost in of_model.items()} for name, of_model in outcome.stages.items()
    }
    notes = {"stages": stages, "moments": moments.stages, "failures": dict(outcome.failures)}
    audit.notes.write_text(json.dumps(notes))
