"""One row for every audited sample, whatever became of it: statuses, counts, retries, and the others' scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml
from pydantic import JsonValue

from pipeline.config.audit_config import merge
from tests.jobs.command import Ended, Json, mad, published, section, table, tasks
from tests.jobs.pictures import MARKED, OVERFLOWS, STEEP, broken_tiff, grey, marked, unreadable
from tests.jobs.workshop import AUDITED, TRUSTED, SmallInputs, small_config

Bad = dict[str, tuple[bytes | None, str]]


ROWS_PER_TASK = 8


NO_SCORE: Json = dict.fromkeys(("score", "p_value", "q_value", "confidence", "leverage", "gradient_norm")) | {
    "prediction": -1,
    "mechanism": -1,
    "top_trusted": [],
    "layer_scores": [],
}


@dataclass(frozen=True)
class Place(SmallInputs):
    """A folder of inputs for these tests: trusted and audited tables, the marked network."""

    @property
    def good(self) -> bytes:
        """An encoded picture of the audited set."""
        picture: bytes = self.audited["image"][0]["bytes"].as_py()
        return picture

    def run(
        self, root: Path, rows: pa.Table, *arguments: str, trusted: pa.Table | None = None, **sections: JsonValue
    ) -> Ended:
        """Audits these rows."""
        for name, content in (("rows", rows), ("trusted", self.trusted if trusted is None else trusted)):
            path = self.folder / f"{name}.parquet"
            if not path.exists() or not pq.read_table(path).equals(content):
                pq.write_table(content, path)
        config = self.folder / "audit.yaml"
        own: Json = {
            "data": {
                "audited": "rows.parquet",
                "preprocess": {"mean": [0.3, 0.3, 0.3], "std": [0.35, 0.35, 0.35], "size": None},
            }
        }
        raw = merge(small_config(root), {**own, "run": {"rows_per_task": ROWS_PER_TASK, "batch_size": 5}})
        raw["models"] = [{"name": "digits", "architecture": "marked.py:build", "weights": "digits.safetensors"}]
        config.write_text(yaml.safe_dump(merge(raw, sections)))
        return mad("run", config, "--output", "json", *arguments)

    def with_bad(self, bad: Bad, every: int = 4) -> pa.Table:
        """The audited rows, with a bad one before each `every`-th, of the id `bad: NAME`."""
        rows = self.audited.to_pylist()
        for number, (name, (data, _)) in enumerate(bad.items()):
            rows.insert(number * (every + 1), {**rows[0], "id": f"bad: {name}", "image": {"bytes": data, "path": None}})
        return pa.Table.from_pylist(rows, schema=self.audited.schema)


@pytest.fixture(scope="module")
def place(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The small inputs, with the marked network."""
    return Place.beside(tmp_path_factory.mktemp("statuses"), digits, "marked.py", MARKED)


@dataclass(frozen=True)
class Audited:
    """An audit with bad rows, run twice, and one without them."""

    root: Path
    bad: Bad
    stored: pa.Table
    first: Ended
    again: Ended
    rows: Sequence[Json]
    runs: int
    clean: Ended
    clean_rows: Sequence[Json]


