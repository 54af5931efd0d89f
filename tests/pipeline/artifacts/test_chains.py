"""Segments of chains: kept draws, the chain's state, and losses come back as they were written, bit for bit."""

from pathlib import Path

import torch

from infra.storage.storage import Storage
from madcore.sampling.langevin import Chain
from pipeline.artifacts.chains import Draw, encode_segment, read_draws, read_snapshots, read_state
from tests.pipeline.artifacts.stores import stored

GENERATOR = torch.Generator().manual_seed(0)


CHAIN = Chain(3, torch.randn(5, generator=GENERATOR), torch.rand(5, generator=GENERATOR), 40)


DRAWS = [Draw(39, 0.5, 0.25, 1.5), Draw(40, 0.125, 2.0, 3.0)]


def segment(folder: Path, kept: list[torch.Tensor]) -> Storage:
    return stored(folder, encode_segment(kept, CHAIN, DRAWS))


def test_a_segment_comes_back(tmp_path: Path) -> None:
    kept = [torch.randn(5, generator=GENERATOR) for _ in range(3)]
    storage = segment(tmp_path, kept)
    chain = read_state(storage, "task")
    assert (chain.number, chain.steps) == (3, 40)
    assert torch.equal(chain.weights, CHAIN.weights) and torch.equal(chain.second_moment, CHAIN.second_moment)
    assert read_draws(storage, "task") == DRAWS
    found = list(read_snapshots(storage, ["task", "task"]))
    assert torch.equal(torch.stack(found), torch.stack(kept + kept))


def test_a_segment_within_the_burn_in_keeps_no_draws(tmp_path: Path) -> None:
    storage = segment(tmp_path, [])
    assert not storage.exists("task/snapshots/zarr.json")
    assert read_draws(storage, "task") == DRAWS
