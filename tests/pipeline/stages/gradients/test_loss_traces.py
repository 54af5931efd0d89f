"""Loss traces against one forward pass of each sample under each snapshot."""

import torch
from torch import nn

from madcore import Measured, margin
from madcore.sampling.langevin import flat_weights, place_weights
from pipeline.data.batches import Group, predict_classes
from pipeline.stages.gradients.loss_traces import compute_traces

SAMPLES, FEATURES, CLASSES, DRAWS = 5, 4, 3, 6


def test_rows_are_losses_of_the_models_own_predictions_under_each_snapshot() -> None:
    torch.manual_seed(0)
    model = nn.Linear(FEATURES, CLASSES).eval()
    anchor = flat_weights(model)
    inputs = torch.randn(SAMPLES + 1, FEATURES)
    snapshots = [anchor + 0.5 * torch.randn_like(anchor) for _ in range(DRAWS)]
    group = Group(torch.arange(SAMPLES), Measured(inputs, margin), predict_classes)  # the last input is padding
    (traces,) = compute_traces(model, anchor, [group], snapshots, DRAWS)

    assert torch.equal(flat_weights(model), anchor), "the trained weights are put back"
    own = model(inputs[:SAMPLES]).argmax(dim=1)
    assert traces.outcome.predictions.tolist() == own.tolist()
    for draw, snapshot in enumerate(snapshots):
        place_weights(model, snapshot)
        for sample in range(SAMPLES):
            loss = nn.functional.cross_entropy(model(inputs[sample : sample + 1]), own[sample : sample + 1])
            torch.testing.assert_close(traces.rows[sample, draw], loss.detach(), atol=1e-5, rtol=1e-5)
    assert traces.rows.shape == (SAMPLES, DRAWS)
