"""`review:` in the config: reviewed samples are marked, not counted as new, and change no score."""

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import JsonValue

from infra.storage.storage import Storage
from pipeline.artifacts.reviews import read_review
from pipeline.root.layout import review_file
from tests.jobs.command import Ended, mad, published, section, tasks
from tests.jobs.conftest import Configure


def run(config: Path, *flags: str) -> Ended:
    ended = mad("run", config, "--output", "json", *flags)
    assert ended.code == 0, ended.err
    return ended


def flagged(root: Path) -> list[str]:
    """Ids of the flagged samples of the first published table."""
    found = pq.ParquetFile(published(root, "digits")[0][0]).read()
    return [str(name) for name in found.filter(found["flagged"])["sample_id"].to_pylist()]


def write_csv(path: Path, verdicts: dict[str, str]) -> None:
    path.write_text("sample_id,verdict,by\n" + "".join(f"{name},{verdict},me\n" for name, verdict in verdicts.items()))


def test_reviewed_samples_are_marked_and_not_counted_as_new(configure: Configure, inputs: Path, root: Path) -> None:
    first = run(configure(calibration={"target": {"fpr": 0.03}}))
    few = flagged(root)
    second = run(configure(calibration={"target": {"fpr": 0.5}}))
    found = section(
        mad("report", root, "--since", str(first.document["run_id"]), "--output", "json", "--top", "100").document,
        "since",
        "models",
        "digits",
    )
    flags = section(found, "difference", "newly_flagged")["samples"]
    new = [str(flag["sample_id"]) for flag in flags]  # type: ignore[union-attr, index]
    assert len(new) > 3
    write_csv(
        inputs / "review.csv", {new[0]: "benign", new[1]: "anomalous", few[0]: "benign", "never-audited": "benign"}
    )
    third = run(configure(calibration={"target": {"fpr": 0.5}}, review="review.csv"))
    assert third.summary["same_as"] == second.document["run_id"], "a review is no part of a table"
    assert all(ran == 0 for ran, _ in tasks(third.summary).values()), "nor of any key"
    document = mad(
        "report", root, "--since", str(first.document["run_id"]), "--output", "json", "--top", "100"
    ).document
    fresh = section(document, "since", "models", "digits", "difference", "newly_flagged")
    assert (fresh["count"], fresh["reviewed"]) == (len(new) - 2, 2)
    assert [flag["sample_id"] for flag in fresh["samples"]] == new[2:]  # type: ignore[union-attr, index]
    assert section(document, "models", "digits")["reviewed"] == {"anomalous": 1, "benign": 2}
    listed = section(document, "models", "digits")["top"]
    top = {str(row["sample_id"]): row["review"] for row in listed}  # type: ignore[union-attr, index]
    assert {name: said for name, said in top.items() if said} == {
        new[0]: "benign",
        new[1]: "anomalous",
        few[0]: "benign",
    }
    text = mad("report", root, "--top", "100").out
    assert "digits: reviewed of the flagged: 1 anomalous, 2 benign" in text.splitlines()
    page = (root / "report" / "digits.html").read_text()
    assert "3 reviewed: 1 anomalous, 2 benign" in " ".join(page.split())
    assert mad("verify", root).code == 0


@pytest.mark.parametrize("form", ["csv", "parquet", "parquet of numbers"])
def test_a_review_is_kept_with_the_run_as_it_was_read(
    configure: Configure, inputs: Path, root: Path, form: str
) -> None:
    verdicts = {"7": "camera fault", "12": "benign"}
    if form == "csv":
        (inputs / "review.csv").write_text("verdict,id\n camera fault ,7\n\nbenign,12\nbenign,12\n")
    else:
        ids: JsonValue = [7, 12] if "numbers" in form else ["7", "12"]
        pq.write_table(
            pa.table({"id": ids, "verdict": list(verdicts.values()), "note": [1, 2]}), inputs / "review.parquet"
        )
    config = configure(review="review.csv" if form == "csv" else str(inputs / "review.parquet"))
    ended = run(config)
    run_id = str(ended.document["run_id"])
    assert read_review(Storage(str(root)), review_file(run_id)) == verdicts
    (root / review_file(run_id)).write_bytes(b"other")
    damaged = mad("verify", root)
    assert damaged.code == 1 and "_review.arrow" in damaged.out
    assert mad("report", root).code == 0, "the other results are still shown"
    run(config)
    assert mad("verify", root).code == 0, "the next run has a copy of its own"


