"""Loss traces against one forward pass of each sample under each snapshot."""

import torch
from torch import nn

from madcore import Measured, RowLayout, margin
from madcore.sampling.langevin import flat_weights, place_weights
from pipeline.inputs.batches import Group
from pipeline.stages.gradients.loss_traces import compute_traces
from pipeline.tasks.classification import predict_classes

SAMPLES, FEATURES, CLASSES, DRAWS = 5, 4, 3, 6


def test_rows_are_losses_of_the_models_own_predictions_under_each_snapshot() -> None:
    torch.manual_seed(0)
    model = nn.Linear(FEATURES, CLASSES).eval()
    anchor = flat_weights(model)
    inputs = torch.randn(SAMPLES + 1, FEATURES)
    snapshots = [anchor + 0.5 * torch.randn_like(anchor) for _ in range(DRAWS)]
    group = Group(torch.arange(SAMPLES), Measured(inputs, margin), predict_classes)  # the last input is padding
    (traces,) = compute_traces(model, anchor, [group], snapshots, RowLayout(("chain 0",), (DRAWS,)))

    assert torch.equal(flat_weights(model), anchor), "the trained weights are put back"
    own = model(inputs[:SAMPLES]).argmax(dim=1)
    assert traces.outcome.predictions.tolist() == own.tolist()
    for draw, snapshot in enumerate(snapshots):
        place_weights(model, snapshot)
        for sample in range(SAMPLES):
            loss = nn.functional.cross_entropy(model(inputs[sample : sample + 1]), own[sample : sample + 1])
            torch.testing.assert_close(traces.rows[sample, draw], loss.detach(), atol=1e-5, rtol=1e-5)
    assert traces.rows.shape == (SAMPLES, DRAWS)
    assert traces.outcome.flat is not None and not traces.outcome.flat.any()


def test_a_loss_that_no_snapshot_changes_is_flat() -> None:
    """Of a margin of 60 nats the loss is 0 in float64 too; that of the others differs from snapshot to snapshot."""
    torch.manual_seed(0)
    model = nn.Linear(1, 2, bias=False).eval()
    anchor = torch.tensor([0.5, -0.5])
    snapshots = [anchor * (1 + 0.01 * draw) for draw in range(DRAWS)]
    group = Group(torch.arange(3), Measured(torch.tensor([[60.0], [30.0], [0.1]]), margin), predict_classes)
    (traces,) = compute_traces(model, anchor, [group], snapshots, RowLayout(("a", "b"), (DRAWS // 2, DRAWS // 2)))
    assert traces.outcome.flat is not None and traces.outcome.flat.tolist() == [True, False, False]
    assert traces.rows[0].tolist() == [0.0] * DRAWS and (traces.rows[1] > 0).all()
