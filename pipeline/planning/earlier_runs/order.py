"""What completed runs say about the models of a plan: which to audit first when time is short, which files are gone.

First come models that no run in this root has completed, then those that changed since their latest completed run
(another model digest, other files or other settings), then the rest; among equals the one whose latest completed run
is oldest, and then the order of the config.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from pydantic import JsonValue

from infra.errors import Corrupt
from infra.storage.globs import is_pattern
from infra.storage.storage import Storage
from pipeline.planning.plan import AuditPlan, ModelPlan
from pipeline.root.records import ModelRecord, read_summary
from pipeline.root.runs import Runs
from pipeline.root.summary import NO_SUMMARIES, Summary

NEVER, CHANGED, UNCHANGED = range(3)


TASKS_A_WORKER = 4


@dataclass(frozen=True)
class LastAudit:
    """The latest completed run of a model: its id, the model's settings in it, and how it was planned.

    Settings and plan are empty where its record cannot be read.
    """

    run_id: str
    settings: Mapping[str, JsonValue]
    planned: ModelRecord
    summary: Summary | None = None

    def is_of(self, model: ModelPlan) -> bool:
        """Whether it had the same model, files and settings as this plan."""
        return self.is_like(model) and {source.key for source in model.sources} == set(self.planned.sources)

    def is_like(self, model: ModelPlan) -> bool:
        """Whether it had the same model and settings, whatever the files."""
        planned = (model.config.model_dump(mode="json"), model.digest, model.row_key)
        return planned == (self.settings, self.planned.digest, self.planned.row_key)


def last_audits(storage: Storage, plan: AuditPlan, shown: Mapping[str, Summary] = NO_SUMMARIES) -> dict[str, LastAudit]:
    """The latest completed run of each model of a plan that has one; a damaged document counts as none.

    Args:
        storage: of the root.
        plan: the models.
        shown: the latest summaries of models, as far as they have been read already.
    """
    known, found = Runs(storage), {}
    for model in plan.models:
        with suppress(Corrupt):
            summary = shown.get(model.name) or read_summary(storage, model.name)
            if summary is not None:
                record = known.record(summary.run_id)
                planned = record.models.get(model.name, ModelRecord())
                found[model.name] = LastAudit(summary.run_id, record.settings(model.name), planned, summary)
    return found


def in_order(plan: AuditPlan, audits: Mapping[str, LastAudit]) -> AuditPlan:
    """The plan with its models in the order in which to audit them."""

    def place(model: ModelPlan) -> tuple[int, str]:
        last = audits.get(model.name)
        return (NEVER, "") if last is None else (UNCHANGED if last.is_of(model) else CHANGED, last.run_id)

    return replace(plan, models=tuple(sorted(plan.models, key=place)))


def waves(models: Sequence[ModelPlan], workers: int) -> Iterator[tuple[ModelPlan, ...]]:
    """Models that go through the stages together, in order: as many as keep the workers busy; one for one worker.

    More models would leave more of them unfinished at a deadline; fewer would leave workers without a task.
    """
    wave: list[ModelPlan] = []
    tasks = 0
    for model in models:
        wave.append(model)
        tasks += len(model.row_tasks)
        if workers == 1 or tasks >= TASKS_A_WORKER * workers:
            yield tuple(wave)
            wave, tasks = [], 0
    if wave:
        yield tuple(wave)


def gone_files(model: ModelPlan, last: LastAudit | None) -> tuple[str, ...]:
    """Files that the latest completed run found by a glob or in a folder that the model still names, and are gone."""
    named = (*model.config.data.trusted, *model.config.data.audited)
    patterns = [path if is_pattern(path) else f"{path.rstrip('/')}/*" for path in named]
    if last is None:
        return ()
    here = {source.file.url for source in model.sources}
    before = {file.name: file.url for file in last.planned.sources.values()}
    missing = (name for name, url in before.items() if url not in here and name not in model.refused_files)
    return tuple(sorted(name for name in missing if any(fnmatchcase(name, pattern) for pattern in patterns)))
