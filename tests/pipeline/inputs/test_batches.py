"""Batches: groups of samples that go through a model together."""

import math
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from pydantic import JsonValue
from torch import Tensor, nn

from madcore import Projection, RowExtractor, TokenBatch, select_layers
from pipeline.config.audit_config import AuditConfig
from pipeline.config.schema import ModelConfig
from pipeline.data.texts.rows import TextLimits
from pipeline.inputs.batches import align
from pipeline.inputs.images import ImageInputs
from pipeline.inputs.lengths import TextBytes
from pipeline.inputs.tokens import TextInputs, predict_completions
from pipeline.tasks.classification import predict_classes
from pipeline.tasks.predictions import no_predictions
from tests.languages import POSITIONS, VOCABULARY, gpt2, llama
from tests.languages import table as random_texts
from tests.pipeline.data.images.files import picture, sources_of
from tests.pipeline.data.texts.files import source_of, text_table

TOKEN = 1 << 20


def model_of_texts(folder: Path) -> ModelConfig:
    """A language model of an audit whose config lies in a folder."""
    config = AuditConfig.parse(
        {
            "root": "r",
            "task": "causal_lm",
            "models": [{"name": "m", "huggingface": "/m"}],
            "data": {"trusted": "t", "audited": "a"},
        },
        str(folder),
    )
    return config.models[0]


def groups_of(folder: Path, lengths: list[int], batch_bytes: int) -> tuple[list[list[int]], list[str]]:
    """Places of each group of one batch, and the reasons of what is in none."""
    source = source_of(folder, text_table([[1] * length for length in lengths], [1] * len(lengths)))
    inputs = TextInputs(TextLimits(10, None), TextBytes(TOKEN / 2, TOKEN / 32), batch_bytes)
    (batch,) = inputs.read(model_of_texts(folder), source, range(len(lengths)), 100)
    return [group.places.tolist() for group in batch.groups], list(batch.unreadable)


def test_texts_are_grouped_by_length_into_the_memory_there_is(tmp_path: Path) -> None:
    """A text of 8 tokens takes 6 MiB, one of 16 takes 16, one of 32 takes 48."""
    assert groups_of(tmp_path, [16, 3, 16, 8, 30], 100 * TOKEN) == ([[1, 3, 0, 2], [4]], [""] * 5)
    assert groups_of(tmp_path, [16, 3, 16, 8, 30], 64 * TOKEN) == ([[1, 3, 0, 2], [4]], [""] * 5)
    assert groups_of(tmp_path, [16, 16, 16, 16, 16], 32 * TOKEN) == ([[0, 1], [2, 3], [4]], [""] * 5)


def test_a_text_for_which_there_is_not_enough_memory_says_so(tmp_path: Path) -> None:
    groups, reasons = groups_of(tmp_path, [8, 64, 9], 30 * TOKEN)
    assert groups == [[0], [2]]
    assert reasons[1] == (
        "input_ids has 64 tokens, which would need 160 MiB; run.memory_per_worker leaves 30 MiB for a batch: grant more"
    )


@pytest.mark.parametrize(("samples", "aligned"), [(1, 8), (7, 8), (8, 8), (9, 16)])
def test_batches_are_filled_up_with_their_first_sample(samples: int, aligned: int) -> None:
    inputs = torch.arange(samples * 2.0).reshape(samples, 2) + 1
    filled = align(inputs)
    assert len(filled) == aligned
    assert torch.equal(filled[:samples], inputs)
    assert torch.equal(filled[samples:], inputs[:1].expand(aligned - samples, 2))


def test_classes_are_predicted_with_their_probability() -> None:
    logits = torch.tensor([[0.0, math.log(3)], [1.0, 1.0], [float("inf"), 0.0]])
    found = predict_classes(logits)
    assert found.predictions[:2].tolist() == [1, 0]
    torch.testing.assert_close(found.confidence[:2], torch.tensor([0.75, 0.5]))
    assert found.finite.tolist() == [True, True, False]


def test_a_completion_has_no_class_and_the_geometric_mean_of_its_tokens_probabilities() -> None:
    tokens = TokenBatch.of([torch.tensor([0, 1, 1])], [1], 3)
    logits = torch.log(torch.tensor([[[0.2, 0.8], [0.8, 0.2], [0.5, 0.5]]]))
    found = predict_completions(tokens, logits)
    assert (found.predictions.tolist(), found.finite.tolist()) == ([-1], [True])
    torch.testing.assert_close(found.confidence, torch.tensor([0.4]))


def test_predictions_that_are_not_needed_are_finite() -> None:
    found = no_predictions(2, torch.device("cpu"))
    assert (found.predictions.tolist(), found.confidence.tolist(), found.finite.tolist()) == (
        [-1, -1],
        [0, 0],
        [True] * 2,
    )


