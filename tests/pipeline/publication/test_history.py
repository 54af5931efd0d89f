"""Runs compared: what is newly flagged, no longer flagged, added, changed and gone, each found in a second way."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import JsonValue
from safetensors.torch import load_file, save_file

from infra.formats.documents import parse
from pipeline.planning.from_models import plan_audit
from pipeline.publication.comparison import Difference
from pipeline.publication.drift import drifted_classes
from pipeline.publication.history import History, RunComparison, changes_since
from pipeline.results.audit import Audit
from pipeline.root.layout import history_file
from pipeline.root.runs import Runs
from pipeline.run import run_audit
from tests.conftest import ConfigMaker

MODEL: dict[str, JsonValue] = {
    "name": "digits",
    "architecture": "pipeline.demo.network:digit_cnn",
    "weights": "digits.safetensors",
}


def run(make_config: ConfigMaker, **sections: JsonValue) -> tuple[Audit, str]:
    """Runs an audit; returns it with the run's id."""
    audit = run_audit(plan_audit(make_config(**sections)))
    assert audit.outcome is not None and audit.outcome.clean
    return audit, audit.outcome.run_id


def compared(audit: Audit, run_id: str, top: int = 1000) -> RunComparison:
    found = changes_since(Runs(audit.storage), audit.models, run_id, top).models["digits"]
    assert found is not None and not found.problem
    return found


def flagged(audit: Audit) -> dict[str, bool]:
    """Whether a sample of the latest table is flagged, by id."""
    table = audit.scores("digits").read_all()
    return dict(zip(table.column("sample_id").to_pylist(), table.column("flagged").to_pylist(), strict=True))


@pytest.fixture
def days(digits: Path, tmp_path: Path) -> Path:
    """Rows 0 to 300 of the audited digits as `monday.parquet`, rows 100 to the end as `tuesday.parquet`."""
    table = pq.read_table(digits / "audited.parquet")
    pq.write_table(table.slice(0, 300), tmp_path / "monday.parquet")
    pq.write_table(table.slice(100), tmp_path / "tuesday.parquet")
    return tmp_path


def test_an_unchanged_night_differs_in_nothing(make_config: ConfigMaker) -> None:
    (_, first), (audit, second) = run(make_config), run(make_config)
    found = compared(audit, first)
    assert (found.before.run_id, found.after.run_id, found.after.same_as, found.changed) == (first, second, first, ())
    assert found.difference == Difference(common=found.after.audited)


@pytest.mark.parametrize("name", ["the same name", "another name"])
def test_samples_of_a_file_that_changed_are_told_by_their_ids(make_config: ConfigMaker, days: Path, name: str) -> None:
    monday, tuesday = str(days / "monday.parquet"), str(days / "tuesday.parquet")
    audit, first = run(make_config, data={"audited": monday})
    before = flagged(audit)
    if name == "the same name":
        shutil.copy(tuesday, monday)
    audit, _ = run(
        make_config,
        data={"audited": monday if name == "the same name" else tuesday},
        calibration={"target": {"fpr": 0.02}},
    )
    after, found = flagged(audit), compared(audit, first).difference
    assert found.common == len(before.keys() & after.keys()) == 200
    new = [sample for sample in after if after[sample] and not before.get(sample)]
    assert sorted(flag.sample_id for flag in found.newly_flagged.samples) == sorted(new)
    assert {flag.sample_id for flag in found.newly_flagged.samples if flag.known} == set(new) & before.keys()
    assert [flag.sample_id for flag in found.no_longer_flagged.samples] == [
        sample for sample in before if before[sample] and not after.get(sample, True)
    ]
    assert found.no_longer_audited == sum(before[sample] for sample in before if sample not in after) > 0
    assert len(new) > 0


def test_samples_of_an_unchanged_file_are_told_by_their_rows_also_where_ids_repeat(
    make_config: ConfigMaker, digits: Path, tmp_path: Path
) -> None:
    table = pq.read_table(digits / "audited.parquet").slice(0, 200)
    same = table.set_column(table.schema.get_field_index("id"), "id", pa.array(["one"] * 200))
    pq.write_table(same, tmp_path / "same.parquet")
    data: JsonValue = {"audited": str(tmp_path / "same.parquet")}
    audit, first = run(make_config, data=data, calibration={"target": {"fpr": 0.05}})
    before = audit.scores("digits").read_all().column("flagged").to_numpy()
    audit, _ = run(make_config, data=data, score={"kind": "leverage"}, calibration={"target": {"fpr": 0.05}})
    after, found = audit.scores("digits").read_all().column("flagged").to_numpy(), compared(audit, first)
    assert found.changed == ("settings",)
    assert (
        sorted(flag.row for flag in found.difference.newly_flagged.samples) == np.flatnonzero(after & ~before).tolist()
    )
    assert (
        sorted(flag.row for flag in found.difference.no_longer_flagged.samples)
        == np.flatnonzero(before & ~after).tolist()
    )
    assert (after != before).any() and found.difference.no_longer_audited == 0


