"""What a root's completed runs say of the models of a plan: which one is audited first where time may not do for all, and which files are gone.

First come models that no run in this root has completed, then those that changed since their latest completed run (its model
digest, its files or its settings were others), then the rest; among equals the one whose latest completed run is oldest, and then
the order of the config.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from pydantic import JsonValue

from infra.errors import Corrupt
from infra.files import is_pattern
from infra.storage import Storage
from pipeline.artifacts.layout import run_file
from pipeline.plan import AuditPlan, ModelPlan
from pipeline.publication import Document, read_document, read_summary

NEVER, CHANGED, UNCHANGED = range(3)
TASKS_A_WORKER = 4


@dataclass(frozen=True)
class LastAudit:
    """The latest completed run of a model: its id, and what its record says of the model; nothing where that cannot be read."""

    run_id: str
    settings: JsonValue
    digest: JsonValue
    row_key: JsonValue
    sources: Mapping[str, JsonValue]

    def is_of(self, model: ModelPlan) -> bool:
        """Whether it had the very model, files and settings that are planned now."""
        planned = (model.config.model_dump(mode="json"), model.digest, model.row_key, {source.key for source in model.sources})
        return planned == (self.settings, self.digest, self.row_key, set(self.sources))


def last_audits(storage: Storage, plan: AuditPlan) -> dict[str, LastAudit]:
    """The latest completed run of each model of a plan that has one; a damaged document counts as none."""
    records: dict[str, Document] = {}
    found = {}
    for model in plan.models:
        run_id = str((_document(storage, model.name) or {}).get("run_id", ""))
        if run_id:
            records[run_id] = records[run_id] if run_id in records else _record(storage, run_id)
            found[model.name] = _last_audit(run_id, records[run_id], model.name)
    return found


def in_order(plan: AuditPlan, audits: Mapping[str, LastAudit]) -> AuditPlan:
    """The plan with its models in the order in which they are audited."""

    def place(model: ModelPlan) -> tuple[int, str]:
        last = audits.get(model.name)
        return (NEVER, "") if last is None else (UNCHANGED if last.is_of(model) else CHANGED, last.run_id)

    return replace(plan, models=tuple(sorted(plan.models, key=place)))


def waves(models: Sequence[ModelPlan], workers: int) -> Iterator[tuple[ModelPlan, ...]]:
    """Models that go through the stages together, in order: as many as keep so many workers busy with rows, one where there is one worker.

    More would leave more of them unfinished at a deadline, fewer would leave workers without a task.
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
    """Files that the latest completed run found by a glob that the model still names, and that are not there any more."""
    patterns = [path for path in (*model.config.data.trusted, *model.config.data.audited) if is_pattern(path)]
    if last is None or not patterns:
        return ()
    here = {source.file.url for source in model.sources}
    before = {str(file["name"]): file["url"] for file in last.sources.values() if isinstance(file, dict)}
    missing = (name for name, url in before.items() if url not in here and name not in model.refused_files)
    return tuple(sorted(name for name in missing if any(fnmatchcase(name, pattern) for pattern in patterns)))


def _last_audit(run_id: str, record: Document, name: str) -> LastAudit:
    config, planned = _mapping(record.get("config")), _mapping(_mapping(record.get("models")).get(name))
    models = config.get("models")
    settings = [model for model in models if _mapping(model).get("name") == name] if isinstance(models, list) else []
    return LastAudit(run_id, settings[0] if settings else None, planned.get("digest"), planned.get("row_key"), _mapping(planned.get("sources")))


def _document(storage: Storage, model: str) -> Document | None:
    try:
        return read_summary(storage, model)
    except Corrupt:
        return None


def _record(storage: Storage, run_id: str) -> Document:
    try:
        return read_document(storage, run_file(run_id)) or {}
    except Corrupt:
        return {}


def _mapping(value: JsonValue) -> Document:
    return value if isinstance(value, dict) else {}