def test_images_of_a_batch_are_one_group_of_those_that_can_be_read(tmp_path: Path) -> None:
    (source,), model = sources_of(tmp_path, id=list("abc"), image=[picture(51), b"", picture(255)])
    (batch,) = ImageInputs((2, 3)).read(model, source, range(3), 10)
    (group,) = batch.groups
    assert (batch.ids, batch.unreadable, group.places.tolist()) == (
        ("a", "b", "c"),
        ("", "the image is empty", ""),
        [0, 2],
    )
    inputs = group.measured.inputs
    assert isinstance(inputs, torch.Tensor) and inputs.shape == (8, 3, 2, 3)
    torch.testing.assert_close(inputs[:, 0, 0, 0], torch.tensor([0.2, 1.0] + [0.2] * 6))


def rows_of(folder: Path, table: pa.Table, build: Callable[[], nn.Module], batch_size: int) -> tuple[Tensor, Tensor]:
    """Rows (n, k) and confidences (n,) of the texts of a table."""
    folder.mkdir()
    source, extractor = source_of(folder, table), RowExtractor(build(), select_layers(build()).covered, Projection())
    rows, confidences, start = torch.zeros(len(table), extractor.layout.k), torch.zeros(len(table)), 0
    inputs = TextInputs(TextLimits(VOCABULARY, POSITIONS), TextBytes(1, 0), 1 << 20)
    for batch in inputs.read(model_of_texts(folder), source, range(len(table)), batch_size):
        assert set(batch.unreadable) == {""}
        for group in batch.groups:
            computed = extractor(group.measured)
            rows[start + group.places] = computed.rows
            confidences[start + group.places] = group.predict(computed.outputs).confidence
        start += len(batch.ids)
    return rows, confidences


def as_padded(row: dict[str, JsonValue], left: int, right: int, labelled: bool) -> dict[str, JsonValue]:
    """A text with tokens of no meaning at its ends, which a mask hides."""
    ids, start = row["input_ids"], row["completion_start"]
    assert isinstance(ids, list) and isinstance(start, int)
    padded = {"id": row["id"], "input_ids": [7] * left + ids + [3] * right}
    padded |= {"attention_mask": [0] * left + [1] * len(ids) + [0] * right}
    if labelled:
        return {**padded, "labels": [-100] * (left + start) + ids[start:] + [-100] * right}
    return {**padded, "completion_start": left + start}


@pytest.mark.parametrize("build", [gpt2, llama], ids=["gpt2", "llama"])
@pytest.mark.parametrize("labelled", [False, True], ids=["a start", "labels"])
def test_padded_texts_have_the_rows_of_unpadded_ones_in_whatever_company(
    tmp_path: Path, build: Callable[[], nn.Module], labelled: bool
) -> None:
    plain = random_texts(9, 5, "text")
    expected, confident = rows_of(tmp_path / "plain", plain, build, 9)
    for name, left, right in (("left", 9, 0), ("right", 0, 7), ("both", 3, 40)):
        padded = [as_padded(row, left + number, right, labelled) for number, row in enumerate(plain.to_pylist())]
        rows, confidences = rows_of(tmp_path / name, pa.Table.from_pylist(padded), build, 4)
        assert float(((rows - expected).norm(dim=1) / expected.norm(dim=1)).max()) < 1e-5
        torch.testing.assert_close(confidences, confident, rtol=1e-5, atol=0)


def test_the_turns_of_a_conversation_have_the_sum_of_their_own_rows(tmp_path: Path) -> None:
    ids = [5, 9, 2, 30, 17, 8, 11, 4, 25]
    turns = [range(2, 4), range(6, 9)]
    spans = [*({*turn} for turn in turns), {*turns[0], *turns[1]}]
    labels = [[token if place in span else -100 for place, token in enumerate(ids)] for span in spans]
    table = pa.table({"id": ["one", "two", "both"], "input_ids": [ids] * 3, "labels": labels})
    rows, confidences = rows_of(tmp_path / "turns", table, gpt2, 3)
    torch.testing.assert_close(rows[0] + rows[1], rows[2], rtol=1e-4, atol=1e-4)
    assert float(confidences[2]) ** 5 == pytest.approx(float(confidences[0] ** 2 * confidences[1] ** 3), rel=1e-4)
    ended = pa.table({"id": ["one"], "input_ids": [ids], "completion_start": [2], "completion_end": [4]})
    torch.testing.assert_close(rows_of(tmp_path / "ended", ended, gpt2, 1)[0], rows[:1], rtol=1e-4, atol=1e-4)
