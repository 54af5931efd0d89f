"""`mad report --since`: two nights of a small zoo compared, as text and as JSON, and runs that are no runs."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from pydantic import JsonValue

from tests.jobs.command import Json, mad, section
from tests.jobs.workshop import AUDITED, small_config

NET: Json = {"name": "digits", "architecture": "pipeline.demo.network:digit_cnn", "weights": "digits.safetensors"}


@dataclass(frozen=True)
class Nights:
    """A root, the ids of its completed runs, oldest first, and that of one that stopped before its scores."""

    root: Path
    runs: tuple[str, ...]
    stopped: str

    def table(self, run: int) -> pa.Table:
        """What a night published of the model `digits`."""
        (file,) = (self.root / "digits" / "scores" / f"run={self.runs[run]}").iterdir()
        return pq.ParquetFile(file).read()


@pytest.fixture(scope="module")
def nights(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Nights:
    """Night 0: two models, a file of 60. Night 1: the same. Night 2: a new second model, three samples more."""
    folder = tmp_path_factory.mktemp("nights")
    for name in ("digits.safetensors", "trusted.parquet", "audited.parquet"):
        shutil.copy(inputs / name, folder)
    ids = [night(folder, models=[NET, {**NET, "name": "early"}]) for _ in range(2)]
    stopped = night(folder, "--until", "gradients", models=[NET])
    audited = pq.read_table(folder / "audited.parquet")
    more = audited.take([AUDITED - 3, AUDITED - 2, AUDITED - 1]).set_column(
        0, "id", pa.array(["more-0", "more-1", "more-2"])
    )
    pq.write_table(more, folder / "more.parquet")
    preprocess = small_config(folder)["data"]["preprocess"]  # type: ignore[index, call-overload]
    data: JsonValue = {
        "trusted": "trusted.parquet",
        "audited": ["audited.parquet", "more.parquet"],
        "preprocess": preprocess,
    }
    ids.append(night(folder, models=[NET, {**NET, "name": "late"}], data=data))
    return Nights(folder / "root", tuple(ids), stopped)


def night(folder: Path, *flags: str, **sections: JsonValue) -> str:
    """Runs an audit of the small inputs; returns the run's id."""
    (folder / "audit.yaml").write_text(yaml.safe_dump({**small_config(folder / "root"), **sections}))
    ended = mad("run", folder / "audit.yaml", "--output", "json", *flags)
    assert ended.code == 0, ended.err
    return str(ended.document["run_id"])


def test_the_zoo_and_each_model_are_compared_with_the_run_that_is_named(nights: Nights) -> None:
    ended = mad("report", nights.root, "--since", nights.runs[0], "--output", "json", "--top", "100")
    assert (ended.code, ended.err) == (0, "")
    found = section(ended.document, "since")
    assert {name: found[name] for name in ("before", "after", "added", "changed", "gone")} == {
        "before": nights.runs[0], "after": nights.runs[2], "added": ["late"], "changed": [], "gone": ["early"],
    }  # fmt: skip
    models = section(found, "models")
    assert set(models) == {"digits", "early", "late"} and models["late"] is None
    assert section(models, "early", "after")["run_id"] == nights.runs[1], "no later run audited it"
    old, new = (
        set(table.filter(table["flagged"])["sample_id"].to_pylist()) for table in (nights.table(0), nights.table(2))
    )
    difference = section(models, "digits", "difference")
    listed = section(difference, "newly_flagged")["samples"]
    assert isinstance(listed, list)
    assert {str(flag["sample_id"]): flag["known"] for flag in listed if isinstance(flag, dict)} == {
        name: "more" not in name for name in new - old
    }
    assert any("more" in name for name in new) and section(difference, "no_longer_flagged")["count"] == len(old - new)
    assert (section(models, "digits")["changed"], difference["common"]) == ([], AUDITED)
    assert section(ended.document, "models").keys() == models.keys(), "the ordinary report is there too"


def test_a_run_of_the_same_results_shares_its_table_and_differs_in_nothing(nights: Nights) -> None:
    assert not (nights.root / "digits" / "scores" / f"run={nights.runs[1]}").exists()
    first, second = (
        section(mad("report", nights.root, "--since", run, "--output", "json").document, "since", "models")
        for run in nights.runs[:2]
    )
    assert section(second, "digits", "before")["same_as"] == nights.runs[0]
    assert first["digits"] == {**section(second, "digits"), "before": section(first, "digits", "before")}
    assert section(first, "early", "difference") == {
        "common": AUDITED,
        "newly_flagged": {"count": 0, "reviewed": 0, "samples": []},
        "no_longer_flagged": {"count": 0, "reviewed": 0, "samples": []},
        "no_longer_audited": 0,
        "drift": [],
    }


