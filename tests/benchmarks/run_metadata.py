"""The metadata of an audit of any size: plan, receipts and manifests of workers that compute nothing.

    python -m tests.benchmarks.run_metadata CONFIG ROOT SAMPLES

Files of audited samples are described and not written; otherwise the plan is a real one of CONFIG's first model.
Each task's worker commits three tiny files and a receipt through the commit log that every run uses, each settled on
the disk (fsync) where ROOT is one, from threads of two processes. The step runner of a run then
tracks them, and phases are timed apart:

- `created`: planning, and all tasks committed;
- `resumed`: the driver was killed before it published, so each receipt is read on its own;
- `published`: manifests written, a source each;
- `reused`: another night, in which manifests say everything.

The last line is one JSON object: seconds, listings and peak memory (bytes, of the driver) of each phase, tasks, and
objects a task.
"""

import json
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

from infra.commits import Measures, Receipt
from infra.events import ignore
from infra.execution.contract import Resources, TaskOutcome, never
from infra.storage.identity import InputFile
from infra.storage.storage import Storage
from pipeline.config.audit_config import AuditConfig
from pipeline.data.sources import Source
from pipeline.planning.from_models import plan_audit
from pipeline.planning.plan import ModelPlan, RowTask
from pipeline.root.logs import rows_log
from pipeline.stages.progress import ModelRun
from pipeline.stages.runner import Failure, Job, StepRunner
from tests.benchmarks.watched import Watch, Watched

ROWS_PER_FILE, PROCESSES, THREADS, AT_ONCE = 1 << 20, 2, 16, 256


TINY = {"rows/zarr.json": b"{}", "rows/c/0/0": bytes(64), "samples.arrow": bytes(64)}


def described(plan: ModelPlan, samples: int) -> ModelPlan:
    """The plan of an audit of so many samples, in files that do not exist."""
    columns, sources = plan.audited[0].columns, []
    for number, start in enumerate(range(0, samples, ROWS_PER_FILE)):
        rows = min(ROWS_PER_FILE, samples - start)
        sources.append(
            Source(
                InputFile(f"inputs/{number:05d}.parquet", f"/nowhere/{number:05d}.parquet", 600 * rows, f"{number}"),
                rows,
                columns,
                (),
            )
        )
    return replace(plan, recipe=plan.recipe.model_copy(update={"trusted": (), "audited": tuple(sources)}))


@dataclass(frozen=True)
class Pretender:
    """A worker that commits what a task would, and computes nothing."""

    root: str
    row_key: str

    def __call__(self, task: RowTask) -> Receipt:
        """Three tiny files and a receipt."""
        log = rows_log(Storage(self.root), task.model, self.row_key, task.source_key)
        return log.commit(task.name, TINY, Measures(rows=task.stop - task.start, seconds=1.0, peak_memory_bytes=1))


def _several(worker: Callable[[RowTask], Receipt], tasks: Sequence[RowTask]) -> list[TaskOutcome[RowTask, Receipt]]:
    with ThreadPoolExecutor(THREADS) as threads:
        return [TaskOutcome(task, receipt) for task, receipt in zip(tasks, threads.map(worker, tasks), strict=True)]


class Crowd:
    """An executor whose workers are threads of a few processes; it keeps a few hundred tasks in flight."""

    def map_unordered(
        self,
        worker_factory: Callable[[], Callable[[RowTask], Receipt]],
        tasks: Iterable[RowTask],
        resources: Resources,
        closed: Callable[[], bool] = never,
    ) -> Iterator[TaskOutcome[RowTask, Receipt]]:
        """One outcome per task."""
        worker, waiting, running = worker_factory(), iter(tasks), deque[Future[list[TaskOutcome[RowTask, Receipt]]]]()
        with ProcessPoolExecutor(PROCESSES, get_context("spawn")) as pool:
            while together := list(islice(waiting, AT_ONCE)):
                running.append(pool.submit(_several, worker, together))
                if len(running) > 2 * PROCESSES:
                    yield from running.popleft().result()
            while running:
                yield from running.popleft().result()


class RunMetadata:
    """The gradients stage of one model, as a run keeps it."""

    def __init__(self, plan: ModelPlan, storage: Storage):
        self._plan, self._storage = plan, storage

    def run(self) -> tuple[int, list[Receipt]]:
        """Runs what is not done yet; returns how many tasks that were, and all receipts in order."""
        model = ModelRun(self._plan)
        runner: StepRunner = StepRunner({self._plan.name: model}, Crowd(), Resources(), ignore)
        jobs = [
            Job(rows_log(self._storage, task.model, self._plan.row_key, task.source_key), task)
            for task in self._plan.row_tasks
        ]
        results = runner.run(
            "gradients", partial(Pretender, self._storage.url, self._plan.row_key), {self._plan.name: jobs}
        )[self._plan.name]
        lost = [result.reason for result in results if isinstance(result, Failure)]
        if lost or model.failure:
            raise RuntimeError(f"{len(lost)} tasks failed: {[model.failure, *lost][-1]}")
        return model.stages["gradients"].tasks_run, [result for result in results if isinstance(result, Receipt)]

    def publish(self, receipts: Sequence[Receipt]) -> None:
        """A manifest for each source."""
        remaining = iter(receipts)
        for source in self._plan.audited:
            own = [next(remaining) for _ in self._plan.tasks(source)]
            rows_log(self._storage, self._plan.name, self._plan.row_key, source.key).publish(own)


def keep(config: AuditConfig, root: str, samples: int) -> Watched:
    """All phases."""
    watch, storage = Watch(root), Storage(root)
    plan = described(plan_audit(config).models[0], samples)
    run = RunMetadata(plan, storage).run()[0]
    watch.ended("created")
    resumed, receipts = RunMetadata(plan, storage).run()
    watch.ended("resumed")
    RunMetadata(plan, storage).publish(receipts)
    attempts = [receipt.attempt for receipt in receipts]
    del receipts  # a night's run holds its own only
    watch.ended("published")
    reused, again = RunMetadata(plan, storage).run()
    watch.ended("reused")
    if (
        (resumed, reused) != (0, 0)
        or attempts != [receipt.attempt for receipt in again]
        or sum(receipt.measures.rows for receipt in again) != samples
    ):
        raise RuntimeError(f"of {run} tasks {resumed} and then {reused} were run again, or rows are lost")
    watch.found.tasks, watch.found.rows = {"gradients": run}, samples
    watch.found.objects = sum(1 for _ in storage.walk(f"{plan.name}/gradients"))
    return watch.found


def main() -> None:
    print(json.dumps(asdict(keep(AuditConfig.load(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3])))))


if __name__ == "__main__":
    main()
