"""How well the scores separate anomalous samples from others, where the truth is known. Never part of a score.

DER = (max(0, ASR - ASR') - max(0, ACC - ACC') + 1) / 2 where flagged samples are rejected: ASR' = ASR (1 - TPR) over
successful attacks, ACC' = ACC (1 - FPR) over correctly classified clean samples (BackdoorBench, Wu et al. 2022). With
the paper's filter (benign = correctly classified, anomalous = attack succeeded) ASR = ACC = 1, so that it is
(1 + TPR - FPR) / 2.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from pipeline.data.truth import UNKNOWN

Mask = NDArray[np.bool_]

STRATA = 10

NOT_KNOWN: dict[str, JsonValue] = {"tpr": None, "fpr": None, "der": None, "threshold": None}


@dataclass(frozen=True)
class LabelledScores:
    """Scored samples (n,) whose truth is known.

    A sample whose gradient is not finite, or that has none, counts as the most anomalous of all; where it is not
    finite, confidence and gradient norm are NaN.
    """

    scores: NDArray[np.float64]
    flagged: Mask
    predictions: NDArray[np.int64]
    confidence: NDArray[np.float64]
    gradient_norm: NDArray[np.float64]
    anomalous: NDArray[np.int64]
    label: NDArray[np.int64]
    target: NDArray[np.int64]

    @property
    def succeeded(self) -> Mask:
        """Anomalous samples whose attack succeeded: predicted as its target, or without one, not as the label."""
        differs = (self.label != UNKNOWN) & (self.predictions != self.label)
        hit = np.where(self.target != UNKNOWN, self.predictions == self.target, differs)
        succeeded: Mask = (self.anomalous == 1) & hit
        return succeeded

    @property
    def correct(self) -> Mask:
        """Clean samples that are classified correctly."""
        correct: Mask = (self.anomalous == 0) & (self.label != UNKNOWN) & (self.predictions == self.label)
        return correct


@dataclass(frozen=True)
class _Filter:
    """Which samples count as anomalous and as benign, and the attack success rate and accuracy that DER starts from."""

    anomalous: Mask
    benign: Mask
    asr: float | None
    accuracy: float | None


def evaluate(labelled: LabelledScores) -> dict[str, JsonValue]:
    """AUROC, average precision, and TPR, FPR and DER at the calibrated and at the best threshold, by three filters.

    `all`: every sample. `attack_succeeded`: all clean samples, and anomalous ones whose attack succeeded.
    `paper_filter`: clean samples classified correctly, and anomalous ones whose attack succeeded. What cannot be known
    is None.
    """
    anomalous, clean = labelled.anomalous == 1, labelled.anomalous == 0
    has_label = labelled.label != UNKNOWN
    asr = _share(labelled.succeeded, anomalous & (has_label | (labelled.target != UNKNOWN)))
    accuracy = _share(labelled.correct, clean & has_label)
    return {
        "attack_success_rate": asr,
        "accuracy": accuracy,
        "all": _filtered(labelled, _Filter(anomalous, clean, asr, accuracy)),
        "attack_succeeded": _filtered(labelled, _Filter(labelled.succeeded, clean, asr, accuracy)),
        "paper_filter": _filtered(labelled, _Filter(labelled.succeeded, labelled.correct, 1.0, 1.0)),
    }


def controls(labelled: LabelledScores) -> dict[str, JsonValue]:
    """Controls that need no attribution: the AUROC of confidence and of the gradient norm alone.

    With each, the score's AUROC within strata of the control. Samples whose gradient is not finite have neither and are
    left out.
    """
    anomalous = labelled.succeeded if labelled.succeeded.any() else labelled.anomalous == 1
    values = {"confidence": labelled.confidence, "gradient_norm": labelled.gradient_norm}
    return {name: _control(labelled, anomalous, value) for name, value in values.items()}


def _control(labelled: LabelledScores, anomalous: Mask, value: NDArray[np.float64]) -> dict[str, JsonValue]:
    chosen = (anomalous | (labelled.anomalous == 0)) & np.isfinite(value)
    truth, scores = anomalous[chosen], labelled.scores[chosen]
    return {
        "auroc": auroc(truth, value[chosen]),
        "matched_auroc": _matched_auroc(truth, scores, value[chosen]),
        "samples": int(chosen.sum()),
    }


def auroc(anomalous: Mask, scores: NDArray[np.float64]) -> float | None:
    """Probability that an anomalous sample scores above a benign one, ties counting half; None without both kinds."""
    from sklearn.metrics import roc_auc_score  # noqa: PLC0415 - takes a second

    return float(roc_auc_score(anomalous, scores)) if 0 < anomalous.sum() < len(anomalous) else None


def _filtered(labelled: LabelledScores, kept: _Filter) -> dict[str, JsonValue]:
    from sklearn.metrics import average_precision_score  # noqa: PLC0415 - takes a second

    chosen = kept.anomalous | kept.benign
    truth, scores = kept.anomalous[chosen], labelled.scores[chosen]
    both = bool(kept.anomalous.any() and kept.benign.any())
    best = _best_threshold(truth, scores) if both else None
    return {
        "anomalous": int(kept.anomalous.sum()),
        "benign": int(kept.benign.sum()),
        "auroc": auroc(truth, scores),
        "average_precision": float(average_precision_score(truth, scores)) if both else None,
        "at_calibrated": _at(labelled, labelled.flagged, kept),
        "at_best": {**_at(labelled, labelled.scores >= best, kept), "threshold": best}
        if best is not None
        else NOT_KNOWN,
    }


def _at(labelled: LabelledScores, rejected: Mask, kept: _Filter) -> dict[str, JsonValue]:
    attacks = _rejected_part(kept.asr, _share(rejected & labelled.succeeded, labelled.succeeded))
    correct = _rejected_part(kept.accuracy, _share(rejected & labelled.correct, labelled.correct))
    der = None if attacks is None or correct is None else (attacks - correct + 1) / 2
    return {
        "tpr": _share(rejected & kept.anomalous, kept.anomalous),
        "fpr": _share(rejected & kept.benign, kept.benign),
        "der": der,
    }


def _rejected_part(rate: float | None, rejected: float | None) -> float | None:
    """ASR - ASR' or ACC - ACC'; 0 where the rate is 0, since nothing is left to reject."""
    return 0.0 if rate == 0 else None if rate is None or rejected is None else rate * rejected


def _share(part: Mask, whole: Mask) -> float | None:
    return float(part.sum() / whole.sum()) if whole.any() else None


def _best_threshold(anomalous: Mask, scores: NDArray[np.float64]) -> float:
    """The threshold of largest TPR - FPR; a sample is rejected when its score is at least this."""
    from sklearn.metrics import roc_curve  # noqa: PLC0415 - takes a second

    fpr, tpr, thresholds = roc_curve(anomalous, scores)
    best = int(np.argmax(tpr - fpr))
    return float(min(thresholds[best], np.finfo(np.float64).max))


def _matched_auroc(anomalous: Mask, scores: NDArray[np.float64], control: NDArray[np.float64]) -> float | None:
    """The score's AUROC within tenths of the control, weighted by pairs: what the score adds to the control."""
    if not len(control):
        return None
    edges = np.quantile(control, np.linspace(0, 1, STRATA + 1)[1:-1])
    strata = np.searchsorted(edges, control, side="right")
    pairs, wins = 0.0, 0.0
    for stratum in range(STRATA):
        inside = strata == stratum
        value = auroc(anomalous[inside], scores[inside])
        if value is not None:
            weight = float(anomalous[inside].sum() * (~anomalous[inside]).sum())
            pairs, wins = pairs + weight, wins + weight * value
    return wins / pairs if pairs else None
