"""`mad run --repair`: only what is damaged is recomputed, and published tables are restored to the byte."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from infra.storage.storage import Storage
from tests.infra.stores import S3_KINDS, fresh_url
from tests.jobs.command import Ended, mad, section, tasks
from tests.jobs.test_reading import flip, lie, truncate
from tests.jobs.workshop import AUDITED, small_config

NONE = {"gradients": 0, "curvature": 0, "scoring": 0, "reporting": 0}


Damage = Callable[[Path], None]


DAMAGE: dict[str, tuple[str, Damage, dict[str, int]]] = {
    "a bit of a shard": ("digits/gradients/*/*/*/*/rows/c/0/0", flip, {"gradients": 1}),
    "the end of a shard": ("digits/gradients/*/*/*/*/rows/c/0/0", truncate, {"gradients": 1}),
    "a shard": ("digits/gradients/*/*/*/*/rows/c/0/0", Path.unlink, {"gradients": 1}),
    "a shard's metadata": ("digits/gradients/*/*/*/*/rows/zarr.json", flip, {"gradients": 1}),
    "a bit of the samples": ("digits/gradients/*/*/*/*/samples.arrow", flip, {"gradients": 1}),
    "the factor": ("digits/curvature/*/factor*/*/**/c/*", flip, {"curvature": 1}),
    "the references": ("digits/curvature/*/references*/*/references/c/0/0", Path.unlink, {"curvature": 1}),
    "a bit of a part": ("digits/scoring/*/*/*/*/scores.parquet", flip, {"scoring": 1}),
    "the end of a part": ("digits/scoring/*/*/*/*/scores.parquet", truncate, {"scoring": 1}),
    "a part": ("digits/scoring/*/*/*/*/scores.parquet", Path.unlink, {"scoring": 1}),
    "a bit of the table": ("digits/scores/run=*/*.parquet", flip, {"reporting": 1}),  # a disk gives one file two names
    "the table": ("digits/scores/run=*/*.parquet", Path.unlink, {}),
    "the report's facts": ("digits/reporting/*/report/*/facts.json", flip, {"reporting": 1}),
    "a receipt": ("digits/gradients/*/*/receipts/*.json", Path.unlink, {}),
    "a receipt's end": ("digits/scoring/*/*/receipts/*.json", truncate, {}),
    "a bit of a receipt": ("digits/curvature/*/receipts/*.json", flip, {}),
    "a manifest of rows": ("digits/gradients/*/*/manifests/*.json", Path.unlink, {}),
    "a bit of a manifest": ("digits/scoring/*/*/manifests/*.json", flip, {}),
    "a manifest's end": ("digits/reporting/*/manifests/*.json", truncate, {}),
    "a run's summary": ("runs/*/digits.json", truncate, {}),
    "a number in a run's summary": ("runs/*/digits.json", lie, {}),
    "the latest summary's end": ("digits/summary.json", truncate, {}),
    "the latest summary": ("digits/summary.json", Path.unlink, {}),
}


@pytest.fixture
def copy(finished: tuple[Path, Ended], tmp_path: Path) -> Path:
    """A copy of a finished root, to be damaged; files of two names keep both."""
    root = tmp_path / "copy"
    shutil.copytree(finished[0], root)
    table = next(root.glob("digits/scores/run=*/*.parquet"))
    table.unlink()
    table.hardlink_to(next(root.glob("digits/reporting/*/report/*/table.parquet")))
    return root


@pytest.fixture
def repair(copy: Path, inputs: Path, tmp_path: Path) -> Callable[..., Ended]:
    """Runs the copy's config with these arguments, and settings merged over it."""

    def run(*arguments: str, **sections: dict[str, object]) -> Ended:
        path = inputs / f"{tmp_path.name}.yaml"
        path.write_text(yaml.safe_dump({**small_config(copy), **sections}))
        return mad("run", path, "--output", "json", *arguments)

    return run


def hit(copy: Path, pattern: str, damage: Damage) -> Path:
    path = sorted(path for path in copy.glob(pattern) if path.is_file())[0]
    damage(path)
    return path


