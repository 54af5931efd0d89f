"""Slow exact twins of the numerics: plain loops over samples, layers and rows, with autograd and numpy.

No twin calls the code that it checks, except that projection matrices come from `Projection`, whose own tests pin them.
"""

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from madcore import Layer, Projection

Floats = NDArray[np.float64]


Measure = Callable[[Tensor], Tensor]


def margin_of_one(logits_1c: Tensor) -> Tensor:
    """log sum over c != y^ of exp f_c, minus f_y^, of one sample's logits (1, C): a scalar."""
    logits = logits_1c[0]
    own = int(logits.argmax())
    others = [logits[c] for c in range(len(logits)) if c != own]
    return torch.logsumexp(torch.stack(others), dim=0) - logits[own]


def token_margin_of_one(logits_sv: Tensor, tokens: Sequence[int], completion_start: int) -> Tensor:
    """Sum over completion tokens of log sum over c != y of exp f_c, minus f_y, of one unpadded sequence: a scalar."""
    total = logits_sv.new_zeros(())
    for t in range(completion_start, len(tokens)):
        logits = logits_sv[t - 1]
        others = [logits[c] for c in range(len(logits)) if c != tokens[t]]
        total = total + torch.logsumexp(torch.stack(others), dim=0) - logits[tokens[t]]
    return total


def completion_nll_of_one(logits_sv: Tensor, tokens: Sequence[int], completion_start: int) -> Tensor:
    """Minus the sum over completion tokens of their log-probability, of one unpadded sequence: a scalar."""
    logs = logits_sv.log_softmax(dim=-1)
    return -torch.stack([logs[t - 1, tokens[t]] for t in range(completion_start, len(tokens))]).sum()


def side_matrix(projection: Projection, parameter: str, side: int, size: int) -> Tensor:
    """The float64 matrix of one side, the identity where the side is kept whole."""
    matrix = projection.matrix(parameter, side, size)
    return torch.eye(size, dtype=torch.float64) if matrix is None else matrix


def projected(projection: Projection, parameter: str, grad: Tensor) -> Tensor:
    """`vec(P_0 dW P_1^T)` of a gradient (dim0, rest), row-major; if hashed, the signed sum of each bucket's numbers."""
    p0, p1 = (side_matrix(projection, parameter, side, size) for side, size in enumerate(grad.shape))
    numbers = (p0 @ grad @ p1.T).flatten()
    sketch = projection.sketch_of(parameter, (grad.shape[0], grad.shape[1]))
    if sketch is None:
        return numbers
    buckets = [numbers.new_zeros(()) for _ in range(sketch.size)]
    for turn, (number, sign) in enumerate(zip(sketch.order.tolist(), sketch.signs.tolist(), strict=True)):
        buckets[turn % sketch.size] = buckets[turn % sketch.size] + sign * numbers[number]
    return torch.stack(buckets)


def autograd_gradient(model: nn.Module, parameter: str, sample: Tensor, measurement: Measure = margin_of_one) -> Tensor:
    """The gradient of one sample's measurement (1, ...) with respect to one parameter, float64, shape (dim0, rest)."""
    own = copy.deepcopy(model).requires_grad_(True)
    weight = own.get_parameter(parameter)
    measurement(own(sample)).backward()
    grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
    return grad.double().reshape(grad.shape[0] if grad.ndim else 1, -1)


def autograd_rows(model: nn.Module, layers: Sequence[Layer], batch: Tensor, projection: Projection) -> Tensor:
    """Rows (n, k) of the margin, float64: a loop over samples and layers, projected and, if so set, hashed."""
    rows = []
    for index in range(batch.shape[0]):
        blocks = []
        for layer in layers:
            grad = autograd_gradient(model, layer.name, batch[index : index + 1])
            blocks.append(projected(projection, layer.name, grad))
        rows.append(torch.cat(blocks))
    return torch.stack(rows)


def autograd_token_rows(
    model: nn.Module, layers: Sequence[Layer], texts: Sequence[tuple[Tensor, int]], projection: Projection
) -> Tensor:
    """Rows (n, k) of the token margin, float64: a loop over unpadded texts (ids, completion start), without a mask."""
    rows = []
    for ids, start in texts:
        own = copy.deepcopy(model).requires_grad_(True)
        measured = token_margin_of_one(own(input_ids=ids.unsqueeze(0)).logits[0], ids.tolist(), start)
        blocks = []
        for layer in layers:
            (grad,) = torch.autograd.grad(measured, [own.get_parameter(layer.name)], retain_graph=True)
            grad = grad.double().reshape(grad.shape[0], -1)
            blocks.append(projected(projection, layer.name, grad))
        rows.append(torch.cat(blocks))
    return torch.stack(rows)


def mean_coupling_from_gradients(
    model: nn.Module, parameters: Sequence[str], trusted: Tensor, audited: Tensor
) -> Floats:
    """Minus the mean cosine of each audited sample's whole gradient to those of all trusted samples, shape (n,)."""

    def whole(sample: Tensor) -> Floats:
        return np.concatenate([autograd_gradient(model, name, sample).flatten().numpy() for name in parameters])

    reference = [whole(sample) for sample in trusted.split(1)]
    scores = []
    for sample in audited.split(1):
        gradient = whole(sample)
        cosines = [gradient @ other / (np.linalg.norm(gradient) * np.linalg.norm(other)) for other in reference]
        scores.append(-np.mean(cosines))
    return np.array(scores)