def test_the_text_names_what_a_person_would_look_at(nights: Nights) -> None:
    ended = mad("report", nights.root, "--since", nights.runs[0], "--top", "2")
    lines = ended.out.splitlines()
    assert f"since run {nights.runs[0]}:" in lines and "models added: late" in lines and "models gone: early" in lines
    (line,) = (line.split() for line in lines if line.startswith("digits ") and nights.runs[0] in line)
    document = mad("report", nights.root, "--since", nights.runs[0], "--output", "json").document
    fresh, settled = (
        section(document, "since", "models", "digits", "difference", kind)["count"]
        for kind in ("newly_flagged", "no_longer_flagged")
    )
    assert line[-5:] == [str(fresh), "0", str(settled), "0", "nothing"]
    assert f"digits: 2 of {fresh} samples newly flagged, the most anomalous first" in lines
    assert lines[-1] == f"page: {nights.root}/report/index.html"


def test_the_first_part_of_an_id_is_enough_where_it_is_one_runs(nights: Nights) -> None:
    length = next(
        length
        for length in range(1, 30)
        if sum(run.startswith(nights.runs[0][:length]) for run in (*nights.runs, nights.stopped)) == 1
    )
    document = mad("report", nights.root, "--since", nights.runs[0][:length], "--output", "json").document
    assert section(document, "since")["before"] == nights.runs[0]


def test_a_run_that_is_none_is_refused_with_ids_that_are(nights: Nights) -> None:
    before = {path: path.stat().st_mtime_ns for path in nights.root.rglob("*")}
    latest = f"{nights.runs[2]}, {nights.runs[1]}, {nights.runs[0]}"
    almost = f"{nights.runs[0][:-1]}{'0' if nights.runs[0][-1] != '0' else '1'}"
    refused = {
        "yesterday": f"there is no run 'yesterday'; the latest that completed: {latest}; `mad status` lists all",
        almost: f"there is no run '{almost}'; did you mean {nights.runs[0]}? The latest that completed: {latest}",
        nights.stopped: f"run {nights.stopped} did not complete, so it has no results to compare with; "
        f"the latest that did: {latest}",
        "2": "the ids of 4 runs begin with '2', such as ",
    }
    for text, said in refused.items():
        ended = mad("report", nights.root, "--since", text)
        assert (ended.code, ended.out) == (2, "")
        assert said in ended.complaint
    assert {path: path.stat().st_mtime_ns for path in nights.root.rglob("*")} == before, "nothing is written"


DAMAGE = {"not a readable Parquet file": b"no table", "a damaged Parquet file": None, "no such file": b""}


@pytest.mark.parametrize("said", DAMAGE)
def test_a_damaged_table_is_said_and_the_other_models_are_compared(nights: Nights, tmp_path: Path, said: str) -> None:
    root = Path(shutil.copytree(nights.root, tmp_path / "copy"))
    (file,) = (root / "digits" / "scores" / f"run={nights.runs[0]}").iterdir()
    written, content = file.read_bytes(), DAMAGE[said]
    file.unlink()
    if content != b"":
        file.write_bytes(content or written[:200] + bytes(byte ^ 0xFF for byte in written[200:300]) + written[300:])
    ended = mad("report", root, "--since", nights.runs[0])
    assert ended.code == 0
    assert f"digits: cannot be compared: {file}: {said}" in ended.out
    document = mad("report", root, "--since", nights.runs[0], "--output", "json").document
    assert section(document, "since", "models", "early")["problem"] == ""


def test_history_on_the_page_is_that_of_the_model(nights: Nights) -> None:
    page = (nights.root / "report" / "digits.html").read_text()
    assert all(run in page for run in nights.runs) and nights.stopped not in page
    assert f"Compared with run <code>{nights.runs[1]}</code>" in page
    view = json.loads((nights.root / "report" / "digits.history.json").read_text())
    assert [run["run_id"] for run in view["runs"]] == list(reversed(nights.runs))
