"""A deadline ends a run cleanly: whole models are published, by priority, none in part, and the next run resumes."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from pydantic import JsonValue

from infra.events import Event, StageStarted, TaskEnded
from pipeline.config.audit_config import AuditConfig
from pipeline.operations.status import status
from pipeline.planning.from_models import plan_audit
from pipeline.results.audit import Audit, open_audit
from pipeline.run import run_audit, run_audit_until
from tests.audits import counts
from tests.end_to_end.zoos import THREE, Zoo, ran, three_models
from tests.jobs.command import mad, section

ROW_TASKS = 4


@pytest.fixture
def zoo(tmp_path: Path, digits: Path) -> Zoo:
    return three_models(tmp_path, digits)


class Passing:
    """A deadline that passes when something has been heard of a run."""

    def __init__(self, when: Callable[[Event], bool]):
        """`when`: whether an event is what it waits for."""
        self._when, self._heard = when, False
        self.reported: list[str] = []

    def listen(self, event: Event) -> None:
        """Hears an event; notes whose report is done."""
        self._heard |= self._when(event)
        if isinstance(event, TaskEnded) and event.stage == "reporting":
            self.reported.append(event.model)

    def passed(self) -> bool:
        """Whether it has been heard."""
        return self._heard


def until(config: AuditConfig, when: Callable[[Event], bool], executor: str = "serial") -> tuple[Audit, list[str]]:
    """Runs until an event; the audit, and whose reports were made, in order."""
    deadline = Passing(when)
    audit = run_audit_until(plan_audit(config), deadline.passed, executor, deadline.listen)
    return audit, deadline.reported


def never(event: Event) -> bool:
    return False


def test_a_model_that_is_whole_at_the_deadline_is_published_and_the_next_run_does_the_others(zoo: Zoo) -> None:
    audit, _ = until(zoo.config(THREE), lambda event: isinstance(event, TaskEnded) and event.stage == "reporting")
    assert audit.outcome is not None
    assert (list(audit.outcome.summaries), list(audit.outcome.unreached), dict(audit.outcome.failures)) == (
        ["ant"],
        ["bee", "cat"],
        {},
    )
    assert audit.scores("ant").read_all().num_rows == 200
    assert ran(audit) == {"ant": ROW_TASKS + 3 + 2 + 1}
    rest = run_audit(plan_audit(zoo.config(THREE)))
    assert rest.outcome is not None and not rest.outcome.unreached
    assert set(ran(rest)) == {"bee", "cat"}
    assert rest.summary("ant").same_as == audit.outcome.run_id


@pytest.mark.parametrize("stage", ["gradients", "curvature", "scoring"])
def test_of_a_model_that_the_deadline_cuts_nothing_is_published_and_its_tasks_are_kept(zoo: Zoo, stage: str) -> None:
    config = zoo.config(THREE[:1])
    audit, _ = until(config, lambda event: isinstance(event, TaskEnded) and event.stage == stage)
    assert audit.outcome is not None
    assert (dict(audit.outcome.summaries), list(audit.outcome.unreached), audit.outcome.clean) == ({}, ["ant"], True)
    assert not list(zoo.folder.glob("root/ant/scores/*")) and not (zoo.folder / "root/ant/summary.json").exists()
    cut = counts(audit, "ant")
    assert cut[stage][0] > 0 and cut["reporting"] == (0, 0)
    rest = run_audit(plan_audit(config))
    assert {name: run + cut[name][0] for name, (run, _) in counts(rest, "ant").items()} == {
        "gradients": 4,
        "curvature": 3,
        "scoring": 2,
        "reporting": 1,
    }


def test_what_has_begun_at_the_deadline_ends_and_nothing_else_begins(zoo: Zoo) -> None:
    audit, _ = until(zoo.config(THREE[:1]), lambda event: isinstance(event, StageStarted))
    assert counts(audit, "ant")["gradients"] == (0, 0)
    audit, _ = until(zoo.config(THREE[:1]), lambda event: isinstance(event, TaskEnded))
    assert counts(audit, "ant")["gradients"] in ((2, 0), (3, 0))
    assert len(list(zoo.folder.glob("root/ant/gradients/*/*/receipts/*"))) == counts(audit, "ant")["gradients"][0]


def test_models_never_audited_go_first_then_changed_ones_then_those_audited_longest_ago(zoo: Zoo) -> None:
    for name in ("cat", "ant", "bee"):
        run_audit(plan_audit(zoo.config([name])))
    zoo.model("dog", 3)
    zoo.model("ant", 17)
    zoo.model("eel", 4)
    # A changed model is told from an unchanged one that was audited before it; cat's run is older than bee's.
    audit, reported = until(zoo.config(["ant", "bee", "cat", "dog", "eel"]), never)
    assert reported == ["dog", "eel", "ant"]  # of cat and bee everything is reused
    assert audit.outcome is not None
    assert list(audit.outcome.summaries) == ["dog", "eel", "ant", "cat", "bee"]


CHANGES: dict[str, JsonValue] = {
    "settings": {"calibration": {"seed": 5}},
    "files": {"data": {"audited": "day0.parquet"}},
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_settings_or_files_make_a_model_a_changed_one(zoo: Zoo, change: str) -> None:
    for name in THREE:
        run_audit(plan_audit(zoo.config([name])))
    raw = zoo.raw(THREE)
    models = raw["models"]
    assert isinstance(models, list) and isinstance(models[2], dict)
    models[2] |= CHANGES[change]  # type: ignore[operator]
    audit, _ = until(AuditConfig.parse(raw, str(zoo.folder)), never)
    assert audit.outcome is not None
    assert list(audit.outcome.summaries) == ["cat", "ant", "bee"]


def test_night_after_night_every_model_gets_its_turn_where_all_change_and_there_is_time_for_one(zoo: Zoo) -> None:
    published = []
    for night in range(4):
        zoo.day(1, start=50 * night)
        audit, _ = until(zoo.config(THREE), lambda event: isinstance(event, TaskEnded) and event.stage == "reporting")
        assert audit.outcome is not None
        published += list(audit.outcome.summaries)
    assert published == ["ant", "bee", "cat", "ant"]


def test_without_a_task_left_to_do_a_deadline_changes_nothing(zoo: Zoo) -> None:
    plain = run_audit(plan_audit(zoo.config(THREE)))
    table = plain.scores("bee").read_all()
    audit, reported = until(zoo.config(THREE), never)
    assert audit.outcome is not None
    assert (reported, ran(audit), list(audit.outcome.unreached)) == ([], {}, [])
    assert audit.scores("bee").read_all().equals(table)


def test_the_command_names_what_is_published_and_what_is_not_and_exits_with_3(zoo: Zoo) -> None:
    path = zoo.folder / "zoo.yaml"
    path.write_text(yaml.safe_dump(zoo.raw(THREE)))
    ended = mad("run", path, "--deadline", "0s", "--output", "json", "-q")
    assert ended.code == 3
    assert ended.complaint == (
        "the deadline passed before all models were done: none published; not reached: 3 (ant, bee, cat); "
        "what is done of these is kept, and the next `mad run` resumes from there"
    )
    assert (ended.document["models"], ended.document["unreached"]) == ({}, list(THREE))
    done = mad("run", path, "--deadline", "2h30m", "--output", "json")
    assert (done.code, list(section(done.document, "models")), done.document["unreached"]) == (0, list(THREE), [])


def test_status_says_which_models_are_done_at_a_deadline(zoo: Zoo) -> None:
    audit, _ = until(zoo.config(THREE), lambda event: isinstance(event, TaskEnded) and event.stage == "reporting")
    (run,) = status(open_audit(audit.storage.url).storage).runs
    assert (run.state, run.done, run.unreached) == ("ended at its deadline", ("ant",), ("bee", "cat"))
    assert "done: ant; not reached: bee, cat" in mad("status", audit.storage.url).out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--deadline", "soon"], "--deadline 'soon' is not a duration"),
        (["--deadline", "1h", "--until", "scoring"], "leave out --until"),
    ],
)
def test_a_deadline_that_makes_no_sense_is_refused_before_anything_is_written(
    zoo: Zoo, arguments: list[str], complaint: str
) -> None:
    path = zoo.folder / "zoo.yaml"
    path.write_text(yaml.safe_dump(zoo.raw(THREE)))
    ended = mad("run", path, *arguments)
    assert (ended.code, complaint in ended.complaint) == (2, True)
    assert not (zoo.folder / "root").exists()


@pytest.mark.faults
def test_on_ray_waves_of_models_make_the_same_scores(zoo: Zoo, ray_cluster: None) -> None:
    os.environ.pop("RAY_ADDRESS", None)
    scores = run_audit(plan_audit(zoo.config(THREE))).scores("cat").read_all().column("score").to_pylist()
    audit, reported = until(zoo.config(THREE, root="on-ray"), never, "ray")
    assert sorted(reported) == list(THREE)
    assert audit.scores("cat").read_all().column("score").to_pylist() == pytest.approx(scores, abs=1e-5)


@pytest.mark.faults
def test_on_ray_a_deadline_lets_what_has_begun_end_and_publishes_what_is_whole(zoo: Zoo, ray_cluster: None) -> None:
    config = zoo.config(THREE, root="on-ray", run={"workers": 1, "rows_per_task": 32})
    audit, _ = until(config, lambda event: isinstance(event, TaskEnded) and event.stage == "reporting", "ray")
    assert audit.outcome is not None
    assert (list(audit.outcome.summaries), list(audit.outcome.unreached)) == (["ant"], ["bee", "cat"])
    cut, _ = until(config, lambda event: isinstance(event, TaskEnded) and event.model == "bee", "ray")
    assert cut.outcome is not None
    assert (list(cut.outcome.summaries), list(cut.outcome.unreached)) == ([], ["bee", "cat", "ant"])
    assert 0 < counts(cut, "bee")["gradients"][0] < 16
    rest = run_audit(plan_audit(config), "ray")
    assert rest.outcome is not None and list(rest.outcome.summaries) == list(THREE)
    assert counts(rest, "bee")["gradients"][1] == counts(cut, "bee")["gradients"][0]
