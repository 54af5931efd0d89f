"""The facts of a report: what follows from scores, calibration and truth alone, and so is kept under their key."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from pydantic import JsonValue

from madcore.scoring.calibration import largest_rank, smallest_certified_group
from madcore.scoring.coupling import RARE_CLASS
from pipeline.artifacts.screening import Screening
from pipeline.artifacts.trusted import TrustedSamples
from pipeline.planning.plan import ModelPlan
from pipeline.stages.reporting.counts import IdCounts, ScoreCounts
from pipeline.stages.reporting.decisions import FlaggedSamples
from pipeline.stages.reporting.evaluation import LabelledScores, controls, evaluate
from pipeline.stages.reporting.verdict import FDR_LEVEL, FINITE, LABELLED, Criterion, Evidence, judge

FACTS_VERSION = 1

SUSPECTS_LISTED = 1000

CLASSES_LISTED = 20

Facts = dict[str, JsonValue]


@dataclass(frozen=True)
class ReportInputs:
    """What a report follows from: the plan, the trusted samples, and counts and decisions of the audited ones."""

    plan: ModelPlan
    trusted: TrustedSamples
    counts: ScoreCounts
    flagged: FlaggedSamples
    ids: IdCounts

    @cached_property
    def labelled(self) -> LabelledScores | None:
        """The samples whose truth is known."""
        return self.counts.labelled(self.flagged.decisions.flag_rank)

    @cached_property
    def references(self) -> list[int]:
        """Reference samples by predicted class; empty where the model's outputs have no classes."""
        classes = self.plan.classes
        counts: list[int] = self.trusted.reference_predictions.bincount(minlength=classes).tolist() if classes else []
        return counts

    @property
    def criterion(self) -> Criterion:
        """What a trusted sample must be to explain anything."""
        return FINITE if self.plan.config.is_text else LABELLED


def build_report(inputs: ReportInputs) -> Facts:
    """All facts of one model's report."""
    counts, labelled, verdict = inputs.counts, inputs.labelled, judge(_evidence(inputs))
    return {
        "schema": FACTS_VERSION,
        "counts": {
            "audited": counts.total,
            "flagged": inputs.flagged.flagged,
            **{status: counts.statuses[status] for status in ("flat", "nonfinite", "unreadable", "failed")},
            "duplicates": inputs.ids.repeated,
            "shared_with_trusted": inputs.ids.shared,
        },
        "verdict": {"value": verdict.value, "reasons": list(verdict.reasons)},
        "calibration": _calibration(inputs),
        "evaluation": evaluate(labelled) if labelled else None,
        "controls": controls(labelled) if labelled else None,
        "classes": _classes(inputs),
        "histogram": _histogram(inputs),
        "top_flagged": list(inputs.flagged.top),
        "warnings": _warnings(inputs),
        **_flat(inputs),
    }


def _flat(inputs: ReportInputs) -> Facts:
    """The section `flat`, where any audited sample has no gradient: how many, and the first of them."""
    count, flagged = inputs.counts.statuses["flat"], inputs.flagged
    if not count:
        return {}
    share = count / inputs.counts.total
    return {"flat": {"count": count, "share": share, "flagged": flagged.flagged_flat, "samples": [*flagged.flat]}}


def screening_section(plan: ModelPlan, trusted: TrustedSamples, counts: ScoreCounts, screening: Screening) -> Facts:
    """The section `screening`: the suspects, and the classes that stand out.

    `flagged_unscreened`, where suspects were removed: how many samples would be flagged if the calibration part had
    kept its own.
    """
    target, suspects, removed = plan.config.calibration.target, screening.suspects, plan.config.calibration.screen
    rank = max(0, largest_rank(target.level, len(counts.unscreened)))
    unscreened = int(counts.by_exceedances_unscreened[:rank].sum()) + counts.statuses["nonfinite"]
    section: Facts = {
        "suspects": list(suspects[:SUSPECTS_LISTED]),
        "suspects_total": len(suspects),
        "suspects_of_calibration": len(trusted.of("suspect calibration")),
        "flagged_unscreened": unscreened if target.fpr is not None and removed else None,
        "classes": [modes.model_dump(mode="json") for modes in screening.classes],
        "too_small": list(screening.too_small),
        "warnings": _screening_warnings(screening, removed),
    }
    return {"screening": section}


def _screening_warnings(screening: Screening, removed: bool) -> list[JsonValue]:
    outstanding = [modes for modes in screening.classes if modes.stands_out]
    second = {modes.predicted: round(modes.share * modes.samples) for modes in outstanding if modes.decidable}
    undecidable = [modes.predicted for modes in outstanding if not modes.decidable]
    screened_out = (
        f"{len(screening.suspects):,} trusted samples were screened out, because their predicted class has a second "
        "mode; look at screening.suspects"
    )
    kept = (
        "predicted classes of the trusted set with a second mode, as poisoned samples make one: "
        f"{_listed(second, 'samples')}; look at screening.suspects, and if they do not belong, "
        "set calibration.screen: true"
    )
    unclear = (
        "predicted classes of the trusted set with two modes, where it is not possible to tell which mode is clean: "
        f"{undecidable}; look at their samples"
    )
    return _applying(
        {screened_out: bool(screening.suspects) and removed, kept: bool(second) and not removed, unclear: undecidable}
    )


