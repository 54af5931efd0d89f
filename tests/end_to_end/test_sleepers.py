"""A driver that is suspended past its lease and wakes up harms nothing of the driver that took over."""

from pathlib import Path

import pytest

from pipeline.operations.collection.garbage import UNCLAIMED_SECONDS
from pipeline.operations.gc import collect
from pipeline.operations.repair import repair
from pipeline.results.audit import open_audit
from pipeline.root.layout import table_file
from pipeline.root.logs import stage_logs
from tests.conftest import ConfigMaker
from tests.end_to_end.sleepers import Collect, Repair, Run, Sleep, asleep
from tests.pipeline.operations.two_nights import Nights, clean, computed, files, run, run_id

faults = pytest.mark.faults


@pytest.fixture
def nights(make_config: ConfigMaker) -> Nights:
    return Nights(make_config)


@pytest.mark.parametrize(
    "place",
    [
        "/manifests/",
        "/receipts/",
        *(pytest.param(name, marks=faults) for name in ("/scores/", "_run.json", "/facts.json")),
    ],
)
def test_a_removal_that_wakes_up_removes_nothing_that_a_run_came_to_use(nights: Nights, place: str) -> None:
    root = nights.storage.url
    keep, now = nights.garbage_after()
    assert collect(nights.storage, keep, now=now).new
    with asleep(Collect(root, keep, now), Sleep("os.remove", place)):
        again = run(nights.old)
    assert clean(nights.storage)
    assert open_audit(root).summary("digits").run_id == run_id(again)
    assert not any(computed(run(nights.old)).values()), "what the run used is there"
    assert not any(computed(run(nights.new)).values()), "what was never garbage is there"
    for _ in range(2):
        collect(nights.storage, keep, now=now)
    assert clean(nights.storage)


@pytest.mark.parametrize(
    ("event", "place"),
    [
        ("os.link", "_outcome.json"),
        ("os.rename", "digits/summary.json"),
        pytest.param("os.link", "part-00000.parquet", marks=faults),
        pytest.param("os.rename", "report/index.html", marks=faults),
    ],
)
def test_a_run_that_wakes_up_replaces_nothing_of_a_newer_one(nights: Nights, event: str, place: str) -> None:
    root = nights.storage.url
    with asleep(Run(nights.old), Sleep(event, place)):
        newer = run(nights.new)
        pages = {path: path.read_bytes() for path in Path(root, "report").glob("*.html")}
    assert clean(nights.storage)
    assert open_audit(root).summary("digits").run_id == run_id(newer)
    assert pages == {path: path.read_bytes() for path in Path(root, "report").glob("*.html")}
    assert not any(computed(run(nights.old)).values())
    assert clean(nights.storage)


def test_what_a_run_that_fell_asleep_did_not_publish_the_next_driver_does(nights: Nights) -> None:
    """Its outcome was written while it had the lock, so it counts."""
    before = nights.storage.list("runs")
    with asleep(Run(nights.old), Sleep("os.link", "part-00000.parquet")):
        run(nights.new, until="gradients")
        fallen = nights.storage.list("runs")[len(before)]
        assert open_audit(nights.storage.url).summary("digits").run_id == fallen
        assert clean(nights.storage)
    assert open_audit(nights.storage.url).summary("digits").run_id == fallen
    assert clean(nights.storage)


def overwrite(path: Path, data: bytes) -> None:
    """Damages a file; its other names, links to it, keep what they have."""
    path.unlink()
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damaged", ["receipt", pytest.param("rows", marks=faults), pytest.param("table", marks=faults)]
)
def test_a_repair_that_wakes_up_removes_nothing_that_another_repaired(nights: Nights, damaged: str) -> None:
    root, newest = nights.storage.url, run_id(nights.second)
    folder = nights.second.summary("digits").report_folder
    log = next(log for log in stage_logs(nights.storage, "digits", "reporting") if folder.startswith(log.folder))
    receipt = log.receipts()["report"]
    paths = {
        "receipt": f"{log.folder}/receipts/{log.receipt_name('report', 0)}",
        "rows": f"{log.attempt_folder(receipt)}/{receipt.files[0].name}",
        "table": table_file("digits", newest),
    }
    overwrite(Path(root, paths[damaged]), b"{")
    with asleep(Repair(root), Sleep("os.remove", "/receipts/" if damaged == "rows" else paths[damaged])):
        repair(nights.storage, ["digits"])
        run(nights.new)
    assert clean(nights.storage)
    assert repair(nights.storage, ["digits"]) == []


@pytest.mark.parametrize("place", ["/receipts/", pytest.param("/manifests/", marks=faults)])
def test_a_removal_that_wakes_up_brings_nothing_back_that_another_removed(nights: Nights, place: str) -> None:
    root = nights.storage.url
    keep, now = nights.garbage_after(
        2 * UNCLAIMED_SECONDS
    )  # when another removal is done, no file of the receipts is left
    collect(nights.storage, keep, now=now)
    with asleep(Collect(root, keep, now), Sleep("os.remove", place)):
        collect(nights.storage, keep, now=now)
        left = files(root)
    assert files(root) == left
    assert clean(nights.storage)
