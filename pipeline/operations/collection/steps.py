"""What one `mad gc` does with the garbage of a root: it removes what is due, and lists the rest for a later one."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from infra.storage.removal import entries
from infra.storage.storage import Storage
from pipeline.operations.collection.garbage import RECORD, Garbage, Removal, find_garbage
from pipeline.operations.collection.lists import Lists, read_lists
from pipeline.root.mark import LOCK


@dataclass(frozen=True)
class Collection:
    """What one `mad gc` does.

    `removed`: what an earlier one listed, and is still garbage. `listed`: what a later one may remove, from `due` on
    (seconds since 1970; None where nothing is listed). `new`: the part of it that is in no list yet. `spent`: paths of
    the lists that this one has worked off. `kept`: how many runs stay. `notes`: what cannot be read.
    """

    removed: Garbage
    listed: Garbage
    due: int | None
    new: Sequence[Removal]
    spent: Sequence[str]
    kept: int
    notes: Sequence[str]


def next_collection(
    storage: Storage, keep_seconds: float, lease_seconds: float, now: float | None = None
) -> Collection:
    """What `collect` would do. Writes nothing.

    Args:
        storage: of the root.
        keep_seconds: as in `find_garbage`.
        lease_seconds: how long garbage is listed before it is removed.
        now: as in `find_garbage`.

    Raises:
        RootError, Corrupt: as `find_garbage`.
    """
    found, at = find_garbage(storage, keep_seconds, now), _store_time(storage) if now is None else now
    lists = read_lists(storage, at, lease_seconds)
    unlisted = _first_unlisted(found.removals, lists)
    removed = [
        one for one in found.removals if lists.is_due(one.entry) and one.order <= unlisted.get(one.unit, one.order)
    ]
    going = {one.entry.path for one in removed}
    listed = [one for one in found.removals if one.entry.path not in going]
    new = [one for one in listed if not lists.is_early(one.entry)]
    latest = at if new else lists.last
    gone = [run_id for run_id in found.gone if run_id not in unlisted]
    later = [run_id for run_id in found.gone if run_id in unlisted]
    return Collection(
        removed=Garbage(removed, _marked(found, removed, gone), gone),
        listed=Garbage(listed, _marked(found, listed, later), later),
        due=ceil(latest + lease_seconds) if listed and latest is not None else None,
        new=new,
        spent=lists.spent,
        kept=found.kept,
        notes=[*found.notes, *lists.notes],
    )


def _first_unlisted(removals: Sequence[Removal], lists: Lists) -> dict[str, int]:
    """By run or commit log, the first place in the order of which something is not due: what comes later waits."""
    found = dict[str, int]()
    for removal in removals:
        if not lists.is_due(removal.entry):
            found[removal.unit] = min(removal.order, found.get(removal.unit, removal.order))
    return found


def _marked(found: Garbage, removals: Sequence[Removal], gone: Sequence[str]) -> list[str]:
    """The runs that lose results by these removals, or are removed whole."""
    losing = {*gone, *(removal.unit for removal in removals if removal.order <= RECORD)}
    return [run_id for run_id in found.marked if run_id in losing]


def _store_time(storage: Storage) -> float:
    """The present on the store's clock: that of the lock's latest claim, which its owner has just written."""
    return max((entry.modified for entry in entries(storage, LOCK)), default=time.time())