BAD: dict[str, tuple[str | pa.Table | None, str]] = {
    "no such file": (None, "no such file"),
    "a CSV without verdicts": (
        "sample_id,said\na,benign\n",
        "has no column verdict; columns there: sample_id, said; expected a file, such as CSV or Parquet, with a column",
    ),
    "a CSV without ids": (
        "sample,verdict\na,benign\n",
        "has no column sample_id or id; columns there: sample, verdict",
    ),
    "an empty file": ("", "is empty; a CSV file begins with the names of its columns"),
    "a ragged CSV": (
        "sample_id,verdict\na,benign,c\n",
        "row 0 cannot be read (CSV parse error: Expected 2 columns, got 3",
    ),
    "a row without a verdict": (
        "sample_id,verdict\na,benign\nb,\n",
        "row 1 has no verdict; fill it in, or remove the row",
    ),
    "a row without an id": ("sample_id,verdict\n,benign\n", "row 0 has no sample id"),
    "two verdicts": (
        "sample_id,verdict\na,benign\na,anomalous\n",
        "has two verdicts on sample 'a', 'benign' and, in row 1, 'anomalous'; keep one",
    ),
    "an essay": (
        f"sample_id,verdict\na,{'x' * 101}\n",
        "the verdict of row 0 has 101 characters, at most 100 are kept; shorten it",
    ),
    "columns of one name": ("sample_id,verdict,verdict\na,b,c\n", "has several columns named 'verdict'"),
    "Parquet of numbers as verdicts": (
        pa.table({"id": ["a"], "verdict": [1]}),
        "the column verdict is int64, expected text",
    ),
    "Parquet of decimal ids": (
        pa.table({"id": [1.5], "verdict": ["benign"]}),
        "row 0 of the column id holds 1.5, which is no whole number; expected a file, such as CSV or Parquet",
    ),
    "Parquet without either": (pa.table({"name": ["a"]}), "has no column sample_id or id; columns there: name"),
    "a null": (pa.table({"id": ["a", None], "verdict": ["benign", "benign"]}), "row 1 has no sample id"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_bad_review_is_refused_before_anything_is_written(
    configure: Configure, inputs: Path, root: Path, case: str, command: str
) -> None:
    content, said = BAD[case]
    path = inputs / ("bad-review.csv" if not isinstance(content, pa.Table) else "bad-review.parquet")
    path.unlink(missing_ok=True)
    if isinstance(content, str):
        path.write_text(content)
    elif content is not None:
        pq.write_table(content, path)
    ended = mad(command, configure(review=path.name))
    assert (ended.code, ended.out) == (2, "")
    assert ended.complaint.startswith(f"review: {path.name}: ") and said in ended.complaint
    assert not root.exists()


def test_a_glob_of_two_reviews_is_refused(configure: Configure, inputs: Path) -> None:
    for name in ("a", "b"):
        write_csv(inputs / f"two-{name}.csv", {"x": "benign"})
    assert "2 files match this glob; name one file" in mad("plan", configure(review="two-*.csv")).complaint


def test_a_damaged_parquet_review_is_refused(configure: Configure, inputs: Path) -> None:
    (inputs / "damaged.parquet").write_bytes(b"PAR1" + hashlib.sha256(b"x").digest() * 8 + b"PAR1")
    ended = mad("plan", configure(review="damaged.parquet"))
    assert ended.code == 2 and ended.complaint.startswith("review: damaged.parquet: not a readable Parquet file")