@pytest.fixture(scope="module")
def audit(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Audited:
    """The audits."""
    bad, folder = unreadable(place.good), tmp_path_factory.mktemp("roots")
    rows = place.with_bad(bad).to_pylist()
    rows.append({**rows[-1], "id": None})
    stored = pa.Table.from_pylist(rows, schema=place.audited.schema)
    first, again = (place.run(folder / "bad", stored) for _ in range(2))
    clean = place.run(folder / "clean", place.audited)
    runs = len(published(folder / "bad", "digits"))
    return Audited(
        folder / "bad",
        bad,
        stored,
        first,
        again,
        table(folder / "bad", "digits"),
        runs,
        clean,
        table(folder / "clean", "digits"),
    )


def test_every_audited_sample_has_exactly_one_row_in_order(audit: Audited) -> None:
    assert (audit.first.code, audit.clean.code) == (0, 0)
    assert [row["sample_id"] for row in audit.rows] == [name or "" for name in audit.stored["id"].to_pylist()]
    assert [(row["source"], row["row"]) for row in audit.rows] == [
        ("rows.parquet", number) for number in range(audit.stored.num_rows)
    ]


def test_each_bad_row_says_why_and_has_no_score(audit: Audited) -> None:
    expected = {f"bad: {name}": status for name, (_, status) in audit.bad.items()} | {"": "unreadable: the id is null"}
    found = {str(row["sample_id"]): row for row in audit.rows if row["status"] != "ok"}
    assert {name: row["status"] for name, row in found.items()} == expected
    for row in found.values():
        assert {name: row[name] for name in NO_SCORE} == NO_SCORE
        assert row["flagged"] == (row["status"] == "nonfinite")


def test_the_summary_counts_them(audit: Audited) -> None:
    counts = section(audit.first.summary, "counts")
    flagged = sum(bool(row["flagged"]) for row in audit.rows)
    expected = {
        "audited": AUDITED + len(audit.bad) + 1,
        "flagged": flagged,
        "nonfinite": 2,
        "unreadable": len(audit.bad) - 1,
        "failed": 0,
    }
    assert {name: counts[name] for name in expected} == expected
    reasons = " ".join(section(audit.first.summary, "verdict")["reasons"])
    assert "2 samples have a gradient that is not finite; here they count as scores above all others" in reasons
    assert f"{len(audit.bad) - 1} of {AUDITED + len(audit.bad) + 1} audited samples have no score" in reasons


def test_a_report_lists_gradients_that_are_not_finite_first(audit: Audited) -> None:
    scores = [float(str(row["score"])) for row in audit.rows if row["flagged"] and row["status"] == "ok"]
    listed = mad("report", audit.root, "--top", "3", "--output", "json").summary["top"]
    assert [(row["status"], row["score"]) for row in listed] == [
        ("nonfinite", None),
        ("nonfinite", None),
        ("ok", max(scores)),
    ]
    text = mad("report", audit.root, "--top", "3").out
    assert "digits: the 3 most anomalous of its flagged samples" in text
    assert [line.split()[-1] for line in text.splitlines() if line.startswith("bad: ")] == ["nonfinite", "nonfinite"]


def test_the_other_rows_are_as_if_the_bad_ones_were_not_there(audit: Audited) -> None:
    others = [row for row in audit.rows if row["status"] == "ok"]
    assert [row["sample_id"] for row in others] == [row["sample_id"] for row in audit.clean_rows]
    for name, tolerance in (
        ("score", 1e-6),
        ("p_value", 0),
        ("confidence", 1e-6),
        ("gradient_norm", 1e-4),
        ("prediction", 0),
        ("flagged", 0),
    ):
        assert [row[name] for row in others] == pytest.approx([row[name] for row in audit.clean_rows], abs=tolerance)
    assert len({row["score"] for row in others}) == AUDITED


def test_the_next_run_tries_the_tasks_of_unreadable_rows_again_and_no_others(audit: Audited) -> None:
    numbers = [row["row"] for row in audit.rows if str(row["status"]).startswith("unreadable")]
    retried, total = (
        len({int(str(number)) // ROWS_PER_TASK for number in numbers}),
        -(-audit.stored.num_rows // ROWS_PER_TASK),
    )
    trusted = TRUSTED // ROWS_PER_TASK
    assert 0 < retried < total
    assert tasks(audit.first.summary)["gradients"] == (total + trusted, 0)
    assert tasks(audit.again.summary) == {
        "gradients": (retried, total - retried + trusted),
        "curvature": (0, 3),
        "scoring": (0, total),
        "reporting": (0, 1),
    }


def test_nothing_is_published_again_where_nothing_changed(audit: Audited) -> None:
    assert (audit.first.summary["same_as"], audit.again.summary["same_as"]) == (None, audit.first.document["run_id"])
    assert audit.runs == 1


def test_a_model_may_rather_fail_than_have_a_gradient_that_is_not_finite(place: Place, tmp_path: Path) -> None:
    rows = place.with_bad({"overflows": unreadable(place.good)["overflows"]})
    ended = place.run(tmp_path / "root", rows, run={"on_nonfinite": "fail"})
    assert ended.code == 1
    assert "1 gradients are not finite, the first of them in rows.parquet, and run.on_nonfinite is fail" in " ".join(
        ended.err.split()
    )
    assert place.run(tmp_path / "other", rows, run={"on_nonfinite": "flag"}).code == 0


def test_failing_is_no_matter_of_what_an_earlier_run_stored(place: Place, tmp_path: Path) -> None:
    rows = place.with_bad({"overflows": unreadable(place.good)["overflows"]})
    codes = [place.run(tmp_path / "root", rows, run={"on_nonfinite": wanted}).code for wanted in ("flag", "fail")]
    assert codes == [0, 1]


def test_a_picture_that_breaks_the_decoder_costs_one_row(place: Place, tmp_path: Path) -> None:
    ended = place.run(tmp_path / "root", place.with_bad({"tiff": (broken_tiff(), "unreadable")}))
    assert ended.code == 0
    counts = section(ended.summary, "counts")
    assert (counts["unreadable"], counts["failed"]) == (1, 0)


def test_a_picture_that_is_mended_has_a_score_in_the_next_run(place: Place, tmp_path: Path) -> None:
    broken, name = place.with_bad({"text": (b"a picture", "")}), "bad: text"
    assert place.run(tmp_path / "root", broken).code == 0
    mended = place.with_bad({"text": (grey(place.good), "")})
    ended = place.run(tmp_path / "root", mended)
    assert (ended.code, ended.summary["same_as"], len(published(tmp_path / "root", "digits"))) == (0, None, 2)
    rows: list[Json] = pq.read_table(published(tmp_path / "root", "digits")[-1][0]).to_pylist()
    scores = {row["sample_id"]: row["score"] for row in rows}
    assert scores[name] == scores["digit-0000"]


def test_warnings_tell_of_ids_and_classes(place: Place, tmp_path: Path) -> None:
    without_nine = place.trusted.filter(pc.not_equal(place.trusted["label"], 9))
    shared = without_nine.slice(0, 2).select(["id", "image"])
    rows = pa.concat_tables(
        [place.audited.select(["id", "image"]), place.audited.select(["id", "image"]).slice(0, 3), shared]
    )
    ended = place.run(tmp_path / "root", rows, trusted=without_nine)
    assert ended.code == 0
    counts, warnings = section(ended.summary, "counts"), [str(line) for line in ended.summary["warnings"]]
    assert (counts["audited"], counts["duplicates"]) == (AUDITED + 5, 3)
    nines = sum(row["prediction"] == 9 for row in table(tmp_path / "root", "digits"))
    assert nines > 0
    for expected in (
        "3 audited samples repeat an id of an earlier one; (source, row) tells them apart",
        "2 audited samples share their id with a trusted one; if they are the same, they explain themselves",
        "predicted classes without reference samples, compared with the mean of the others instead: "
        f"9 ({nines} audited)",
    ):
        assert expected in warnings
    assert [
        line for line in warnings if "repeat" in line or "share" in line or "without reference" in line
    ] == warnings[:3]


def test_samples_without_an_id_repeat_none(place: Place, tmp_path: Path) -> None:
    rows = place.audited.to_pylist()
    nameless = pa.Table.from_pylist([{**row, "id": None} for row in rows[:3]] + rows[3:], schema=place.audited.schema)
    ended = place.run(tmp_path / "root", nameless)
    assert (section(ended.summary, "counts")["unreadable"], section(ended.summary, "counts")["duplicates"]) == (3, 0)


def test_a_trusted_picture_that_cannot_be_read_is_in_neither_part(place: Place, tmp_path: Path) -> None:
    rows = place.trusted.to_pylist()
    rows[7]["image"] = {"bytes": b"a picture", "path": None}
    ended = place.run(tmp_path / "root", place.audited, trusted=pa.Table.from_pylist(rows, schema=place.trusted.schema))
    assert ended.code == 0
    calibration = section(ended.summary, "calibration")
    parts = [calibration[name] for name in ("reference", "calibration", "filtered", "unreadable")]
    assert (parts[1], parts[3], sum(int(str(part)) for part in parts)) == (round(0.3 * (TRUSTED - 1)), 1, TRUSTED)
    assert "1 trusted samples could not be read and are in neither part" in ended.summary["warnings"]


def test_trusted_samples_without_a_finite_gradient_are_counted_and_refuse_no_model(
    place: Place, tmp_path: Path
) -> None:
    """The plan tries the model on the first two; of 36 calibration samples, 4 or more score above all others."""
    rows = place.trusted.to_pylist()
    for number in (0, 1, *range(4, len(rows), 4)):
        rows[number]["image"]["bytes"] = marked(rows[number]["image"]["bytes"], OVERFLOWS if number % 8 else STEEP)
    ended = place.run(tmp_path / "root", place.audited, trusted=pa.Table.from_pylist(rows, schema=place.trusted.schema))
    assert ended.code == 0
    verdict = section(ended.summary, "verdict")
    assert verdict["value"] == "cannot tell"
    assert "of 36 calibration samples have a gradient that is not finite" in " ".join(verdict["reasons"])
    assert "calibration samples have a gradient that is not finite; they count as scores above all others" in " ".join(
        ended.summary["warnings"]
    )
