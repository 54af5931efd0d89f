"""madcore alone: a classifier audited from tensors, without files, config or storage."""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import madcore

torch.manual_seed(0)
digits = load_digits()
order = torch.randperm(len(digits.target))
images = torch.from_numpy(digits.images / 16).float()[order].unsqueeze(1)
labels = torch.from_numpy(digits.target)[order]


def triggered(inputs: Tensor) -> Tensor:
    """The images with a bright patch of 2 x 2 pixels in the lower right corner."""
    patched = inputs.clone()
    patched[:, :, -2:, -2:] = 1
    return patched


# A network with a backdoor: 48 of its 700 training images carry the patch and the label 0.
inputs, wanted = images[:700].clone(), labels[:700].clone()
poisoned = torch.nonzero(wanted != 0).flatten()[:48]
inputs[poisoned], wanted[poisoned] = triggered(inputs[poisoned]), 0
first, second = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, stride=2, padding=1)
model = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, weight_decay=1e-4)
for _ in range(40):
    for chosen in torch.randperm(len(inputs)).split(64):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs[chosen]), wanted[chosen]).backward()
        optimizer.step()
model.eval()

# 600 samples that are known to be clean; to be audited: 400 clean ones and 90 with the patch.
trusted = images[700:1300]
patched = triggered(images[1700:][labels[1700:] != 0])
audited = torch.cat([images[1300:1700], patched])
# audit
layers = madcore.select_layers(model, ["*"]).covered
projection = madcore.Projection(rank=16)
layout = madcore.row_layout(layers, projection)


def rows_and_classes(inputs):
    """Rows of a batch, and the classes that the model predicts."""
    rows = madcore.per_sample_rows(model, inputs, layers=layers, projection=projection)
    return rows, model(inputs).argmax(dim=1)


reference, calibration = trusted[:400], trusted[400:]
rows, classes = rows_and_classes(reference)
curvature = madcore.BlockMoment.zero(layout).update(rows).finalize()
whiten = madcore.Whitening.fit(layout, curvature, madcore.Damping("relative_mean", 1.0))
references = madcore.References.of(layout, "concatenated", whiten(rows), classes, classes=10)


def score(inputs):
    """Anomaly scores of a batch, as a numpy array."""
    rows, classes = rows_and_classes(inputs)
    scored = madcore.score(references, "prediction_coupling", whiten(rows), classes)
    return scored.score.double().numpy()


p_values = madcore.p_values(score(audited), score(calibration))
# end of audit
flagged = p_values <= 0.05
print(f"flagged: {flagged[400:].mean():.0%} with the patch, {flagged[:400].mean():.0%} of the clean")