@pytest.mark.parametrize(("pattern", "damage", "again"), DAMAGE.values(), ids=DAMAGE)
def test_what_is_damaged_is_done_again_and_nothing_else(
    pattern: str, damage: Damage, again: dict[str, int], copy: Path, repair: Callable[..., Ended]
) -> None:
    (table,) = copy.glob("digits/scores/run=*/*.parquet")
    published, summary = table.read_bytes(), (copy / "digits/summary.json").read_bytes()
    path = hit(copy, pattern, damage)
    assert mad("verify", copy).code == 1
    ended = repair("--repair")
    assert ended.code == 0, ended.err
    assert {stage: ran for stage, (ran, _) in tasks(ended.summary).items()} == {**NONE, **again}
    silent = (damage is Path.unlink and "manifests" in pattern) or "summary.json" in pattern
    assert silent or str(path) in ended.err, "the repair does not say what it found"
    assert table.read_bytes() == published
    assert {found.read_bytes() for found in copy.glob("digits/scores/run=*/*.parquet")} == {published}
    assert section(ended.summary, "counts")["audited"] == AUDITED and summary
    verified = mad("verify", copy, "--output", "json")
    assert (verified.code, verified.document["problems"]) == (0, [])


READ_AGAIN: dict[str, tuple[str, Damage, str, dict[str, object]]] = {
    name: (pattern, damage, setting, values)
    for name, (pattern, damage, _) in DAMAGE.items()
    for part, setting, values in (
        ("gradients", "curvature", {"damping": {"factor": 0.5}}),
        ("factor", "score", {"kind": "mean_coupling"}),
        ("scoring", "calibration", {"target": {"fpr": 0.2}}),
    )
    if part in pattern and "manifests" not in pattern and "receipts" not in pattern
}


@pytest.mark.parametrize("what", READ_AGAIN)
def test_a_stage_that_would_read_it_refuses_and_publishes_nothing(
    what: str, copy: Path, repair: Callable[..., Ended]
) -> None:
    """A changed setting makes the next stage read what is damaged."""
    pattern, damage, setting, values = READ_AGAIN[what]
    path = hit(copy, pattern, damage)
    before = list(copy.glob("digits/scores/run=*"))
    ended = repair(**{setting: values})
    assert ended.code == 1
    (reason,) = section(ended.document, "failures").values()
    assert str(copy) in str(reason) and "`mad run CONFIG --repair` recomputes it" in str(reason)
    assert list(copy.glob("digits/scores/run=*")) == before
    assert repair("--repair", **{setting: values}).code == 0, path


def test_files_that_are_not_mads_are_left_alone(copy: Path, repair: Callable[..., Ended]) -> None:
    notes = next(copy.glob("digits/scoring/*/*/receipts")) / "notes.txt"
    notes.write_text("mine")
    assert repair("--repair").code == 0
    assert notes.read_text() == "mine"


def test_a_root_that_is_whole_or_new_is_repaired_without_a_word(
    copy: Path, repair: Callable[..., Ended], inputs: Path, tmp_path: Path
) -> None:
    ended = repair("--repair")
    assert ended.code == 0
    assert {ran for ran, _ in tasks(ended.summary).values()} == {0}
    path = inputs / "new-to-repair.yaml"
    path.write_text(yaml.safe_dump(small_config(tmp_path / "new")))
    assert mad("run", path, "--repair").code == 0
    assert mad("verify", tmp_path / "new").code == 0


@pytest.mark.parametrize("kind", S3_KINDS)
def test_on_s3(kind: str, request: pytest.FixtureRequest, finished: tuple[Path, Ended], inputs: Path) -> None:
    request.getfixturevalue(f"on_{kind}")
    root, original = Storage(fresh_url("s3")), finished[0]
    for path in original.rglob("*"):
        if path.is_file():
            root.upload(str(path.relative_to(original)), path)
    config = inputs / "on-s3-to-repair.yaml"
    config.write_text(yaml.safe_dump(small_config(original) | {"root": root.url}))
    published = {path: root.read(path) for path in root.walk("digits/scores")}
    shards = sorted(path for path in root.walk("digits/gradients") if path.endswith("rows/c/0/0"))
    (table,) = published
    for path in (shards[0], table):
        data = root.read(path)
        root.write(path, data[:-1] + bytes([data[-1] ^ 1]))
    root.remove(shards[1])
    ended = mad("run", config, "--repair", "--output", "json")
    assert ended.code == 0, ended.err
    assert {stage: ran for stage, (ran, _) in tasks(ended.summary).items()} == {**NONE, "gradients": 2}
    assert {path: root.read(path) for path in root.walk("digits/scores")} == published
    assert mad("verify", root.url).code == 0
