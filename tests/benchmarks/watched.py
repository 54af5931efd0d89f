"""One audit in a process of its own: seconds and peak memory of each stage, folders listed, bytes read.

    python -m tests.benchmarks.watched CONFIG [EXECUTOR]

prints one JSON object. Peak memory is the process's, reset when a stage begins (Linux), and of the workers what their
receipts say; listings of folders in the root are counted by an audit hook, so that none is missed.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import current_thread

from infra.events import Event, StageEnded, peak_memory_bytes
from pipeline.config.audit_config import AuditConfig
from pipeline.planning.from_models import plan_audit
from pipeline.results.audit import Audit
from pipeline.root.logs import STAGES, stage_logs
from pipeline.run import run_audit

HIGH_WATER = Path("/proc/self/clear_refs")


LISTINGS = ("os.listdir", "os.scandir")


@dataclass
class Watched:
    """Of one audit, by stage, planning first: seconds, listings, the driver's peak memory (bytes); tasks run; rows.

    `worker_memory`: the most that a task's receipt names, by stage. `objects`: files that the tasks wrote.
    `bytes`: of these files. `object_store`: all bytes that were ever put into Ray's object store, None without Ray.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    listings: dict[str, int] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    worker_memory: dict[str, int] = field(default_factory=dict)
    tasks: dict[str, int] = field(default_factory=dict)
    rows: int = 0
    objects: int = 0
    bytes: int = 0
    object_store: int | None = None


class Watch:
    """Measures phase after phase: each lasts from the end of the one before it until it is said to have ended."""

    def __init__(self, root: str) -> None:
        """Counts listings of folders in the root; none where the root is no folder on a disk."""
        self.found, self._root, self._listings, self._before = Watched(), root, 0, 0
        sys.addaudithook(self._heard)
        self._begin()

    def _heard(self, event: str, arguments: tuple[object, ...]) -> None:
        """Not what the thread that renews the lock lists, at times of its own."""
        if current_thread().name == "lock":
            return
        if event in LISTINGS and str(arguments[0]).startswith(self._root):
            self._listings += 1

    def _begin(self) -> None:
        if HIGH_WATER.exists():
            HIGH_WATER.write_text("5")
        self._start, self._before = time.perf_counter(), self._listings

    def ended(self, phase: str) -> None:
        """Takes down what the phase cost."""
        self.found.seconds[phase] = time.perf_counter() - self._start
        self.found.listings[phase] = self._listings - self._before
        self.found.memory[phase] = peak_memory_bytes()
        self._begin()

    def __call__(self, event: Event) -> None:
        """Listens to a run."""
        if isinstance(event, StageEnded):
            self.ended(event.stage)
            self.found.object_store = object_store_bytes()


def object_store_bytes() -> int | None:
    """All bytes put into the object stores of Ray's nodes since their start; None where Ray is not running here."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return None
    from ray._private.internal_api import node_stats  # noqa: PLC0415 - only where Ray runs; no public interface tells

    nodes = [node for node in ray.nodes() if node["Alive"]]
    stats = [
        node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], include_memory_info=False).store_stats
        for node in nodes
    ]
    return sum(int(one.cumulative_created_bytes) for one in stats)


def watch(config: AuditConfig, executor: str) -> Watched:
    """Plans and runs an audit in this process."""
    watch = Watch(config.root)
    plan = plan_audit(config)
    watch.ended("planning")
    audit = run_audit(plan, executor, listener=watch)
    watch.ended("publication")
    return counted(audit, plan.models[0].name, watch.found)


def counted(audit: Audit, model: str, found: Watched) -> Watched:
    """What the receipts say: tasks, worker memory, files; and the rows of the published table."""
    for stage in STAGES:
        receipts = [receipt for log in stage_logs(audit.storage, model, stage) for receipt in log.receipts().values()]
        found.tasks[stage] = len(receipts)
        found.worker_memory[stage] = max(receipt.measures.peak_memory_bytes for receipt in receipts)
        found.objects += sum(len(receipt.files) + 1 for receipt in receipts)
        found.bytes += sum(file.bytes for receipt in receipts for file in receipt.files)
    found.rows = sum(batch.num_rows for batch in audit.scores(model))
    return found


def watched(path: Path, executor: str = "serial") -> Watched:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.watched", str(path), executor]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=os.environ)
    if done.returncode:
        raise RuntimeError(f"the audit failed: {done.stderr}")
    return Watched(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    print(json.dumps(asdict(watch(AuditConfig.load(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "serial"))))


if __name__ == "__main__":
    main()
