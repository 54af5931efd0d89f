"""The contents of data files on disks, read once so that a later run can tell whether a file is still the same.

Size and time of modification of a file can be set, so they do not prove it: where inode or change time differ from
those that a run recorded, the digest decides (see `pipeline.data.identities`). A file is read for it before the first
run that takes it begins, all of it and in order, by several threads; later runs copy what that one recorded. Objects in
a store have a version that nobody can set, and are not read.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from infra.errors import StorageError
from infra.events import Listener, Notice
from infra.storage.identity import InputFile
from infra.storage.pins import digest_of
from pipeline.data.sources import Source
from pipeline.planning.plan import AuditPlan, ModelPlan

READERS, LARGE = 4, 4 << 30


def with_contents(plan: AuditPlan, listener: Listener) -> AuditPlan:
    """The plan with the digests of its files' contents, as the run's record needs them.

    What cannot be read has none: the tasks that read it say why. Stored rows need none.

    Args:
        plan: of the run.
        listener: told of files that take a while to read.
    """
    files = {(file, file.seen): file for model in plan.models for file in _unread(model)}
    size = sum(file.size for file in files.values())
    if size >= LARGE:
        listener(Notice(f"reading {len(files):,} new files ({size / (1 << 30):,.0f} GiB) once, for their digests"))
    pool = ThreadPoolExecutor(READERS, "contents")
    try:
        digests = dict(zip(files, pool.map(_digest, files.values()), strict=True))
    finally:
        pool.shutdown(cancel_futures=True)

    def read(sources: Iterable[Source]) -> tuple[Source, ...]:
        pairs = ((source, digests.get((source.file, source.file.seen), "")) for source in sources)
        return tuple(replace(one, file=replace(one.file, contents=found)) if found else one for one, found in pairs)

    def with_own(model: ModelPlan) -> ModelPlan:
        recipe = model.recipe
        own = {split: read(getattr(recipe, split)) for split in ("trusted", "audited", "sampling")}
        return replace(model, recipe=recipe.model_copy(update=own))

    return replace(plan, models=tuple(map(with_own, plan.models))) if digests else plan


def _unread(model: ModelPlan) -> Iterable[InputFile]:
    sources = () if model.stored else (*model.sources, *model.sampling)
    return (source.file for source in sources if source.file.seen is not None and not source.file.contents)


def _digest(file: InputFile) -> str:
    try:
        return digest_of(file)
    except StorageError:
        return ""
