"""The driver's part of the curvature stage: which tasks there are, step after step, of all models together.

What a task does is in `pipeline.stages.curvature.worker`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from infra.commits import CommitLog, Receipt
from pipeline.artifacts.parts import CurvatureFolders
from pipeline.keys import key_of
from pipeline.root.logs import BASIS, EIGENVALUES, FACTOR, MOMENT, SPLIT, curvature_log
from pipeline.stages.curvature.tasks import (
    CurvatureTask,
    curvature_key,
    moment_ranges,
    references_name,
    transductive_parts,
)
from pipeline.stages.curvature.worker import CurvatureWorker
from pipeline.stages.progress import ModelRun
from pipeline.stages.runner import Job, StageInputs

Tasks = dict[str, CurvatureTask]


def run_curvature(inputs: StageInputs) -> None:
    """Make the curvature of all models; what scoring needs of it is noted in each `ModelRun`."""
    _CurvatureTasks(inputs).run()


@dataclass(frozen=True)
class _CurvatureTasks:
    """Runs the tasks. `logs` and `receipts` are those of each model so far, receipts in the order of their tasks."""

    inputs: StageInputs
    logs: dict[str, CommitLog] = field(default_factory=dict)
    receipts: dict[str, list[Receipt]] = field(default_factory=dict)

    def run(self) -> None:
        """Run all steps; what each model's scoring needs of them is noted in its `ModelRun`."""
        tasks = self._split({model.plan.name: self._first(model) for model in self.inputs.runner.runnable})
        factors = self._factored({name: task for name, task in tasks.items() if self._kind(name) != "identity"})
        whole = {
            name: replace(
                tasks[name], name=references_name(self.inputs.plans[name]), factor=factors.get(name, ""), audited=()
            )
            for name in self._runnable(tasks)
        }
        for name in self._step(whole):
            used = self.receipts[name][-2 if name in factors else -1 :]
            content = key_of(contents=[receipt.content for receipt in used])
            model = self.inputs.runner.models[name]
            model.curvature = CurvatureFolders(factors.get(name, ""), self.logs[name].attempt_folder(used[-1]), content)
            model.manifests["curvature"] = [model.publish(self.logs[name], self.receipts[name])]

    def _first(self, model: ModelRun) -> CurvatureTask:
        """The first task of a model, which splits its trusted set; opens the model's log."""
        plan, audited = model.plan, transductive_parts(model.plan, model.audited)
        more = transductive_parts(plan, model.curvature_audited)
        if plan.config.curvature.kind == "ekfac":
            in_key = (*more, *audited)
        else:
            in_key = more if plan.labels_per_sample else audited
        key = curvature_key(plan, model.trusted, in_key, model.curvature_trusted)
        self.logs[plan.name] = curvature_log(self.inputs.storage, plan.name, key)
        return CurvatureTask(plan.name, SPLIT, key, model.trusted, audited)

    def _split(self, tasks: Tasks) -> Tasks:
        """The tasks on the samples' own rows, once their split is there."""
        folders = self._step(tasks)
        return {name: replace(tasks[name], split=folder, last=tasks[name].length) for name, folder in folders.items()}

    def _factored(self, tasks: Tasks) -> dict[str, str]:
        """The folders of the factored curvatures, by model."""
        summed = self._add_up({name: self._on_curvature_rows(task) for name, task in tasks.items()}, MOMENT)
        ekfac = {name: replace(task, name=BASIS) for name, task in summed.items() if self._kind(name) == "ekfac"}
        bases = self._step(ekfac)
        rotated = {name: replace(tasks[name], basis=folder) for name, folder in bases.items()}
        along = self._add_up(rotated, EIGENVALUES)
        last = {name: along.get(name, summed[name]) for name in self._runnable(summed)}
        return self._step({name: replace(task, name=FACTOR) for name, task in last.items()})

    def _on_curvature_rows(self, task: CurvatureTask) -> CurvatureTask:
        """The task on the rows that its model's curvature is made of."""
        model = self.inputs.runner.models[task.model]
        if not model.plan.labels_per_sample:
            return task
        on_own = replace(
            task,
            parts=model.curvature_trusted,
            audited=transductive_parts(model.plan, model.curvature_audited),
            rows_per_sample=model.plan.labels_per_sample,
        )
        return replace(on_own, last=on_own.length)

    def _add_up(self, tasks: Tasks, kind: str) -> Tasks:
        """Add up parts, then sums of parts, until few enough are left; returns the tasks that add up what is left."""
        level = 0
        while any(moment_ranges(task.last) for task in tasks.values()):
            ranges = {name: own for name, task in tasks.items() if (own := moment_ranges(task.last))}
            jobs = {
                name: [tasks[name].of_range(f"{kind}-{level}-{first:06d}", first, last) for first, last in own]
                for name, own in ranges.items()
            }
            for name, receipts in self._run(jobs).items():
                folders = tuple(self.logs[name].attempt_folder(receipt) for receipt in receipts)
                tasks[name] = replace(tasks[name], moments=folders, last=len(folders), audited=())
            tasks, level = {name: tasks[name] for name in self._runnable(tasks)}, level + 1
        return tasks

    def _step(self, tasks: Tasks) -> dict[str, str]:
        """Run a task of each model; returns their folders."""
        done = self._run({name: [task] for name, task in tasks.items()})
        return {name: self.logs[name].attempt_folder(receipt) for name, (receipt,) in done.items()}

    def _run(self, tasks: Mapping[str, Sequence[CurvatureTask]]) -> dict[str, list[Receipt]]:
        """Run tasks of each model; a model with a failed task has failed."""
        jobs = {name: [Job(self.logs[name], task) for task in own] for name, own in tasks.items()}
        runner = self.inputs.runner
        worker = partial(CurvatureWorker, self.inputs.storage.url, self.inputs.plans)
        done = runner.receipts_of_complete(runner.run("curvature", worker, jobs))
        for name, receipts in done.items():
            self.receipts.setdefault(name, []).extend(receipts)
        return done

    def _kind(self, name: str) -> str:
        return self.inputs.plans[name].config.curvature.kind

    def _runnable(self, tasks: Tasks) -> list[str]:
        """The models of these tasks that can continue."""
        return [name for name in tasks if self.inputs.runner.models[name].runnable]
