"""The commands that read a root: status, verify, inspect, report."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.jobs.command import Ended, Json, mad, section, table
from tests.jobs.workshop import AUDITED, TRUSTED, small_config

STAGES = ["gradients", "curvature", "scoring", "reporting"]


@pytest.fixture
def copy(finished: tuple[Path, Ended], tmp_path: Path) -> Path:
    """A copy of that root, to be damaged."""
    return Path(shutil.copytree(finished[0], tmp_path / "copy"))


def snapshot(root: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(root)): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in root.rglob("*")
        if path.is_file()
    }


def test_status_lists_runs_and_verdicts(finished: tuple[Path, Ended]) -> None:
    root, ran = finished
    before = snapshot(root)
    ended = mad("status", root)
    assert (ended.code, ended.err) == (0, "")
    assert [line.split() for line in ended.out.splitlines()] == [
        ["root:", str(root)],
        ["run", "state"],
        [str(ran.document["run_id"]), "completed"],
        [],
        ["model", "latest", "verdict", "audited", "flagged", "of", "run"],
        [
            "digits",
            "unusual",
            "inputs",
            str(AUDITED),
            str(section(ran.summary, "counts")["flagged"]),
            str(ran.document["run_id"]),
        ],
    ]
    document = mad("status", root, "--output", "json").document
    (run,) = document["runs"]
    assert (document["root"], run["run_id"], run["state"]) == (str(root), ran.document["run_id"], "completed")
    assert section(document, "models", "digits") == {
        name: ran.summary[name] for name in ("run_id", "verdict", "counts")
    }
    assert snapshot(root) == before


def test_status_never_cuts_an_id(copy: Path) -> None:
    (run,) = (path.name for path in (copy / "runs").iterdir())
    outcome = copy / "runs" / run / "_outcome.json"
    outcome.write_text(
        outcome.read_text().replace('"failures": {}', f'"failures": {{"other": "{"no such file " * 40}"}}')
    )
    assert f"\n{run}  completed, with failures" in mad("status", copy).out


def test_status_shows_how_far_a_run_is_that_has_not_ended(copy: Path) -> None:
    (outcome,) = copy.glob("runs/*/_outcome.json")
    outcome.unlink()
    ended = mad("status", copy)
    assert "interrupted (`mad run` resumes)" in ended.out
    assert "digits: 3 of 3 row tasks" in ended.out


def test_verify_reads_all_and_finds_nothing(finished: tuple[Path, Ended]) -> None:
    root, _ = finished
    before = snapshot(root)
    ended = mad("verify", root)
    assert ended.code == 0
    assert ended.out.splitlines()[-1] == "all as written"
    assert ended.err.startswith("verify: 6 of 6 tasks")
    assert mad("verify", root, "-q").err == ""
    found = mad("verify", root, "--output", "json").document
    receipts = sum("/receipts/" in path for path in before)
    files = sum(
        path.startswith("digits/")
        and not any(other in path for other in ("/receipts/", "/manifests/", "digits/summary.json"))
        for path in before
    )
    assert {name: found[name] for name in ("receipts", "files", "tables", "problems", "unclaimed_attempts")} == {
        "receipts": receipts,
        "files": files,
        "tables": 1,
        "problems": [],
        "unclaimed_attempts": 0,
    }
    assert snapshot(root) == before


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def lie(path: Path) -> None:
    path.write_text(path.read_text().replace('"flagged": 3', '"flagged": 1', 1))


CHANGED, SHORTER = "its contents changed since it was written (SHA-256 differs)", "bytes were written"


DAMAGE: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "a bit of a shard": ("digits/gradients/*/*/*/*/rows/c/0/0", flip, CHANGED),
    "a bit of the samples": ("digits/gradients/*/*/*/*/samples.arrow", flip, CHANGED),
    "a bit of the factor": ("digits/curvature/*/factor*/*/**/c/*", flip, CHANGED),
    "a bit of a part": ("digits/scoring/*/*/*/*/scores.parquet", flip, CHANGED),
    "the end of a part": ("digits/scoring/*/*/*/*/scores.parquet", truncate, " bytes, "),
    "a part": ("digits/scoring/*/*/*/*/scores.parquet", Path.unlink, "no such file"),
    "a bit of the table": ("digits/scores/run=*/*.parquet", flip, CHANGED),
    "the table": ("digits/scores/run=*/*.parquet", Path.unlink, "missing, though run 20"),
    "a receipt": (
        "digits/gradients/*/*/receipts/*.json",
        Path.unlink,
        "missing or unreadable, though the manifest digits/gradients/",
    ),
    "a receipt's end": ("digits/scoring/*/*/receipts/*.json", truncate, "it is damaged, or written by a newer mad"),
    "a manifest of rows": ("digits/gradients/*/*/manifests/*.json", Path.unlink, "missing, though run 20"),
    "a manifest of scores": ("digits/scoring/*/*/manifests/*.json", Path.unlink, "missing, though run 20"),
    "a manifest's end": ("digits/reporting/*/manifests/*.json", truncate, "it is damaged, or written by a newer mad"),
    "a run's summary": ("runs/*/digits.json", truncate, "not readable JSON"),
    "a number in a run's summary": ("runs/*/digits.json", lie, "missing, or changed since run 20"),
    "a run's record": ("runs/*/_run.json", truncate, "not readable JSON"),
    "a run's end": ("runs/*/_outcome.json", truncate, "not readable JSON"),
    "the latest summary's end": ("digits/summary.json", truncate, "not readable JSON"),
    "a number in the latest summary": ("digits/summary.json", lie, "differs from the summary of its run, 20"),
    "the latest summary": ("digits/summary.json", Path.unlink, "missing, though a run published scores"),
}


@pytest.mark.parametrize(("pattern", "damage", "expected"), DAMAGE.values(), ids=DAMAGE)
def test_verify_names_what_is_damaged(pattern: str, damage: Callable[[Path], None], expected: str, copy: Path) -> None:
    path = sorted(path for path in copy.glob(pattern) if path.is_file())[0]
    damage(path)
    ended = mad("verify", copy)
    assert ended.code == 1
    problems = [line for line in ended.out.splitlines() if line.startswith(str(path))]
    assert problems
    assert expected in problems[0]
    assert ended.out.splitlines()[-1].endswith(" PROBLEMS")
    document = mad("verify", copy, "--output", "json")
    assert document.code == 1
    found = document.document["problems"]
    assert [line for line in found if str(line).startswith(str(path))] == problems


def test_what_verify_advises_mends_what_it_found(finished: tuple[Path, Ended], inputs: Path, copy: Path) -> None:
    """A damaged shard is recomputed."""
    config = inputs / "mending.yaml"
    config.write_text(yaml.safe_dump(small_config(copy)))
    shard = next(copy.glob("digits/gradients/*/*/*/*/rows/c/0/0"))
    flip(shard)
    ended = mad("verify", copy)
    assert (ended.code, "to recompute what is damaged, and nothing else: mad run CONFIG --repair" in ended.out) == (
        1,
        True,
    )
    assert mad("run", config, "--repair").code == 0
    again = mad("verify", copy)
    assert again.code == 0
    assert "manifests of superseded results are gone; harmless" in again.out
    assert "1 attempts that no receipt names, left by interrupted tasks; harmless" in again.out


DAMAGED_DOCUMENTS = {
    "a manifest": "digits/gradients/*/*/manifests/*.json",
    "a receipt's name": "digits/gradients/*/*/receipts/*.json",
    "the run's summary": "runs/*/digits.json",
    "the latest summary": "digits/summary.json",
    "the run's end": "runs/*/_outcome.json",
}


@pytest.mark.parametrize("pattern", DAMAGED_DOCUMENTS.values(), ids=DAMAGED_DOCUMENTS)
def test_one_models_damaged_document_does_not_stop_the_others(inputs: Path, copy: Path, pattern: str) -> None:
    raw = small_config(copy)
    (model,) = raw["models"] if isinstance(raw["models"], list) else ()
    config = inputs / "two.yaml"
    assert isinstance(model, dict)
    config.write_text(yaml.safe_dump({**raw, "models": [model, {**model, "name": "other"}]}))
    path = sorted(copy.glob(pattern))[0]
    if "receipts" in pattern:
        path.with_name("foo.txt").touch()
    else:
        truncate(path)
    for command in ("status", "inspect", "report"):
        assert mad(command, copy).code == 0
    ended = mad("run", config, "--output", "json")
    assert ended.code in (0, 1)
    assert "other" in section(ended.document, "models")
    assert ("digits" in section(ended.document, "models")) == (ended.code == 0)


def test_report_and_status_say_what_the_latest_run_could_not_audit(inputs: Path, copy: Path) -> None:
    config, raw = inputs / "gone.yaml", small_config(copy)
    (model,) = raw["models"] if isinstance(raw["models"], list) else ()
    assert isinstance(model, dict)
    config.write_text(
        yaml.safe_dump({**raw, "models": [{**model, "name": "other"}, {**model, "weights": "gone.safetensors"}]})
    )
    assert mad("run", config).code == 1
    ended = mad("report", copy)
    assert (
        "digits: not audited in the latest run: weights gone.safetensors: " in ended.out
        and "; shown is run 20" in ended.out
    )
    assert "gone.safetensors" in str(mad("report", copy, "--output", "json").document["failures"])
    assert "digits: weights gone.safetensors" in mad("status", copy).out


def test_verify_names_a_table_whose_summary_is_gone(copy: Path) -> None:
    (summary,) = copy.glob("runs/*/digits.json")
    summary.unlink()
    ended = mad("verify", copy)
    assert ended.code == 1
    assert "part-00000.parquet: published, but its run has no summary of it" in ended.out


def test_verify_counts_what_an_interrupted_task_left_as_harmless(copy: Path) -> None:
    attempt = next(path for path in copy.glob("digits/scoring/*/*/*/*") if (path / "scores.parquet").exists())
    shutil.copytree(attempt, attempt.with_name("0123456789abcdef"))
    ended = mad("verify", copy)
    assert ended.code == 0
    assert "1 attempts that no receipt names, left by interrupted tasks; harmless" in ended.out


def test_inspect_shows_a_root_a_model_and_a_stage(
    finished: tuple[Path, Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, ran = finished
    assert [line.split()[:4] for line in mad("inspect", root).out.splitlines()[1:]] == [
        ["digits", "gradients", "3", str(TRUSTED + AUDITED)],
        ["digits", "curvature", "3", str(3 * TRUSTED)],
        ["digits", "scoring", "1", str(AUDITED)],
        ["digits", "reporting", "1", str(AUDITED)],
    ]
    model = mad("inspect", root / "digits", "--output", "json").document
    assert (list(section(model, "stages")), model["summary"]) == (STAGES, ran.summary)
    stage = mad("inspect", root / "digits" / "gradients", "--output", "json").document
    receipts = [task for log in section(stage, "keys").values() for task in log["tasks"]]
    assert sorted(task["rows"] for task in receipts) == [TRUSTED - 64, AUDITED, 64]
    assert all((root / task["folder"] / "samples.arrow").is_file() for task in receipts)
    monkeypatch.chdir(root.parent)
    for place in ("root/digits/gradients", "root/digits/gradients/", f"file://{root}/digits/gradients"):
        text = mad("inspect", place)
        assert text.code == 0
        assert [line.split()[2] for line in text.out.splitlines()[1:]] == [str(task["rows"]) for task in receipts]


@pytest.mark.parametrize(
    ("below", "expected"),
    [
        ("digit", "{root}: there is no model 'digit'; models here: digits"),
        ("runs", "{root}: there is no model 'runs'; models here: digits"),
        ("digits/gradient", "there is no stage 'gradient'; stages: gradients, curvature, scoring, reporting"),
        ("digits/gradients/0", "{root}/digits/gradients/0: not a root"),
    ],
)
def test_inspect_of_what_is_not_there(below: str, expected: str, finished: tuple[Path, Ended]) -> None:
    root, _ = finished
    ended = mad("inspect", root / below)
    assert (ended.code, ended.out) == (2, "")
    assert ended.complaint.startswith(expected.format(root=root))


@pytest.mark.parametrize("top", [0, 3, 10_000])
def test_report_lists_the_most_anomalous_flagged_samples(top: int, finished: tuple[Path, Ended]) -> None:
    root, ran = finished
    flagged = sorted(
        (row for row in table(root, "digits") if row["flagged"]), key=lambda row: -float(str(row["score"]))
    )
    ended = mad("report", root, "--top", str(top), "--output", "json")
    assert (ended.code, ended.err, ended.document["page"]) == (0, "", f"{root}/report/index.html")
    listed: list[Json] = ended.summary["top"]
    shown = flagged[:top]
    assert [row["score"] for row in listed] == [row["score"] for row in shown]
    assert {row["sample_id"] for row in listed} == {row["sample_id"] for row in shown}
    assert {name: value for name, value in ended.summary.items() if name != "top"} == ran.summary
    text = mad("report", root, "--top", str(top)).out
    assert (f"digits: the {len(shown)} most anomalous of its flagged samples" in text) == bool(shown)
    assert [str(row["sample_id"]) for row in shown if f"\n{row['sample_id']} " not in text] == []
    assert text.splitlines()[-1] == f"page: {root}/report/index.html"


def test_report_writes_the_pages_anew(copy: Path) -> None:
    page = copy / "report" / "digits.html"
    before = page.read_bytes()
    shutil.rmtree(copy / "report")
    assert mad("report", copy, "--top", "1").code == 0
    assert page.read_bytes() == before


@pytest.mark.parametrize("command", ["status", "verify", "inspect", "report"])
def test_reading_what_is_no_root(command: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    nothing, files = (
        "not a root, there is nothing here; `mad run CONFIG` makes one",
        "not a root, because it holds files (notes.txt) but no mad.json",
    )
    for name, expected in (("none", nothing), ("empty", nothing), ("folder", files)):
        ended = mad(command, tmp_path / name)
        assert (ended.code, ended.out) == (2, "")
        assert ended.complaint.startswith(f"{tmp_path}/{name}: {expected}")
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        "empty",
        "folder",
        "folder/notes.txt",
    ]


@pytest.mark.parametrize("command", ["status", "verify", "inspect", "report"])
def test_reading_a_root_of_a_newer_version(command: str, copy: Path) -> None:
    (copy / "mad.json").write_text((copy / "mad.json").read_text().replace('"format": 1', '"format": 7'))
    ended = mad(command, copy)
    assert (ended.code, ended.out) == (2, "")
    assert ended.complaint == f"{copy}/mad.json: written in format 7, this mad reads up to 1; upgrade mad to read it"
