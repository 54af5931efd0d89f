"""What a plan derives from its recipe and settings: tasks, keys, layouts, bytes, and what fits."""

from dataclasses import replace

import pytest
from pydantic import JsonValue

from infra.storage.storage import Storage
from pipeline.errors import CannotFit
from pipeline.planning.plan import AuditPlan, ModelPlan, row_task_log
from pipeline.planning.recipe import samples_of
from tests.pipeline.planning.plans import MEMORY, SIDES, audit_config, model_config, model_plan, source


def of_kind(kind: str, **more: JsonValue) -> ModelPlan:
    return model_plan(model_config(curvature={"kind": kind, **more}))


@pytest.mark.parametrize(
    ("rows", "labels", "samples"),
    [(100, 0, 100), (100, 1, 100), (100, 3, 32), (96, 3, 32), (95, 3, 24), (10, 3, 8), (1, 1000, 8)],
)
def test_rows_of_several_labels_hold_a_multiple_of_eight_samples(rows: int, labels: int, samples: int) -> None:
    assert samples_of(rows, labels) == samples


def test_tasks_cover_each_file_once_and_in_order() -> None:
    plan = model_plan()
    ranges = [(task.source.file.name, task.start, task.stop) for task in plan.row_tasks]
    assert ranges == [
        ("trusted.parquet", 0, 16),
        ("trusted.parquet", 16, 20),
        ("day-1.parquet", 0, 16),
        ("day-1.parquet", 16, 30),
        ("day-2.parquet", 0, 16),
        ("day-2.parquet", 16, 20),
    ]
    assert plan.row_tasks[1].name == "000000000016-000000000020"


def test_a_file_that_is_both_trusted_and_audited_is_planned_once() -> None:
    both = source("both.parquet", 10)
    plan = model_plan(trusted=(both,), audited=(source("day.parquet", 5), both))
    assert [one.file.name for one in plan.sources] == ["both.parquet", "day.parquet"]


@pytest.mark.parametrize(
    ("kind", "labels"), [("identity", 0), ("block_moment", 0), ("fisher", 1), ("kfac", 1), ("ekfac", 1), ("ggn", 10)]
)
def test_a_curvature_has_rows_of_its_own_for_its_labels(kind: str, labels: int) -> None:
    plan = of_kind(kind)
    assert plan.labels_per_sample == labels
    assert [one.file.name for one in plan.curvature_sources] == ["trusted.parquet"] * bool(labels)
    own = len(plan.tasks_of(plan.sources))
    assert {task.labels_per_sample for task in plan.row_tasks[own:]} == ({labels} if labels else set())


def test_a_transductive_curvature_has_rows_of_the_audited_samples_too() -> None:
    plan = of_kind("ggn", transductive=True)
    assert plan.curvature_sources == plan.sources
    # 10 labels in tasks of 16 rows: 8 samples each, the fewest; 3 + 4 + 3 tasks after the 6 of the samples' own rows.
    assert len(plan.row_tasks) == 6 + 10


def test_curvature_rows_depend_on_the_kind_and_the_seed_but_not_on_the_damping() -> None:
    key, fisher = of_kind("kfac").curvature_rows_key, of_kind("fisher").curvature_rows_key
    assert key == of_kind("ekfac").curvature_rows_key
    assert key == of_kind("kfac", damping={"kind": "absolute", "value": 0.5}).curvature_rows_key
    assert len({key, fisher, of_kind("ggn").curvature_rows_key, of_kind("fisher", seed=1).curvature_rows_key}) == 4


def test_rows_of_sides_are_float32_in_a_layout_of_their_own() -> None:
    plan = of_kind("kfac")
    assert (plan.layout_of(0), plan.dtype_of(0)) == (SIDES.rows, "float16")
    assert (plan.layout_of(1), plan.dtype_of(1)) == (SIDES.stored, "float32")
    # Of each layer both moments and a count: 2*2 + 4*4 + 1, and 3*3 + 2*2 + 1.
    assert plan.layout_of(1).k == 21 + 14
    ggn = of_kind("ggn")
    assert (ggn.layout_of(10), ggn.dtype_of(10)) == (SIDES.rows, "float16")


def test_bytes_of_rows_are_numbers_and_a_scale_for_each_layer() -> None:
    own = 70 * (2 * 14 + 4 * 2)  # 70 samples, 14 numbers of float16, 2 scales
    assert model_plan().row_bytes == own
    assert of_kind("ggn").row_bytes == own + 10 * 20 * (2 * 14 + 4 * 2)
    assert of_kind("kfac").row_bytes == own + 20 * (4 * 35 + 4 * 6)


def test_layers_and_fallback_are_those_of_the_rows_in_use() -> None:
    cost = {"module": "m", "parameters_share": 0.5, "gradient_bytes": 8, "one_by_one": False}
    plan = model_plan(fallback={"first.weight": cost, "second.weight": cost})
    fewer = replace(plan, sides=plan.recipe.sides.of_layers(("second.weight",)))
    assert [layer.name for layer in plan.layers] == list(plan.fallback) == ["first.weight", "second.weight"]
    assert [layer.name for layer in fewer.layers] == list(fewer.fallback) == ["second.weight"]
    assert fewer.layout.sizes == (6,)


def test_rows_and_curvature_rows_have_a_log_each() -> None:
    plan, storage = of_kind("fisher"), Storage("/nowhere")
    (trusted,) = plan.trusted
    assert row_task_log(storage, plan, trusted, 0).folder == f"net/gradients/rowkey/{trusted.key}"
    assert row_task_log(storage, plan, trusted, 1).folder == f"net/gradients/{plan.curvature_rows_key}/{trusted.key}"


def granting(memory: str) -> AuditPlan:
    """Two models that need 1,000 and 3,000 bytes, of a worker that has so much."""
    config = audit_config(["small", "large"], run={"memory_per_worker": memory})
    small, large = (replace(model_plan(), config=model) for model in config.models)
    return AuditPlan(config, (small, replace(large, memory=replace(MEMORY, curvature=3000))), {"gone": "no file"})


def test_models_that_do_not_fit_are_refused_and_the_others_stay() -> None:
    plan = granting("2000B")
    fitting = plan.fitting()
    assert [model.name for model in fitting.models] == ["small"]
    assert list(fitting.refused) == ["gone", "large"]
    assert fitting.refused["large"].startswith("the stage curvature would need")
    assert granting("3000B").fitting() == granting("3000B")


def test_a_plan_none_of_whose_models_fits_is_refused() -> None:
    with pytest.raises(CannotFit, match=r"^model small: the stage gradients .*; model large: the stage curvature"):
        granting("999B").fitting()


def test_a_plan_is_complete_with_every_model_and_every_file() -> None:
    plan = granting("3000B")
    assert not plan.complete
    whole = replace(plan, refused={})
    assert whole.complete
    first, second = whole.models
    assert not replace(whole, models=(first, replace(second, refused_files={"day-3.parquet": "no column"}))).complete
