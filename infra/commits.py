"""The commit protocol: attempts, receipts, manifests; nothing is ever overwritten.

A task's worker writes its files into the folder of its own attempt, then creates the task's receipt exclusively. Only
the attempt that a receipt names counts, so a worker that was believed dead and finishes late does no harm. A manifest,
created exclusively and named by its contents, lists receipts in order; readers follow manifest -> receipts -> files. A
task is done when it has a receipt; a stage is published when it has a manifest.

    FOLDER/<task>/<attempt>/...            what the attempt wrote
    FOLDER/receipts/<task>.<generation>.json
    FOLDER/manifests/<digest>.json         contains its receipts: a later run reads one object instead of one per task

A task that is worth trying again although it is done (some of its rows were unreadable) is committed under the next
generation; the highest counts. Should the new attempt say the same as the old, nothing is written.
"""

import hashlib
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from infra.errors import REPAIR, AlreadyExists, Corrupt, Missing, NotCommitted, StorageError
from infra.formats.documents import FORMAT, AnyModel, encode, parse
from infra.guarded import undoing
from infra.storage.files import digest
from infra.storage.storage import Storage

CHUNK = 8 << 20

# The contents of a stored document become part of paths and sums: names must stay inside the log's folder, and counts
# must not be negative.
_PLAIN = r"[A-Za-z0-9][A-Za-z0-9._-]*"
Name = Annotated[str, StringConstraints(pattern=rf"^{_PLAIN}$", max_length=200)]
FileName = Annotated[str, StringConstraints(pattern=rf"^{_PLAIN}(/{_PLAIN})*$", max_length=1000)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, lt=1 << 63)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _StoredDocument(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def encode(self) -> bytes:
        """As a sealed JSON document."""
        return encode(self)


class WrittenFile(_StoredDocument):
    """One file of an attempt: its name below the attempt's folder, its size in bytes and its SHA-256."""

    name: FileName
    bytes: Count
    sha256: Sha256


class Measures(_StoredDocument):
    """What a task processed and cost: rows, seconds of wall time, peak memory of its process, rows by status.

    `computing_seconds`: the part of `seconds` in which the model computed, without waiting for data, encoding and
    writing. `nonfinite` and `unreadable` count rows with a status other than ok.
    """

    rows: Count
    seconds: Seconds
    peak_memory_bytes: Count
    computing_seconds: Seconds = 0.0
    nonfinite: Count = 0
    unreadable: Count = 0


class Receipt(_StoredDocument):
    """The record that a task is done: by which attempt, with which files."""

    format: int = FORMAT
    task: Name
    generation: Count
    attempt: Name
    files: tuple[WrittenFile, ...]
    measures: Measures

    @property
    def content(self) -> str:
        """Digest of the written files, the same for two attempts that wrote the same."""
        return _content(self.files)


class Manifest(_StoredDocument):
    """The receipts of a published stage, in task order."""

    format: int = FORMAT
    receipts: tuple[Receipt, ...]


class CommitLog:
    """The attempts, receipts and manifests in one folder."""

    def __init__(self, storage: Storage, folder: str):
        """Reads and writes nothing yet."""
        self.storage = storage
        self.folder = folder

    def receipts(self) -> dict[str, Receipt]:
        """The receipt that counts, for each task that is done.

        Costs two listings, and one read per manifest and per unpublished receipt.
        """
        found: dict[str, Receipt] = {}
        for path in self.manifests():
            for receipt in self.manifest(path).receipts:
                _keep_latest(found, receipt)
        for name in self.receipt_names():
            task, _, generation = name.removesuffix(".json").rpartition(".")
            if not is_receipt(name):
                place = self.storage.locate(f"{self.folder}/receipts/{name}")
                raise Corrupt(f"{place}: not the name of a receipt; remove files that mad did not write")
            if task not in found or found[task].generation < int(generation):
                _keep_latest(found, self.receipt(name))
        return found

    def receipt_names(self) -> list[str]:
        """Names of the files in the folder of receipts, including files of other programs."""
        return self.storage.list(f"{self.folder}/receipts")

    def receipt(self, name: str) -> Receipt:
        """The receipt in the file of this name; raises like `manifest`."""
        return self._read(f"{self.folder}/receipts/{name}", Receipt)

    @staticmethod
    def receipt_name(task: str, generation: int) -> str:
        """The file name of a task's receipt."""
        return f"{task}.{generation}.json"

    def manifests(self) -> list[str]:
        """Paths of the manifests published here."""
        return [f"{self.folder}/manifests/{name}" for name in self.storage.list(f"{self.folder}/manifests")]

    def manifest(self, path: str) -> Manifest:
        """The manifest at a path.

        Raises:
            Missing: there is none.
            Corrupt: it is damaged, or this version cannot read it.
        """
        return self._read(path, Manifest)

    def commit(
        self, task: str, files: Mapping[str, bytes | Path], measures: Measures, supersedes: Receipt | None = None
    ) -> Receipt:
        """Write an attempt's files, then its receipt.

        Args:
            task: the task's name, the same in every run.
            files: the contents, or the path of a local file with them, by name below the attempt's folder.
            measures: the measurements to record.
            supersedes: the receipt of an earlier generation that this attempt retries.

        Returns:
            The receipt that counts: this attempt's, or that of another that was first or wrote the same.

        Raises:
            NotCommitted: the store refused a file or the receipt.
        """
        written = tuple(_written(name, data) for name, data in sorted(files.items()))
        generation = supersedes.generation + 1 if supersedes else 0
        receipt = Receipt(
            task=task, generation=generation, attempt=uuid.uuid4().hex[:16], files=written, measures=measures
        )
        if supersedes and supersedes.content == receipt.content:
            return supersedes
        try:
            self._write_files(receipt, files)
            self.storage.create(self._receipt_path(task, generation), receipt.encode())
        except AlreadyExists:
            return self.receipt(self.receipt_name(task, generation))
        except StorageError as error:
            raise NotCommitted(str(error)) from error
        return receipt

    def _write_files(self, receipt: Receipt, files: Mapping[str, bytes | Path]) -> None:
        for name, data in files.items():
            target = f"{self.attempt_folder(receipt)}/{name}"
            if isinstance(data, Path):
                self.storage.upload(target, data)
            else:
                self.storage.write(target, data)

    def publish(self, receipts: Sequence[Receipt]) -> str:
        """Publish these receipts in this order; returns the manifest's path. Publishing them again changes nothing."""
        body = Manifest(receipts=tuple(receipts)).encode()
        path = f"{self.folder}/manifests/{digest(body)[:32]}.json"
        with (
            suppress(AlreadyExists),
            undoing(self.storage, lambda root: CommitLog(root, self.folder).drop_broken(path)),
        ):
            self.storage.create(path, body)
        return path

    def drop_broken(self, path: str) -> None:
        """Remove a manifest if receipts that it lists are gone: one that was published too late, by a lost driver."""
        receipts, there = self.manifest(path).receipts, set(self.receipt_names())
        if any(self.receipt_name(receipt.task, receipt.generation) not in there for receipt in receipts):
            self.storage.remove(path)

    def restore(self, receipt: Receipt) -> Receipt:
        """Write the missing file of a receipt that a manifest contains; returns the receipt."""
        with suppress(AlreadyExists):
            self.storage.create(self._receipt_path(receipt.task, receipt.generation), receipt.encode())
        return receipt

    def forget(self, receipt: Receipt) -> None:
        """Undo a task whose files were found damaged: remove the manifests that list its receipt, then the receipt."""
        for path in self.manifests():
            if receipt in self.manifest(path).receipts:
                with suppress(Missing):
                    self.storage.remove(path)
        with suppress(Missing):
            self.storage.remove(self._receipt_path(receipt.task, receipt.generation))

    def attempt_folder(self, receipt: Receipt) -> str:
        """The folder into which the attempt that a receipt names wrote its files."""
        return f"{self.folder}/{receipt.task}/{receipt.attempt}"

    def _receipt_path(self, task: str, generation: int) -> str:
        return f"{self.folder}/receipts/{self.receipt_name(task, generation)}"

    def _read(self, path: str, kind: type[AnyModel]) -> AnyModel:
        return parse(self.storage.read(path), kind, self.storage.locate(path))


def is_receipt(name: str) -> bool:
    """Whether a file name is that of a receipt."""
    task, _, generation = name.removesuffix(".json").rpartition(".")
    return bool(task) and name.endswith(".json") and generation.isdecimal()


def read_file(storage: Storage, path: str, content: str = "") -> bytes:
    """All bytes of a committed file.

    Args:
        storage: where it is.
        path: the file, in its attempt's folder.
        content: `Receipt.content` of the attempt, to check the bytes where this is its only file.

    Raises:
        Corrupt: it is gone, or was changed since it was written.
    """
    try:
        data = storage.read(path)
    except Missing as error:
        raise Corrupt(f"{error}, though it was committed; {REPAIR}") from error
    if content and content != _content([_written(path.rpartition("/")[2], data)]):
        raise Corrupt(f"{storage.locate(path)}: its contents changed since it was written (SHA-256 differs); {REPAIR}")
    return data


def damage_of(storage: Storage, path: str, sha256: str, size: int) -> str:
    """What is wrong with a file that was written with this SHA-256 and size in bytes, or "". Reads all of it.

    Raises:
        StorageError: the store does not answer, or refuses this user, so that the damage is unknown.
    """
    place, hasher, seen = storage.locate(path), hashlib.sha256(), 0
    try:
        with storage.open(path) as file:
            while chunk := file.read(CHUNK):
                hasher.update(chunk)
                seen += len(chunk)
    except Missing as error:
        return str(error)
    if seen != size:
        return f"{place}: has {seen:,} bytes, {size:,} bytes were written"
    if hasher.hexdigest() != sha256:
        return f"{place}: its contents changed since it was written (SHA-256 differs)"
    return ""


def _content(files: Iterable[WrittenFile]) -> str:
    return digest("".join(f"{file.name}:{file.sha256};" for file in files).encode())


def _written(name: str, data: bytes | Path) -> WrittenFile:
    if isinstance(data, bytes):
        return WrittenFile(name=name, bytes=len(data), sha256=digest(data))
    with data.open("rb") as file:
        return WrittenFile(name=name, bytes=data.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())


def _keep_latest(found: dict[str, Receipt], receipt: Receipt) -> None:
    known = found.get(receipt.task)
    if known is None or known.generation < receipt.generation:
        found[receipt.task] = receipt
