"""On a GPU, if there is one: rows equal the CPU's, batches arrive by pinned copies, and images do not wait for it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from madcore import Measured, Projection, RowExtractor, check_layers, margin, select_layers, token_margin
from madcore.sampling.langevin import Chain, Langevin, SamplingSet, draw, flat_weights
from tests.languages import MODELS, texts
from tests.madcore.checks import tokens_of
from tests.madcore.models import batch_of, with_head
from tests.madcore.zoo import BY_FALLBACK, ZOO

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"),
    pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad"),
    pytest.mark.filterwarnings("ignore:There is a performance drop"),
]


PROJECTION = Projection(rank=4, seed=1)


CASES = {**ZOO, **{name: case for name, (case, _) in BY_FALLBACK.items()}}


def close(found: Tensor, expected: Tensor) -> bool:
    """To a relative 1e-4 of each row's norm."""
    return float(((found.cpu() - expected).norm(dim=1) / expected.norm(dim=1)).max()) < 1e-4


@pytest.mark.parametrize("name", CASES)
def test_rows_equal_the_cpus(name: str) -> None:
    case = CASES[name]
    model, batch = with_head(case.body(), case.sample_shape).float(), batch_of(12, case.sample_shape).float()
    samples = batch_of(3, case.sample_shape, seed=5).float().split(1)
    selected = select_layers(model, parameters="all")
    layers = check_layers(
        model, selected, samples, lambda chosen: Measured(torch.cat(list(chosen)), margin), PROJECTION
    ).covered
    expected = RowExtractor(model, layers, PROJECTION)(Measured(batch, margin)).rows
    model.cuda()
    assert close(
        RowExtractor(model, layers, PROJECTION)(Measured(batch, margin).pinned().to(torch.device("cuda"))).rows,
        expected,
    )


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_rows_of_texts_equal_the_cpus(build: Callable[[], nn.Module]) -> None:
    model, tokens = build(), tokens_of(texts((7, 2, 12, 12, 9)))
    layers, batch = select_layers(model, parameters="all").covered, Measured(tokens.inputs, token_margin(tokens))
    expected = RowExtractor(model, layers, PROJECTION)(batch).rows
    model.cuda()
    assert close(RowExtractor(model, layers, PROJECTION)(batch.pinned().to(torch.device("cuda"))).rows, expected)


def test_a_batch_of_images_does_not_wait_for_the_device() -> None:
    case = ZOO["vision transformer"]
    model, batch = (
        with_head(case.body(), case.sample_shape).float().cuda(),
        Measured(batch_of(12, case.sample_shape).float(), margin).pinned(),
    )
    extractor = RowExtractor(model, select_layers(model).covered, PROJECTION)
    extractor(batch.to(torch.device("cuda")))
    torch.cuda.set_sync_debug_mode("error")
    try:
        extractor(batch.to(torch.device("cuda")))
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_a_lower_precision_gives_nearly_the_same_rows(precision: torch.dtype) -> None:
    case = ZOO["vision transformer"]
    model, batch = (
        with_head(case.body(), case.sample_shape).float().cuda(),
        Measured(batch_of(12, case.sample_shape).float().cuda(), margin),
    )
    extractor = RowExtractor(model, select_layers(model).covered, PROJECTION)
    low, full = extractor(batch, precision).rows, extractor(batch).rows
    assert not torch.equal(low, full)
    assert torch.cosine_similarity(low, full, dim=1).min() > 0.98


def test_side_numbers_equal_the_cpus() -> None:
    case = ZOO["vision transformer"]
    model, batch = (
        with_head(case.body(), case.sample_shape).float(),
        Measured(batch_of(12, case.sample_shape).float(), margin),
    )
    layers = select_layers(model, parameters="all").covered
    expected = RowExtractor(model, layers, PROJECTION).side_numbers(batch)
    model.cuda()
    assert close(RowExtractor(model, layers, PROJECTION).side_numbers(batch.to(torch.device("cuda"))), expected)


def test_a_chain_comes_again_bit_for_bit() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3)).cuda().eval()
    inputs, classes, anchor = torch.randn(40, 8).cuda(), torch.randint(0, 3, (40,)).cuda(), flat_weights(model)
    clean = SamplingSet(
        lambda indices: nn.functional.cross_entropy(model(inputs[indices]), classes[indices], reduction="none"), 40
    )
    ends = []
    for _ in range(2):
        chain = Chain.start(0, anchor)
        for _ in range(20):
            chain, _ = draw(model, Langevin(step=1e-5, batch=16), chain, anchor, clean)
        ends.append(chain.weights)
    assert torch.equal(*ends) and ends[0].is_cuda and not torch.equal(ends[0], anchor)
