"""A root is a zoo's home: night after night, what did not change costs no task, and what did costs only itself."""

import os
from pathlib import Path

import pytest

from infra.events import Event, Notice
from pipeline.config.audit_config import AuditConfig
from pipeline.planning.from_models import plan_audit
from pipeline.results.audit import Audit
from pipeline.run import run_audit
from tests.audits import Counts, counts
from tests.end_to_end.zoos import THREE, Zoo, cpu_seconds_of_a_quiet_night, ran, three_models

TRUSTED_TASKS, FITTING_TASKS = 2, 3

CPU_SECONDS_OF_A_MODEL = 0.05  # on a night without a change


WHOLE: Counts = {
    "gradients": (TRUSTED_TASKS + 2, 0),
    "curvature": (FITTING_TASKS, 0),
    "scoring": (2, 0),
    "reporting": (1, 0),
}


REUSED: Counts = {stage: (0, run) for stage, (run, _) in WHOLE.items()}


@pytest.fixture
def zoo(tmp_path: Path, digits: Path) -> Zoo:
    return three_models(tmp_path, digits)


def night(config: AuditConfig, clean: bool = True) -> Audit:
    audit = run_audit(plan_audit(config))
    assert audit.outcome is not None and audit.outcome.clean == clean
    return audit


def each(audit: Audit) -> list[Counts]:
    """The counts of all models."""
    return [counts(audit, name) for name in THREE]


def test_a_night_without_a_change_runs_no_task(zoo: Zoo) -> None:
    assert each(night(zoo.config(THREE))) == [WHOLE] * 3
    assert each(night(zoo.config(THREE))) == [REUSED] * 3


def test_a_new_model_costs_one_model(zoo: Zoo) -> None:
    night(zoo.config(THREE[:2]))
    grown = night(zoo.config(THREE))
    assert (counts(grown, THREE[2]), list(ran(grown))) == (WHOLE, [THREE[2]])


def test_a_new_days_file_costs_that_file(zoo: Zoo) -> None:
    night(zoo.config(THREE))
    zoo.day(2)
    one_file: Counts = {
        "gradients": (1, TRUSTED_TASKS + 2),
        "curvature": (0, FITTING_TASKS),
        "scoring": (1, 2),
        "reporting": (1, 0),
    }
    assert each(night(zoo.config(THREE))) == [one_file] * 3


def test_a_changed_trusted_set_leaves_the_audited_rows_alone(zoo: Zoo) -> None:
    night(zoo.config(THREE))
    zoo.trusted(190)
    fitted_anew: Counts = {
        "gradients": (TRUSTED_TASKS, 2),
        "curvature": (FITTING_TASKS, 0),
        "scoring": (2, 0),
        "reporting": (1, 0),
    }
    assert each(night(zoo.config(THREE))) == [fitted_anew] * 3


def test_a_file_changed_under_its_name_is_noticed_and_redone(zoo: Zoo) -> None:
    before = night(zoo.config(THREE))
    ids = before.scores("ant").read_all().column("sample_id").to_pylist()
    zoo.day(1, start=300)
    audit = night(zoo.config(THREE))
    assert counts(audit, "ant") == {
        "gradients": (1, TRUSTED_TASKS + 1),
        "curvature": (0, FITTING_TASKS),
        "scoring": (1, 1),
        "reporting": (1, 0),
    }
    now = audit.scores("ant").read_all().column("sample_id").to_pylist()
    assert (now[:100], len(now)) == (ids[:100], 200)
    assert not set(now[100:]) & set(ids[100:])


def test_a_file_rewritten_with_the_same_size_is_noticed_by_its_time(zoo: Zoo) -> None:
    night(zoo.config(THREE[:1]))
    file = zoo.folder / "day1.parquet"
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1_000_000))
    assert counts(night(zoo.config(THREE[:1])), "ant")["gradients"] == (1, TRUSTED_TASKS + 1)


