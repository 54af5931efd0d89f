"""Runs audits in processes of their own and kills them at a chosen file operation.

A moment is an operation by which storage changes: a scratch file opened, a file given its name. Python's audit hooks announce
each one just before it happens, so a process can kill itself there with SIGKILL: real, sudden and repeatable.
"""

import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path

from pipeline.artifacts.logs import STAGES
from pipeline.config import AuditConfig, Raw
from pipeline.planning import plan_audit
from pipeline.run import run_audit

PUBLICATION = "publication"
SPAWN = multiprocessing.get_context("forkserver")
SPAWN.set_forkserver_preload(["pipeline.run", "tests.end_to_end.killing"])


class Moments:
    """Counts moments below a root; kills the process at one of them, if told to."""

    def __init__(self, root: str, kill_at: int | None):
        self.root, self.kill_at = root, kill_at
        self.stages: list[str] = []
        self._unnamed = 0

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and f"{self.root}/.tmp/" in str(arguments[0]):
            self._unnamed += 1
        elif event in ("os.link", "os.rename") and str(arguments[1]).startswith(self.root):
            self.stages += [stage_of(str(arguments[1])[len(self.root) + 1 :])] * (self._unnamed + 1)
            self._unnamed = 0
        else:
            return
        if self.kill_at is not None and len(self.stages) + self._unnamed > self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


def stage_of(path: str) -> str:
    parts = path.split("/")
    return parts[1] if len(parts) > 2 and parts[1] in STAGES else PUBLICATION


def audit_in_process(raw: Raw, folder: Path, notes: Path, kill_at: int | None = None) -> int:
    """Runs an audit in a process of its own; its costs and moments are in `notes` if it ends. Returns the exit code."""
    process = SPAWN.Process(target=_audit, args=(raw, str(folder), str(notes), kill_at))
    process.start()
    process.join(120)
    assert process.exitcode is not None, "the audit did not end within 120 s"
    return process.exitcode


def _audit(raw: Raw, folder: str, notes: str, kill_at: int | None) -> None:
    config = AuditConfig.parse(raw, folder)
    plan = plan_audit(config)
    moments = Moments(config.root, kill_at)
    sys.addaudithook(moments)
    outcome = run_audit(plan).outcome
    assert outcome is not None
    Path(notes).write_text(json.dumps({"stages": outcome.stages, "moments": moments.stages, "failures": dict(outcome.failures)}))
