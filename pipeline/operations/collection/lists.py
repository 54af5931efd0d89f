"""Lists of garbage: `mad gc` removes what an earlier one listed in a document, one lease of the lock before.

A driver that was at work when the list was written has ended by then, or learned that it lost the lock; and what it
still came to use is found to be in use, and stays. An entry of a list is for one file as it was: a path that has been
written again since is not listed.

    .gc/20261122T184455123Z.json
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from infra.errors import Corrupt
from infra.events import stamp_after, utc_stamp
from infra.formats.documents import FORMAT, encode, parse
from infra.storage.removal import Entry, entries
from infra.storage.storage import Storage
from pipeline.operations.collection.garbage import Removal
from pipeline.root.layout import REMOVAL_LISTS, removal_list_file


class RemovalList(BaseModel):
    """What one `mad gc` listed: by path, when each file was last written, in seconds since 1970."""

    model_config = ConfigDict(frozen=True)
    format: int = FORMAT
    files: dict[str, float]


@dataclass(frozen=True)
class Lists:
    """What the lists of a root name, by path, with the time when it was last written.

    `due` has been listed for a lease, `early` has not. `spent`: paths of the lists that are due. `last`: when the
    latest of the others was written, on the store's clock; None where there is none. `notes`: lists that cannot be
    read, which count as spent.
    """

    due: Mapping[str, float]
    early: Mapping[str, float]
    spent: Sequence[str]
    last: float | None
    notes: Sequence[str]

    def is_due(self, entry: Entry) -> bool:
        """Whether a file was listed long enough ago, and not written since."""
        return self.due.get(entry.path) == entry.modified

    def is_early(self, entry: Entry) -> bool:
        """Whether a file has been listed, but not long enough ago."""
        return self.early.get(entry.path) == entry.modified


def read_lists(storage: Storage, now: float, lease_seconds: float) -> Lists:
    """The lists of a root at a time in seconds since 1970, on the store's clock."""
    due, early, spent, notes = dict[str, float](), dict[str, float](), list[str](), list[str]()
    last: float | None = None
    for entry in entries(storage, REMOVAL_LISTS):
        try:
            files = parse(storage.read(entry.path), RemovalList, storage.locate(entry.path)).files
        except Corrupt as error:
            notes.append(f"{error}; what it lists is listed again")
            spent.append(entry.path)
            continue
        if entry.modified + lease_seconds <= now:
            due |= files
            spent.append(entry.path)
        else:
            early |= files
            last = max(last or 0.0, entry.modified)
    return Lists(due, early, spent, last, notes)


def write_list(storage: Storage, removals: Sequence[Removal]) -> float:
    """List what a later `mad gc` may remove; returns when that was, on the store's clock."""
    files = {removal.entry.path: removal.entry.modified for removal in removals}
    latest = max(storage.walk(REMOVAL_LISTS), default="").rpartition("/")[2]
    path = removal_list_file(max(utc_stamp(), stamp_after(latest)))
    storage.create(path, encode(RemovalList(files=files)))
    return max(entry.modified for entry in entries(storage, REMOVAL_LISTS) if entry.path == path)