def test_weights_uploaded_anew_under_the_same_name_are_another_model(zoo: Zoo) -> None:
    before = night(zoo.config(THREE)).summary("bee").model_digest
    weights = zoo.folder / "bee.safetensors"
    size = weights.stat().st_size
    zoo.model("bee", 77)
    assert weights.stat().st_size == size
    audit = night(zoo.config(THREE))
    assert (counts(audit, "bee"), list(ran(audit))) == (WHOLE, ["bee"])
    assert audit.summary("bee").model_digest != before


def test_the_same_weights_uploaded_anew_are_the_same_model(zoo: Zoo) -> None:
    night(zoo.config(THREE))
    weights = zoo.folder / "bee.safetensors"
    weights.write_bytes(weights.read_bytes())
    os.utime(weights, (1, 1))
    assert ran(night(zoo.config(THREE))) == {}


def test_a_file_that_vanished_from_a_list_is_reported_by_name_and_the_rest_runs(zoo: Zoo) -> None:
    config = zoo.config(THREE, data={"audited": ["day0.parquet", "day1.parquet"]})
    night(config)
    (zoo.folder / "day1.parquet").unlink()
    audit = night(config, clean=False)
    assert audit.outcome is not None and not audit.outcome.failures
    assert {name: list(files) for name, files in audit.outcome.refused_files.items()} == {
        name: ["day1.parquet"] for name in THREE
    }
    assert "day1.parquet: no such file" in audit.outcome.refused_files["ant"]["day1.parquet"]
    assert set(audit.scores("ant").read_all().column("source").to_pylist()) == {"day0.parquet"}


def test_a_file_that_vanished_from_a_glob_is_told_by_name_once_and_is_no_failure(zoo: Zoo) -> None:
    night(zoo.config(THREE[:1]))
    (zoo.folder / "day1.parquet").unlink()
    told: list[Event] = []
    audit = run_audit(plan_audit(zoo.config(THREE[:1])), listener=told.append)
    assert audit.outcome is not None and audit.outcome.clean
    line = "files that its latest run audited and that no glob finds any more: day1.parquet"
    assert [event.text for event in told if isinstance(event, Notice)] == [f"model ant: {line}"]
    assert any("no glob finds any more: day1.parquet" in warning for warning in audit.summary("ant").warnings)
    told.clear()
    run_audit(plan_audit(zoo.config(THREE[:1])), listener=told.append)
    assert not any(isinstance(event, Notice) for event in told)


def test_a_file_that_the_config_names_no_more_has_not_vanished(zoo: Zoo) -> None:
    night(zoo.config(THREE[:1]))
    told: list[Event] = []
    run_audit(plan_audit(zoo.config(THREE[:1], data={"audited": "day1*.parquet"})), listener=told.append)
    assert not any(isinstance(event, Notice) for event in told)


def test_a_model_whose_weights_vanished_is_reported_by_name_and_the_others_run(zoo: Zoo) -> None:
    night(zoo.config(THREE))
    (zoo.folder / "bee.safetensors").unlink()
    audit = night(zoo.config(THREE), clean=False)
    assert audit.outcome is not None
    assert list(audit.outcome.failures) == ["bee"] and "bee.safetensors" in audit.outcome.failures["bee"]
    assert (sorted(audit.outcome.summaries), ran(audit)) == (["ant", "cat"], {})


@pytest.mark.nights
def test_nights_of_a_zoo_of_fifty_cost_what_changed(tmp_path: Path, digits: Path) -> None:
    zoo, names = Zoo(tmp_path, digits), [f"m{number:02}" for number in range(50)]
    for seed, name in enumerate(names):
        zoo.model(name, seed)
    zoo.trusted(200)
    zoo.day(0)
    zoo.day(1)
    assert len(ran(night(zoo.config(names[:49])))) == 49
    assert ran(night(zoo.config(names[:49]))) == {}
    assert list(ran(night(zoo.config(names)))) == names[49:]
    zoo.day(2)
    assert ran(night(zoo.config(names))) == dict.fromkeys(names, 3)
    zoo.model("m07", 100)
    assert list(ran(night(zoo.config(names)))) == ["m07"]
    assert cpu_seconds_of_a_quiet_night(zoo.config(names), tmp_path) < CPU_SECONDS_OF_A_MODEL * len(names)
