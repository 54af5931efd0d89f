"""Screening: modes of made classes, and triggered samples among the demo's trusted set."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from safetensors.torch import load_file
from torch import Tensor

from madcore import RowLayout, per_sample_rows, row_layout, select_layers
from madcore.projections import Projection
from madcore.scoring.screening import Screened, screen
from pipeline.demo.network import digit_cnn
from tests.docs.test_code_on_pages import tensors
from tests.strategies import LAW, seeds

LAYOUT = RowLayout(("a", "b"), (12, 20))


CLASSES, SAMPLES = 10, 50


def clean(seed: int, classes: int = CLASSES, samples: int = SAMPLES) -> tuple[Tensor, Tensor]:
    """Rows around a centre for each class, and their classes, in random order."""
    generator = torch.Generator().manual_seed(seed)
    predictions = torch.arange(classes).repeat_interleave(samples)[
        torch.randperm(classes * samples, generator=generator)
    ]
    centres = torch.randn(classes, LAYOUT.k, generator=generator)
    return centres[predictions] + torch.randn(len(predictions), LAYOUT.k, generator=generator), predictions


def poisoned(seed: int, share: float, predicted: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """The same with samples of one predicted class around another centre: rows, classes, and which those are."""
    rows, predictions = clean(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    count = round(share * SAMPLES / (1 - share))
    elsewhere = 1.5 * torch.randn(1, LAYOUT.k, generator=generator) + torch.randn(count, LAYOUT.k, generator=generator)
    added = torch.cat([predictions, torch.full((count,), predicted)])
    order = torch.randperm(len(added), generator=generator)
    return torch.cat([rows, elsewhere])[order], added[order], (torch.arange(len(added)) >= len(rows))[order]


@LAW
@given(seeds)
def test_scale_and_order_of_rows_do_not_matter(seed: int) -> None:
    rows, predictions, _ = poisoned(seed, 0.2)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    factors = torch.rand(len(rows), 1) + 0.5
    before, after = screen(rows, predictions, LAYOUT), screen((factors * rows)[order], predictions[order], LAYOUT)
    assert before.suspects.tolist() == sorted(order[after.suspects].tolist())
    assert [modes.separation for modes in before.modes] == pytest.approx(
        [modes.separation for modes in after.modes], rel=1e-3
    )


def test_clean_classes_are_left_alone_and_a_second_mode_is_found() -> None:
    """Over twenty sets each: how often is a matter of chance, so the bounds are wide."""
    alarms = [len(screen(*clean(seed), LAYOUT).suspects) > 0 for seed in range(20)]
    assert sum(alarms) <= 2
    recalls, false = [], []
    for seed in range(20):
        rows, predictions, truth = poisoned(seed, 0.25)
        suspects = torch.zeros(len(rows), dtype=torch.bool)
        suspects[screen(rows, predictions, LAYOUT).suspects] = True
        recalls.append(float(suspects[truth].float().mean()))
        false.append(float(suspects[~truth].float().mean()))
    assert np.median(recalls) > 0.95
    assert np.mean(false) < 0.01


def test_two_halves_are_undecidable_and_no_sample_is_dropped() -> None:
    rows, predictions, _ = poisoned(0, 0.5)
    found = screen(rows, predictions, LAYOUT)
    assert found.undecidable == (3,)
    assert len(found.suspects) == 0


def test_small_classes_and_few_classes_are_reported_and_not_judged() -> None:
    rows, predictions = clean(0)
    few = (predictions != 7) | (torch.cumsum(predictions == 7, dim=0) <= 9)
    assert screen(rows[few], predictions[few], LAYOUT).too_small == (7,)
    two = predictions < 2
    assert [modes.z for modes in screen(rows[two], predictions[two], LAYOUT).modes] == [0.0, 0.0]
    assert screen(rows[:0], predictions[:0], LAYOUT) == Screened((), ())


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_samples_that_are_all_alike_have_no_modes(value: float) -> None:
    predictions = torch.arange(4).repeat_interleave(12)
    found = screen(torch.full((48, LAYOUT.k), value), predictions, LAYOUT)
    assert [modes.separation for modes in found.modes] == [0.0] * 4
    assert len(found.suspects) == 0


@pytest.mark.parametrize("share", [0.02, 0.04])
def test_triggered_digits_among_the_trusted_are_found(digits: Path, share: float) -> None:
    """Samples of the audited file that the demo's backdoor sends to its target, as this share of the trusted set."""
    model = digit_cnn().eval()
    model.load_state_dict(load_file(digits / "digits.safetensors"))
    anomalous = torch.tensor(pq.read_table(digits / "audited.parquet").column("anomalous").to_pylist())
    triggered = tensors(digits / "audited.parquet")[anomalous]
    triggered = triggered[model(triggered).argmax(dim=1) == 0]
    trusted = tensors(digits / "trusted.parquet")
    count = round(share * len(trusted) / (1 - share))
    inputs, layers, projection = torch.cat([trusted, triggered[:count]]), select_layers(model).covered, Projection()
    predictions = model(inputs).argmax(dim=1)
    rows = per_sample_rows(model, inputs, layers=layers, projection=projection)
    suspects = screen(rows, predictions, row_layout(layers, projection)).suspects
    assert len(triggered) >= count
    assert (suspects >= len(trusted)).sum() >= 0.95 * count
    assert (suspects < len(trusted)).sum() <= 0.01 * len(trusted)
    assert len(screen(rows[: len(trusted)], predictions[: len(trusted)], row_layout(layers, projection)).suspects) == 0
