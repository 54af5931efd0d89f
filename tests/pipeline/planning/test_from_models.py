"""What a plan refuses and warns of."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import JsonValue
from safetensors.torch import load_file, save_file

from pipeline.errors import ConfigError
from pipeline.planning.from_models import plan_audit
from tests.conftest import ConfigMaker

MODEL = {"architecture": "pipeline.demo.network:digit_cnn", "weights": "digits.safetensors"}


def write(path: Path, *tables: pa.Table) -> str:
    pq.write_table(pa.concat_tables(tables), path)
    return str(path)


def test_a_model_that_cannot_be_audited_is_refused_and_the_others_are_planned(
    make_config: ConfigMaker, digits: Path, tmp_path: Path
) -> None:
    few = write(tmp_path / "few.parquet", pq.read_table(digits / "trusted.parquet").slice(0, 5))
    models: JsonValue = [
        {"name": "whole", **MODEL},
        {"name": "few", **MODEL, "data": {"trusted": few}},
        {"name": "gone", **MODEL, "data": {"trusted": str(tmp_path / "gone.parquet")}},
    ]
    plan = plan_audit(make_config(models=models))
    assert [model.name for model in plan.models] == ["whole"]
    assert list(plan.refused) == ["few", "gone"]
    assert plan.refused["few"].startswith("calibration: ") and "add trusted samples" in plan.refused["few"]


def with_labels(digits: Path, path: Path, change: Callable[[int, int], int]) -> str:
    """The trusted digits with other labels, each a function of its row and its label."""
    table = pq.read_table(digits / "trusted.parquet")
    labels = [change(row, label) for row, label in enumerate(table["label"].to_pylist())]
    return write(path, table.set_column(table.schema.get_field_index("label"), "label", pa.array(labels)))


def test_labels_that_are_no_class_are_said_once(make_config: ConfigMaker, digits: Path, tmp_path: Path) -> None:
    trusted = with_labels(digits, tmp_path / "odd.parquet", lambda row, label: 255 if row in (7, 40) else label)
    (model,) = plan_audit(make_config(data={"trusted": trusted})).models
    assert model.recipe.warnings == (
        "data.trusted: 2 of 500 labels are no class of the model, whose 10 classes are 0 to 9; the first is 255, of "
        f"{trusted}, row 7; these samples explain nothing",
    )
    wrong = with_labels(digits, tmp_path / "wrong.parquet", lambda _, label: label + 10)
    with pytest.raises(
        ConfigError, match=r"500 of 500 labels are no class .*; check data\.columns\.label, or set it to"
    ):
        plan_audit(make_config(data={"trusted": wrong}))


def test_weights_are_not_sampled_on_labels_that_are_no_class(
    make_config: ConfigMaker, digits: Path, tmp_path: Path
) -> None:
    sampling = with_labels(digits, tmp_path / "sampling.parquet", lambda row, label: -2 if row == 3 else label)
    table = pq.read_table(sampling)
    renamed = table.set_column(0, "id", pa.array([f"sampling-{row}" for row in range(len(table))]))
    estimator = {"kind": "loss_trace", "sampling": write(Path(sampling), renamed), "draws": 40, "burn_in": 10}
    with pytest.raises(ConfigError, match=r"estimator\.sampling: 1 of 500 labels are no class .*; the first is -2, of"):
        plan_audit(make_config(estimator=estimator, calibration={"target": {"fpr": 0.05}}))


def test_weights_that_are_not_finite_are_said_and_refused_where_no_output_is(
    make_config: ConfigMaker, digits: Path, tmp_path: Path
) -> None:
    state = load_file(digits / "digits.safetensors")
    name, weights = str(tmp_path / "odd.safetensors"), {**MODEL, "name": "digits"}
    bias = state["8.bias"].clone()
    bias[3] = float("-inf")
    save_file({**state, "8.bias": bias}, name)
    (model,) = plan_audit(make_config(models=[{**weights, "weights": name}])).models
    assert model.recipe.warnings[0].startswith(
        "weights: 1 of the 10 numbers of 8.bias are not finite; check how the weights"
    )
    save_file({**state, "0.weight": state["0.weight"] * float("nan")}, name)
    with pytest.raises(
        ConfigError, match=r"no output on a trusted sample is finite: 432 of the 432 numbers of 0\.weight"
    ):
        plan_audit(make_config(models=[{**weights, "weights": name}]))
