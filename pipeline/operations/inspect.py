"""What is committed in a root: of each model, stage and task. Reads only."""

from infra.commits import CommitLog, Receipt
from infra.errors import StorageError
from infra.storage.storage import Storage
from pipeline.errors import RootError
from pipeline.root.documents import DocumentPart
from pipeline.root.layout import models
from pipeline.root.logs import STAGES, stage_logs
from pipeline.root.mark import MARK, open_root, root_storage
from pipeline.root.records import read_summary
from pipeline.root.summary import Summary


class StageContents(DocumentPart):
    """The committed tasks of a stage, in numbers; `problems`: why receipts cannot be read."""

    problems: tuple[str, ...]
    tasks: int
    rows: int
    bytes: int
    seconds: float | int


class TaskContents(DocumentPart):
    """A committed task."""

    task: str
    generation: int
    folder: str
    bytes: int
    rows: int
    seconds: float
    peak_memory_bytes: int
    computing_seconds: float
    nonfinite: int
    unreadable: int


class LogContents(DocumentPart):
    """A commit log: its manifests, and the receipts of its tasks."""

    manifests: tuple[str, ...]
    tasks: tuple[TaskContents, ...]


class Unreadable(DocumentPart):
    """Why a document cannot be read."""

    unreadable: str


class RootInspection(DocumentPart):
    """A root: by model, its stages."""

    root: str
    models: dict[str, dict[str, StageContents]]


class ModelInspection(DocumentPart):
    """A model: its stages, and its latest summary."""

    model: str
    stages: dict[str, StageContents]
    summary: Summary | Unreadable | None


class StageInspection(DocumentPart):
    """A stage: its commit logs, by folder."""

    model: str
    stage: str
    keys: dict[str, LogContents]


def split_place(place: str) -> tuple[Storage, list[str]]:
    """The root in `ROOT[/MODEL[/STAGE]]`, and what follows it.

    Raises:
        RootError: there is no root at the place or up to two levels above.
    """
    head, rest = place.rstrip("/"), list[str]()
    while len(rest) <= 2:
        storage = root_storage(head)
        if storage.exists(MARK):
            return storage, rest
        head, _, last = head.rpartition("/")
        rest.insert(0, last)
        if not head or head.endswith(":/"):
            break
    open_root(root_storage(place))
    raise RootError(f"{place}: not a root, nor a model or stage of one")


def inspect(place: str) -> RootInspection | ModelInspection | StageInspection:
    """What is committed at `ROOT[/MODEL[/STAGE]]`: models; a model's stages and summary; a stage's tasks.

    Raises:
        RootError: there is no such root, model or stage.
    """
    storage, rest = split_place(place)
    open_root(storage)
    known = models(storage)
    if not rest:
        return RootInspection(root=storage.url, models={name: _stages(storage, name) for name in known})
    model = rest[0]
    if model not in known:
        raise RootError(f"{storage.url}: there is no model {model!r}; models here: {', '.join(known) or 'none'}")
    if len(rest) == 1:
        return ModelInspection(model=model, stages=_stages(storage, model), summary=_summary(storage, model))
    stage = rest[1]
    if stage not in STAGES:
        raise RootError(f"there is no stage {stage!r}; stages: {', '.join(STAGES)}")
    logs = {log.folder: _log(log) for log in stage_logs(storage, model, stage)}
    return StageInspection(model=model, stage=stage, keys=logs)


def _summary(storage: Storage, name: str) -> Summary | Unreadable | None:
    try:
        return read_summary(storage, name)
    except StorageError as error:
        return Unreadable(unreadable=str(error))


def _stages(storage: Storage, name: str) -> dict[str, StageContents]:
    stages = {}
    for stage in STAGES:
        receipts, problems = list[Receipt](), list[str]()
        for log in stage_logs(storage, name, stage):
            try:
                receipts += log.receipts().values()
            except StorageError as error:
                problems.append(str(error))
        stages[stage] = StageContents(
            problems=tuple(problems),
            tasks=len(receipts),
            rows=sum(receipt.measures.rows for receipt in receipts),
            bytes=sum(file.bytes for receipt in receipts for file in receipt.files),
            seconds=round(sum(receipt.measures.seconds for receipt in receipts), 3),
        )
    return stages


def _log(log: CommitLog) -> LogContents:
    tasks = tuple(_task(log, receipt) for _, receipt in sorted(log.receipts().items()))
    return LogContents(manifests=tuple(log.manifests()), tasks=tasks)


def _task(log: CommitLog, receipt: Receipt) -> TaskContents:
    of_receipt = {
        "task": receipt.task,
        "generation": receipt.generation,
        "folder": log.attempt_folder(receipt),
        "bytes": sum(file.bytes for file in receipt.files),
    }
    return TaskContents.model_validate(of_receipt | receipt.measures.model_dump())
