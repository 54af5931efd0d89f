"""What a root says of its runs and models."""

from pathlib import Path

import pytest

from infra.storage.identity import InputFile
from pipeline.errors import RootError
from pipeline.operations.status import status
from pipeline.root.layout import collected_file, summary_file
from pipeline.root.logs import rows_log
from pipeline.root.mark import root_lock
from pipeline.root.records import ModelRecord
from tests.pipeline.operations.runs import FIRST, SECOND, THIRD, begin, commit, end, fresh_root, summary

FILE = InputFile("a", "/a", 1, "1")


def test_an_empty_root_has_no_runs_and_what_is_no_root_is_refused(tmp_path: Path) -> None:
    found = status(fresh_root(str(tmp_path / "root")))
    assert (found.runs, found.models, found.locked_by) == ((), {}, None)
    with pytest.raises(RootError):
        status(fresh_root(str(tmp_path / "root")).__class__(str(tmp_path / "none")))


def test_of_runs_that_have_not_ended_the_latest_can_be_resumed_and_shows_how_far_it_is(tmp_path: Path) -> None:
    storage = fresh_root(str(tmp_path))
    record = ModelRecord(
        row_key="own", fitted_key="curvature", fitted_sources=("s1",), tasks=7, sources={"s1": FILE, "s2": FILE}
    )
    begin(storage, FIRST, net=record)
    begin(storage, SECOND, net=record)
    for key, source, tasks in (("own", "s1", "ab"), ("own", "s2", "a"), ("curvature", "s1", "a"), ("other", "s1", "a")):
        for task in tasks:
            commit(rows_log(storage, "net", key, source), task)
    latest, earlier = status(storage).runs
    assert (latest.run_id, latest.state) == (SECOND, "interrupted (`mad run` resumes)")
    assert latest.rows is not None
    assert (latest.rows["net"].tasks, latest.rows["net"].done) == (7, 4)
    assert (earlier.state, earlier.rows) == ("interrupted, its work taken up by later runs", None)
    with root_lock(storage):
        at_work = status(storage)
        assert at_work.locked_by is not None and at_work.runs[0].state == f"at work ({at_work.locked_by})"


@pytest.mark.parametrize(
    ("complete", "outcome", "state"),
    [
        (True, {}, "completed"),
        (False, {}, "stopped after a stage, as asked"),
        (True, {"unreached": ["b"]}, "ended at its deadline"),
        (True, {"failures": {"b": "no file"}}, "completed, with failures"),
        (True, {"failed_tasks": {"b": ["scoring: x"]}}, "completed, with failures"),
        (True, {"unreached": ["b"], "refused_files": {"b": {"f": "x"}}}, "ended at its deadline, with failures"),
    ],
)
def test_an_ended_run_says_how_it_ended(tmp_path: Path, complete: bool, outcome: dict[str, object], state: str) -> None:
    storage = fresh_root(str(tmp_path))
    begin(storage, FIRST)
    end(storage, FIRST, summary(FIRST, "net"), complete=complete, **outcome)
    (run,) = status(storage).runs
    assert (run.state, run.done, run.started, run.rows) == (state, ("net",), FIRST[:16], None)
    storage.write(collected_file(FIRST), b"{}")
    (run,) = status(storage).runs
    assert run.state == f"{state}; `mad gc` removed results of it"


def test_what_cannot_be_read_is_said_and_the_rest_is_shown(tmp_path: Path) -> None:
    storage = fresh_root(str(tmp_path))
    for run_id in (FIRST, SECOND, THIRD):
        begin(storage, run_id)
    end(storage, FIRST, summary(FIRST, "net"), summary(FIRST, "other"))
    storage.write(f"runs/{SECOND}/_outcome.json", b"{")
    storage.write(summary_file("other"), b"[")
    found = status(storage)
    assert [run.run_id for run in found.runs] == [THIRD, SECOND, FIRST]
    assert found.runs[1].state.startswith("unreadable: ") and found.runs[1].started is None
    net, other = found.models["net"], found.models["other"]
    assert net is not None and net.verdict is not None and net.counts is not None
    assert (net.run_id, net.verdict.value, net.counts.flagged) == (FIRST, "unusual inputs", 2)
    assert other is not None and other.unreadable is not None and "not readable JSON" in other.unreadable
