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
convolutions = nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU()
model = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(32 * 16, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, weight_decay=1e-4)
for _ in range(40):
    for chosen in torch.randperm(len(inputs)).split(64):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs[chosen]), wanted[chosen]).backward()
        optimizer.step()
model.eval()

# 600 samples that are known to be clean; to be audited: 400 clean ones and 90 with the patch.
trusted = images[700:1300]
audited = torch.cat([images[1300:1700], triggered(images[1700:][labels[1700:] != 0])])
# audit
layers, projection = madcore.select_layers(model, ["*"]).covered, madcore.Projection(rank=16)
layout = madcore.row_layout(layers, projection)
reference, calibration = trusted[:400], trusted[400:]
rows = madcore.per_sample_rows(model, reference, layers=layers, projection=projection)
curvature = madcore.BlockMoment.zero(layout).update(rows).finalize()
whiten = madcore.Whitening.fit(layout, curvature, madcore.Damping("relative_mean", 1.0))
references = madcore.References.of(layout, "concatenated", whiten(rows), model(reference).argmax(dim=1), classes=10)


def score(inputs):
    """Anomaly scores of a batch, as a numpy array."""
    whitened = whiten(madcore.per_sample_rows(model, inputs, layers=layers, projection=projection))
    scored = madcore.score(references, "prediction_coupling", whitened, model(inputs).argmax(dim=1))
    return scored.score.double().numpy()


p_values = madcore.p_values(score(audited), score(calibration))
# end of audit
flagged = p_values <= 0.05
print(f"flagged: {flagged[400:].mean():.0%} of the images with the patch, {flagged[:400].mean():.0%} of the clean ones")
