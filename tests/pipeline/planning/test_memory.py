"""What a pass needs, counted from the tensors that live in it, against what a process is seen to take."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedModel

from madcore import Measured, Projection, RowExtractor, RowLayout, TokenBatch, select_layers, token_margin
from pipeline.inputs.lengths import TextBytes
from pipeline.planning.memory import (
    PROCESS_BYTES,
    Blocks,
    ProjectedMemory,
    Shapes,
    batch_bytes,
    moment_sizes,
    pass_bytes,
    project_memory,
    shapes_of_rows,
)
from pipeline.planning.probe.rows import ROOM
from tests.benchmarks.memory import peaks
from tests.benchmarks.models import CASES
from tests.languages import MODELS, POSITIONS, gpt2
from tests.pipeline.planning.plans import SIDES, model_config, row_recipe, source


def bytes_at(model: PreTrainedModel, length: int) -> int:
    """Of a text of this length, all but its first token the completion."""
    tokens = TokenBatch.of([torch.arange(length)], [1])
    extractor = RowExtractor(model, select_layers(model, ["*", "!lm_head"]).covered, Projection())
    return pass_bytes(extractor, Measured(tokens.inputs, token_margin(tokens)))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_two_lengths_tell_the_bytes_of_any_other(build: Callable[[], PreTrainedModel], attention: str) -> None:
    model = build()
    model.set_attn_implementation(attention)
    memory = TextBytes.fitted((8, bytes_at(model, 8)), (16, bytes_at(model, 16)))
    assert (memory.per_pair > 10) == (attention == "eager")
    for length in (12, 24, POSITIONS):
        assert memory.of(length) == pytest.approx(bytes_at(model, length), rel=0.1)


@pytest.mark.parametrize(("per_token", "per_pair"), [(20_000, 0), (0, 200), (10_000, 100)])
def test_the_fit_is_exact_where_it_is_exact(per_token: int, per_pair: int) -> None:
    memory = TextBytes.fitted(*((length, per_token * length + per_pair * length**2) for length in (50, 100)))
    assert [memory.of(length) for length in (1, 99, 1000)] == [
        per_token * length + per_pair * length**2 for length in (1, 99, 1000)
    ]


def test_what_does_not_grow_is_counted_as_if_it_did() -> None:
    memory = TextBytes.fitted((50, 1000), (100, 1000))
    assert [memory.of(length) for length in (50, 100)] == [1000, 2000]
    assert TextBytes.fitted((2, 100), (2, 100)).of(2) == 100


def test_logits_count_as_often_as_they_are_kept() -> None:
    narrow, wide = (bytes_at(gpt2(vocabulary=vocabulary), POSITIONS) for vocabulary in (1_000, 11_000))
    logits = 4 * POSITIONS * 10_000
    assert 1.9 * logits <= wide - narrow <= 6 * logits


def test_nothing_is_left_on_the_model() -> None:
    model = gpt2()
    bytes_at(model, 8)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


BATCHES = {"zoo-resnet": 128, "gpt2-1m": 32, "gpt2-25m": 4, "vit-5m": 16}


LARGE = ("gpt2-1m", "gpt2-25m", "vit-5m")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.faults) if name in LARGE else name for name in CASES]
)
def test_what_a_plan_projects_bounds_what_rows_take_within_a_factor_of_two(name: str) -> None:
    """And rows take at most 1.3 times the memory of a training step, each measured in a process of its own."""
    case, batch = CASES[name], BATCHES[name]
    model = case.build()
    extractor = RowExtractor(model, case.covered(model, "matrices").covered, Projection())
    one = case.measured(case.inputs(1))
    output = extractor(one).outputs.nbytes + 2 * case.inputs(1).nbytes
    projected = batch_bytes(
        batch, extractor.at_once(one), round(ROOM * pass_bytes(extractor, one)), output + 3 * 4 * extractor.layout.k
    )
    measured = dict(peaks(name, batch, ("step", "matrices")))
    assert measured["matrices"] <= projected <= 2 * measured["matrices"]
    assert measured["matrices"] <= 1.3 * measured["step"]


def test_a_batch_holds_the_pass_of_some_samples_and_the_outputs_of_all() -> None:
    assert batch_bytes(samples=10, samples_per_pass=4, sample_bytes=100, retained_bytes_per_sample=7) == 470
    assert batch_bytes(samples=3, samples_per_pass=4, sample_bytes=100, retained_bytes_per_sample=7) == 321


def test_moments_have_a_square_for_each_layer_or_for_each_of_its_sides() -> None:
    """Of layers of 8 and 6 numbers, with kept sides of 2 and 4, and of 3 and 2; 5 rows have at most 5 directions."""
    sizes = {
        kind: moment_sizes(model_config(curvature={"kind": kind}), SIDES, rows=5) for kind in ("block_moment", "kfac")
    }
    assert sizes == {"block_moment": (40, 30), "kfac": (4 + 16 + 8, 9 + 4 + 6)}
    assert moment_sizes(model_config(curvature={"kind": "block_moment"}), SIDES, rows=100) == (64, 36)
    assert moment_sizes(model_config(curvature={"kind": "identity"}), SIDES, rows=5) == ()


def test_shapes_follow_from_the_recipe_and_the_samples_that_are_used() -> None:
    recipe = row_recipe(audited=(source("a", 30, "anomalous"), source("b", 20)))
    shapes = shapes_of_rows(model_config(), recipe, SIDES, samples=20)
    assert (shapes.layout, shapes.stored_row_size, shapes.classes) == (SIDES.rows, 14, 10)
    assert (shapes.reference, shapes.labelled_samples) == (14, 30)  # 30 % of 20 calibrate
    assert shapes.moments == (64, 36)  # of 14 rows, more than either layer has numbers
    assert shapes.screened == 20
    kfac = shapes_of_rows(model_config(curvature={"kind": "kfac"}), recipe, SIDES, samples=20)
    assert kfac.stored_row_size == SIDES.stored.k == 35


def test_a_transductive_curvature_is_fitted_on_audited_samples_too() -> None:
    recipe = row_recipe(trusted=(source("t", 5),), audited=(source("a", 1),))
    few = shapes_of_rows(model_config(), recipe, SIDES, samples=5)
    all_of_them = shapes_of_rows(model_config(curvature={"transductive": True}), recipe, SIDES, samples=5)
    assert few.moments == (3 * 8, 3 * 6)  # 5 - round(0.3 * 5)
    assert all_of_them.moments == (6 * 8, 6 * 6)


def test_projected_peaks_by_hand() -> None:
    shapes = Shapes(
        layout=RowLayout(("a", "b"), (60, 40)),
        stored_row_size=200,
        reference=1000,
        classes=10,
        moments=(3600, 1600),
        screened=50,
        labelled_samples=7,
        reprojected=0,
        scored_at_once=2,
        model_bytes=10_000,
        sample_bytes=3_000,
        retained_bytes_per_sample=100,
        samples_per_pass=4,
        task_rows=64,
        batch=16,
        overhead_bytes=999,
    )
    row, stored, block = 400, 800, 512
    references = 5 * 1000 * row + 6 * 10 * row
    scored = block * (6 * row + 8 * 1000) * 2
    batch = 4 * 3_000 + 16 * (100 + 3 * stored)
    assert project_memory(shapes) == ProjectedMemory(
        gradients=PROCESS_BYTES + 2 * 10_000 + batch + 999 + 5 * 64 * stored,
        curvature=PROCESS_BYTES + 4 * 5200 + references + scored + block * 6 * stored,
        scoring=PROCESS_BYTES + 4 * 5200 + references + scored + block * 9 * row,
        reporting=PROCESS_BYTES + 250 * 7,
    )
    assert project_memory(replace(shapes, reprojected=300)).scoring - project_memory(shapes).scoring == (
        block * 4 * 300 * (12 + 3 * 2)
    )


def test_a_small_audit_needs_no_more_than_its_own_blocks() -> None:
    """One block of 60 rows, read in a task, is scored as one of 512 by one thread of sixteen."""
    recipe = row_recipe(audited=(source("a", 60),), trusted=(source("t", 2000),), rows_per_task=8192)
    shapes = replace(shapes_of_rows(model_config(), recipe, SIDES, samples=2000), scored_at_once=16)
    assert (shapes.audited_blocks, shapes.trusted_blocks) == (Blocks(60, 1), Blocks(512, 4))
    whole = replace(shapes, audited_blocks=Blocks(), trusted_blocks=Blocks())
    block, row, reference = 512, 4 * SIDES.rows.k, 1400
    saved = (16 - 1) * block * (6 * row + 8 * reference) + (block - 60) * 9 * row
    assert project_memory(whole).scoring - project_memory(shapes).scoring == saved


def test_small_tasks_are_read_in_small_blocks() -> None:
    recipe = row_recipe(audited=(source("a", 6000), source("b", 10)), rows_per_task=100)
    assert shapes_of_rows(model_config(), recipe, SIDES, samples=20).audited_blocks == Blocks(100, 61)
    labelled = shapes_of_rows(model_config(curvature={"kind": "ggn"}), recipe, SIDES, samples=20).trusted_blocks
    assert labelled == Blocks(80, 3)  # 20 samples with 10 labels each, 8 samples a task