def test_the_most_anomalous_new_flags_come_first_and_no_more_than_asked_for(make_config: ConfigMaker) -> None:
    _, first = run(make_config)
    audit, _ = run(make_config, calibration={"target": {"fpr": 0.2}})
    whole, short = (
        compared(audit, first).difference.newly_flagged,
        compared(audit, first, top=3).difference.newly_flagged,
    )
    scores = [flag.score for flag in whole.samples if flag.score is not None]
    assert scores == sorted(scores, reverse=True)
    assert (short.count, short.samples) == (whole.count, whole.samples[:3])
    assert whole.count == len(whole.samples) > 3


def test_what_changed_between_runs_is_named(make_config: ConfigMaker, digits: Path, tmp_path: Path) -> None:
    for name in ("digits.safetensors", "trusted.parquet"):
        shutil.copy(digits / name, tmp_path)
    changing: dict[str, JsonValue] = {
        "models": [{**MODEL, "weights": str(tmp_path / "digits.safetensors")}],
        "data": {"trusted": str(tmp_path / "trusted.parquet")},
    }
    _, first = run(make_config, **changing)
    pq.write_table(pq.read_table(tmp_path / "trusted.parquet").slice(0, 450), tmp_path / "trusted.parquet")
    audit, second = run(make_config, **changing)
    assert compared(audit, first).changed == ("trusted set",)
    state = load_file(digits / "digits.safetensors")
    save_file({name: value * 1.01 for name, value in state.items()}, tmp_path / "digits.safetensors")
    audit, _ = run(make_config, **changing)
    assert compared(audit, second).changed == ("model",)
    assert compared(audit, first).changed == ("model", "trusted set")
    assert changes_since(Runs(audit.storage), audit.models, first, 0).zoo.changed == ("digits",)
    assert drifted_classes(compared(audit, second).difference.drift), (
        "weights 1 % larger make larger gradients of every sample"
    )


def test_models_added_and_gone_are_named_and_one_that_failed_is_neither(
    make_config: ConfigMaker, tmp_path: Path
) -> None:
    one, two, three = ({**MODEL, "name": name} for name in ("digits", "twin", "late"))
    _, first = run(make_config, models=[one, two])
    broken: JsonValue = {**one, "weights": str(tmp_path / "none.safetensors")}
    audit = run_audit(plan_audit(make_config(models=[broken, three])))
    assert audit.outcome is not None
    second = audit.outcome.run_id
    found = changes_since(Runs(audit.storage), audit.models, first, 10)
    assert (found.zoo.added, found.zoo.changed, found.zoo.gone) == (("late",), (), ("twin",))
    assert found.models["late"] is None
    assert {name: model.after.run_id for name, model in found.models.items() if model} == {
        "digits": first,
        "twin": first,
    }
    audit, _ = run(make_config, models=[two])
    assert changes_since(Runs(audit.storage), audit.models, first, 10).zoo.gone == ("digits",)
    assert changes_since(Runs(audit.storage), audit.models, second, 10).zoo.gone == (), (
        "the run of another zoo says nothing of this one"
    )


def test_a_models_view_lists_its_runs_newest_first_and_can_be_made_anew(make_config: ConfigMaker) -> None:
    ids = [run(make_config)[1] for _ in range(3)]
    audit, last = run(make_config, calibration={"target": {"fpr": 0.2}})
    place = history_file("digits")
    view = parse(audit.storage.read(place), History, place)
    assert [standing.run_id for standing in view.runs] == [last, *reversed(ids)]
    assert view.compared is not None and (view.compared.before.run_id, view.compared.after.run_id) == (ids[2], last)
    audit.storage.remove(place)
    audit, again = run(make_config, calibration={"target": {"fpr": 0.2}})
    view = parse(audit.storage.read(place), History, place)
    assert [standing.run_id for standing in view.runs] == [again, last, *reversed(ids)]


def test_a_table_that_is_gone_is_a_problem_of_its_comparison_alone(make_config: ConfigMaker) -> None:
    _, first = run(make_config)
    audit, _ = run(make_config, calibration={"target": {"fpr": 0.2}})
    shutil.rmtree(Path(audit.storage.url) / "digits" / "scores" / f"run={first}")
    found = changes_since(Runs(audit.storage), audit.models, first, 10).models["digits"]
    assert found is not None and f"run={first}" in found.problem and found.difference == Difference()
