"""Linear layers and embeddings: projected gradients equal outer products written out, and autograd's for any table."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from madcore import select_layers
from tests.madcore.checks import ABOVE, BELOW, hooked_rows
from tests.madcore.kinds import Looks
from tests.madcore.models import batch_of, with_head
from tests.reference import autograd_rows
from tests.strategies import LAW, seeds


@LAW
@given(st.integers(1, 9), st.integers(1, 6), st.lists(st.integers(1, 4), max_size=3), st.booleans(), seeds)
def test_any_embedding(vocabulary: int, size: int, positions: list[int], padded: bool, seed: int) -> None:
    table = nn.Embedding(vocabulary, size, padding_idx=seed % vocabulary if padded else None)
    model, batch = (
        with_head(nn.Sequential(Looks(table), nn.Tanh()), tuple(positions), seed),
        batch_of(2, tuple(positions), seed),
    )
    layers = select_layers(model, parameters="all").covered
    for projection in (BELOW, ABOVE):
        torch.testing.assert_close(
            hooked_rows(model, batch, projection),
            autograd_rows(model, layers, batch, projection),
            rtol=1e-10,
            atol=1e-10,
        )