def places(sizes: Sequence[int]) -> list[slice]:
    """Where each layer lies in a row."""
    found, start = [], 0
    for size in sizes:
        found.append(slice(start, start + size))
        start += size
    return found


def block_moment(rows_mk: Floats, sizes: Sequence[int]) -> list[Floats]:
    """Per layer, the mean over rows of the outer product of a row's block with itself."""
    return [sum(np.outer(row[place], row[place]) for row in rows_mk) / len(rows_mk) for place in places(sizes)]


def _normalised(vector: Floats) -> Floats:
    norm = np.linalg.norm(vector)
    return vector / norm if norm > 0 else vector


def unit_row(whitened_k: Floats, sizes: Sequence[int], layers: str) -> Floats:
    """A whitened row with one unit norm (`concatenated`), or one per layer (`apart`)."""
    if layers == "concatenated":
        return _normalised(whitened_k)
    return np.concatenate([_normalised(whitened_k[place]) for place in places(sizes)])


def class_means(units: Sequence[Floats], predictions: Sequence[int], classes: int) -> list[Floats]:
    """M_c per class: rare classes (fewer than 10 rows) drawn to the mean over present classes, absent ones at it."""
    members = [
        [unit for unit, predicted in zip(units, predictions, strict=True) if predicted == c] for c in range(classes)
    ]
    plain = {c: sum(rows) / len(rows) for c, rows in enumerate(members) if rows}
    overall = sum(plain.values()) / len(plain)
    means = []
    for c, rows in enumerate(members):
        share = min(1.0, len(rows) / 10)
        means.append(share * plain[c] + (1 - share) * overall if rows else overall)
    return means


def cohesion(units: Sequence[Floats], predictions: Sequence[int], classes: int) -> list[float]:
    """U_c per class: mean inner product of pairs of rows; rare classes drawn to the mean over classes with a pair."""
    members = [
        [unit for unit, predicted in zip(units, predictions, strict=True) if predicted == c] for c in range(classes)
    ]
    plain = {
        c: np.mean([a @ b for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j])
        for c, rows in enumerate(members)
        if len(rows) > 1
    }
    overall, shares = np.mean(list(plain.values())), [min(1.0, len(rows) / 10) for rows in members]
    return [
        float(share * plain[c] + (1 - share) * overall) if c in plain else float(overall)
        for c, share in enumerate(shares)
    ]


class CouplingTwin:
    """Scores of one sample at a time, written out."""

    def __init__(
        self, sizes: Sequence[int], layers: str, whitened_mk: Floats, predictions: Sequence[int], classes: int
    ):
        """From the reference part's whitened rows (m, k) and predictions."""
        self.sizes, self.layers, self.whitened = sizes, layers, whitened_mk
        self.units = [unit_row(row, sizes, layers) for row in whitened_mk]
        self.means = class_means(self.units, predictions, classes)
        self.present = sorted(set(predictions))

    def cosine(self, unit: Floats, other: Floats) -> float:
        """u . v; with layers apart, the mean of the layers' products over the layers where u is not zero."""
        if self.layers == "concatenated":
            return float(unit @ other)
        products = [unit[place] @ other[place] for place in places(self.sizes) if np.linalg.norm(unit[place]) > 0]
        return float(np.mean(products)) if products else 0.0

    def explanation(self, kind: str, unit: Floats, prediction: int) -> Floats:
        """What the sample is compared with."""
        if kind == "prediction_coupling":
            return self.means[prediction]
        if kind == "class_coupling":
            return max((self.means[c] for c in self.present), key=lambda mean: self.cosine(unit, mean))
        if kind == "top_coupling":
            q = max(1, min(20, len(self.units) // 20))
            nearest = sorted(self.units, key=lambda other: self.cosine(unit, other))[-q:]
            return sum(nearest) / q
        return sum(self.units) / len(self.units)

    def score(self, kind: str, whitened_k: Floats, prediction: int) -> float:
        """The anomaly score."""
        if kind == "leverage":
            median = np.median([np.log(row @ row) for row in self.whitened])
            return float(abs(np.log(whitened_k @ whitened_k) - median))
        unit = unit_row(whitened_k, self.sizes, self.layers)
        if kind == "mean_coupling":
            return -float(np.mean([self.cosine(unit, other) for other in self.units]))
        return -self.cosine(unit, self.explanation(kind, unit, prediction))

    def layer_scores(self, kind: str, whitened_k: Floats, prediction: int) -> list[float]:
        """Minus the cosine with the explanation within each layer, 0 where either is zero there."""
        unit = unit_row(whitened_k, self.sizes, self.layers)
        other = self.explanation(kind, unit, prediction)
        return [-float(_normalised(unit[place]) @ _normalised(other[place])) for place in places(self.sizes)]

    def top_influence(self, whitened_k: Floats) -> list[tuple[int, float]]:
        """The ten reference samples of largest influence u_i . u_j, descending."""
        influence = [(index, float(whitened_k @ row)) for index, row in enumerate(self.whitened)]
        return sorted(influence, key=lambda pair: -pair[1])[:10]


def p_value(score: float, calibration: Sequence[float]) -> float:
    """(1 + #{calibration scores >= score}) / (1 + M)."""
    return (1 + sum(1 for other in calibration if other >= score)) / (1 + len(calibration))
