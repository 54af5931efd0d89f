"""Hostile receipts and manifests: read or refused, but never a path out of their folder, and never another error."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, JsonValue

from infra.commits import CommitLog, Manifest, Measures, Receipt, WrittenFile, parse
from infra.errors import Corrupt, StorageError
from infra.storage.storage import Storage
from tests.strategies import LAW

Json = dict[str, JsonValue]
Document = Receipt | Manifest

FILE = WrittenFile(name="rows/c/0/0", bytes=5, sha256="0f" * 32)

RECEIPT = Receipt(
    task="000000000000-000000000064",
    generation=0,
    attempt="0123456789abcdef",
    files=(FILE,),
    measures=Measures(rows=1, seconds=0.5, peak_memory_bytes=9),
)

VALID: dict[str, BaseModel] = {
    "receipt": RECEIPT,
    "manifest": Manifest(receipts=(RECEIPT, RECEIPT.model_copy(update={"task": "b"}))),
}

LEAVING = (
    "../other",
    "..",
    ".",
    "",
    "a/../../b",
    "/etc/passwd",
    "a//b",
    "a/",
    "./a",
    "a\\..\\b",
    "a\0b",
    "a\nb",
    "a\n",
    "\x1b[2J",
    "a b",
    "\u0661",
    "~",
    "x" * 2000,
)

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**40), 10**40)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(LEAVING),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def read(data: bytes, kind: type[Document]) -> Document | None:
    """The document, or None where it is refused with a message that names its place."""
    try:
        return parse(data, kind, "s3://audits/stage/receipts/x.json")
    except Corrupt as error:
        complaint = str(error)
    assert complaint.startswith("s3://audits/stage/receipts/x.json: ")
    assert "\n" not in complaint
    return None


def receipts_of(document: Document | None) -> tuple[Receipt, ...]:
    return () if document is None else document.receipts if isinstance(document, Manifest) else (document,)


def check(document: Document | None, folder: Path) -> None:
    """Everything that a document names lies in its log's folder, and none of its counts is negative."""
    log = CommitLog(Storage(str(folder)), "stage")
    for receipt in receipts_of(document):
        inside = (folder / "stage").resolve()
        for name in [
            log.receipt_name(receipt.task, receipt.generation),
            *(f"{receipt.task}/{receipt.attempt}/{file.name}" for file in receipt.files),
        ]:
            assert (inside / name).resolve().is_relative_to(inside)
            assert len((inside / name).resolve().relative_to(inside).parts) == len(name.split("/"))
        measures = receipt.measures
        counts = [
            receipt.generation,
            measures.rows,
            measures.peak_memory_bytes,
            *(file.bytes for file in receipt.files),
        ]
        assert min(counts) >= 0
        assert 0 <= receipt.measures.seconds < float("inf")


def mutated(value: JsonValue, change: Callable[[], JsonValue], which: int) -> tuple[JsonValue, int]:
    """A copy of a document in which the value number `which`, counted depth first, is replaced."""
    if which == 0:
        return change(), -1
    which -= 1
    if isinstance(value, dict):
        copy: Json = {}
        for key, inner in value.items():
            copy[key], which = (inner, which) if which < 0 else mutated(inner, change, which)
        return copy, which
    if isinstance(value, list):
        items: list[JsonValue] = []
        for inner in value:
            item, which = (inner, which) if which < 0 else mutated(inner, change, which)
            items.append(item)
        return items, which
    return value, which


@LAW
@given(
    data=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")),
    kind=st.sampled_from([Receipt, Manifest]),
)
def test_bytes_of_any_kind_are_a_document_or_corrupt(
    data: bytes, kind: type[Document], tmp_path_factory: pytest.TempPathFactory
) -> None:
    check(read(data, kind), tmp_path_factory.getbasetemp())


@LAW
@given(which=st.integers(0, 40), value=values, name=st.sampled_from(sorted(VALID)))
def test_a_document_with_one_value_changed_is_a_document_or_corrupt(
    which: int, value: JsonValue, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    changed, _ = mutated(json.loads(VALID[name].model_dump_json()), lambda: value, which)
    check(
        read(json.dumps(changed).encode(), Receipt if name == "receipt" else Manifest), tmp_path_factory.getbasetemp()
    )


@LAW
@given(data=st.data(), name=st.sampled_from(sorted(VALID)))
def test_a_document_with_bytes_changed_or_cut_is_a_document_or_corrupt(
    data: st.DataObject, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    body = bytearray(VALID[name].model_dump_json().encode())
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    check(
        read(bytes(body[: data.draw(st.integers(0, len(body)))]), Receipt if name == "receipt" else Manifest),
        tmp_path_factory.getbasetemp(),
    )


def with_field(place: str, value: JsonValue) -> bytes:
    """The valid receipt with one field, by its dotted place, set."""
    document: Json = json.loads(RECEIPT.model_dump_json())
    *folders, last = place.split(".")
    held: JsonValue = document
    for part in folders:
        held = held[int(part)] if isinstance(held, list) else held[part]  # type: ignore[index,call-overload]
    held[last] = value  # type: ignore[index,call-overload]
    return json.dumps(document).encode()


@pytest.mark.parametrize("place", ["task", "attempt", "files.0.name"])
@pytest.mark.parametrize("value", LEAVING)
def test_a_name_that_could_leave_its_folder_is_refused(place: str, value: str) -> None:
    assert read(with_field(place, value), Receipt) is None


def test_a_task_or_an_attempt_is_one_folder_and_a_file_may_lie_deeper() -> None:
    assert read(with_field("files.0.name", "rows/c/0"), Receipt) is not None
    for place in ("task", "attempt"):
        assert read(with_field(place, "rows/c"), Receipt) is None


NUMBERS = (
    "generation",
    "files.0.bytes",
    "measures.rows",
    "measures.peak_memory_bytes",
    "measures.nonfinite",
    "measures.unreadable",
    "measures.seconds",
)


@pytest.mark.parametrize("place", NUMBERS)
@pytest.mark.parametrize("value", [-1, 1e999, float("nan"), "many", "9" * 5000, None])
def test_a_number_below_zero_or_beyond_all_is_refused(place: str, value: JsonValue) -> None:
    assert read(with_field(place, value), Receipt) is None


def test_a_digest_is_64_hexadecimal_digits() -> None:
    for value in ("", "0" * 63, "g" * 64, "A" * 64, "0" * 64 + "\n"):
        assert read(with_field("files.0.sha256", value), Receipt) is None


@pytest.mark.parametrize(
    "data",
    [b"[" * 200_000, b'{"receipts":' * 100_000, b'{"format": ' + b"9" * 100_000 + b"}"],
    ids=["lists", "mappings", "digits"],
)
def test_a_document_that_is_all_nesting_or_digits_is_corrupt(data: bytes) -> None:
    assert read(data, Receipt) is None
    assert read(data, Manifest) is None


@pytest.mark.parametrize("path", ["../outside", "runs/../../outside", "/etc/passwd", "a\0b", ".."])
def test_no_path_leaves_a_root_whoever_names_it(path: str, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "root"))
    (tmp_path / "outside").write_text("not the root's")
    for act in (
        storage.read,
        storage.open,
        storage.exists,
        storage.list,
        storage.remove,
        lambda name: storage.write(name, b""),
        lambda name: storage.create(name, b""),
    ):
        with pytest.raises(StorageError, match="is not a path below"):
            act(path)
    assert (tmp_path / "outside").read_text() == "not the root's"
    assert not (tmp_path / "root").exists()