def _evidence(inputs: ReportInputs) -> Evidence:
    counts, trusted, target = inputs.counts, inputs.trusted, inputs.plan.config.calibration.target
    alpha, calibration = target.fpr if target.fpr is not None else FDR_LEVEL, len(counts.calibration)
    nonfinite, infinite = counts.statuses["nonfinite"], _infinite(counts)
    rank = max(0, largest_rank(alpha, calibration))
    extreme = int(counts.by_exceedances[:rank].sum()) + (nonfinite if infinite < rank else 0)
    return Evidence(
        audited=counts.total,
        scored=counts.statuses["ok"] + counts.statuses["flat"] + nonfinite,
        extreme=extreme,
        nonfinite=nonfinite,
        calibration=calibration,
        infinite=infinite,
        reference=len(trusted.of("reference")),
        filtered=len(trusted.of("filtered")),
        alpha=alpha,
        criterion=inputs.criterion,
        flat=counts.statuses["flat"],
        flat_calibration=trusted.flat_calibration,
    )


def _calibration(inputs: ReportInputs) -> Facts:
    plan, trusted, target = inputs.plan, inputs.trusted, inputs.plan.config.calibration.target
    calibration, statuses = len(inputs.counts.calibration), inputs.counts.statuses
    scored, flat = statuses["ok"] + statuses["flat"], len(trusted.of("flat"))
    return {
        "reference": len(trusted.of("reference")),
        "calibration": calibration,
        "filtered": len(trusted.of("filtered")),
        "unreadable": len(trusted.of("unreadable")),
        **({"dropped": len(plan.dropped)} if plan.dropped else {}),
        **({"flat": flat, "flat_calibration": trusted.flat_calibration} if trusted.flat else {}),
        "target": {"fpr": target.fpr} if target.fdr is None else {"fdr": target.fdr},
        "threshold": inputs.flagged.decisions.finite_threshold,
        "smallest_p_value": 1 / (calibration + 1),
        "smallest_certified_group": smallest_certified_group(target.fdr, calibration, scored) if target.fdr else None,
    }


def _classes(inputs: ReportInputs) -> list[JsonValue]:
    """Per predicted class: reference, audited and flagged samples, and the FPR on clean ones where truth is known."""
    return [
        {
            "class": number,
            "reference": references,
            "audited": inputs.counts.predicted[number],
            "flagged": inputs.flagged.by_class[number],
            "fpr": _false_positive_rate(inputs.labelled, number),
        }
        for number, references in enumerate(inputs.references[: inputs.plan.classes])
        if references or inputs.counts.predicted[number]
    ]


def _false_positive_rate(labelled: LabelledScores | None, predicted: int) -> float | None:
    """The share of a predicted class's clean samples that are flagged."""
    if labelled is None:
        return None
    clean = (labelled.anomalous == 0) & (labelled.predictions == predicted)
    return float(labelled.flagged[clean].mean()) if clean.any() else None


def _warnings(inputs: ReportInputs) -> list[JsonValue]:
    ids, references, criterion = inputs.ids, inputs.references, inputs.criterion
    predicted = sorted(inputs.counts.predicted.items()) if inputs.plan.classes else []
    unseen = {number: count for number, count in predicted if not references[number]}
    rare = {number: references[number] for number, _ in predicted if 0 < references[number] < RARE_CLASS}
    unreadable, filtered = len(inputs.trusted.of("unreadable")), len(inputs.trusted.of("filtered"))
    outside, flat = filtered + len(inputs.trusted.of("reference")), len(inputs.trusted.of("flat"))
    flat_calibration = inputs.trusted.flat_calibration
    nonfinite = _infinite(inputs.counts) - flat_calibration
    repeated = f"{ids.repeated:,} audited samples repeat an id of an earlier one; (source, row) tells them apart"
    shared = (
        f"{ids.shared:,} audited samples share their id with a trusted one; "
        "if they are the same, they explain themselves"
    )
    without = (
        "predicted classes without reference samples, compared with the mean of the others instead: "
        f"{_listed(unseen, 'audited')}"
    )
    few = (
        f"predicted classes with fewer than {RARE_CLASS} reference samples, drawn towards the mean of all: "
        f"{_listed(rare, 'reference')}"
    )
    lost = f"{unreadable:,} trusted samples could not be read and are in neither part"
    left_out = (
        f"{filtered:,} of {outside:,} trusted samples are not {criterion.kept} and explain nothing; {criterion.remedy}"
    )
    above_all = (
        f"{nonfinite:,} calibration samples have a gradient that is not finite; they count as scores above all others"
    )
    without_gradient = (
        f"{flat + flat_calibration:,} trusted samples have no gradient (status flat): {flat:,} explain nothing, "
        f"and {flat_calibration:,}, of the calibration part, count as scores above all others"
    )
    return _applying(
        {
            repeated: ids.repeated,
            shared: ids.shared,
            without: unseen,
            few: rare,
            lost: unreadable,
            left_out: 4 * filtered > outside,
            above_all: nonfinite,
            without_gradient: flat + flat_calibration,
        }
    )


def _applying(lines: Mapping[str, object]) -> list[JsonValue]:
    """The lines whose condition holds, in order."""
    return [line for line, applies in lines.items() if applies]


def _infinite(counts: ScoreCounts) -> int:
    """Calibration samples whose gradient is not finite, or that have none."""
    return int(np.isinf(counts.calibration).sum())


def _listed(classes: Mapping[int, int], what: str) -> str:
    return ", ".join(f"{number} ({count:,} {what})" for number, count in list(classes.items())[:CLASSES_LISTED])


def _histogram(inputs: ReportInputs) -> JsonValue:
    return {
        "edges": list(inputs.counts.edges.tolist()),
        "calibration": list(inputs.counts.calibration_bins.tolist()),
        "audited": list(inputs.flagged.bins.tolist()),
    }
