"""The facts of a report: what follows from scores, calibration and truth alone, and so is kept under their key."""

from pydantic import JsonValue

from madcore.scoring.calibration import largest_rank, smallest_certified_group
from pipeline.artifacts.screening import Screening
from pipeline.artifacts.trusted import TrustedSamples
from pipeline.planning.coverage import share_without_verdict
from pipeline.planning.plan import ModelPlan
from pipeline.stages.reporting.counts import ScoreCounts
from pipeline.stages.reporting.evaluation import LabelledScores, controls, evaluate
from pipeline.stages.reporting.inputs import ReportInputs
from pipeline.stages.reporting.verdict import FDR_LEVEL, Evidence, judge
from pipeline.stages.reporting.warnings import report_warnings, screening_warnings

FACTS_VERSION = 1

SUSPECTS_LISTED = 1000

Facts = dict[str, JsonValue]


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
        "warnings": report_warnings(inputs),
        **_flat(inputs),
        **({"class_names": [*inputs.plan.class_names]} if inputs.plan.class_names else {}),
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
        "warnings": screening_warnings(screening, removed, plan.class_names),
    }
    return {"screening": section}


def _evidence(inputs: ReportInputs) -> Evidence:
    counts, trusted, target = inputs.counts, inputs.trusted, inputs.plan.config.calibration.target
    alpha, calibration = target.fpr if target.fpr is not None else FDR_LEVEL, len(counts.calibration)
    nonfinite, infinite = counts.statuses["nonfinite"], inputs.infinite
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
        little_gradient=share_without_verdict(inputs.plan),
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


def _histogram(inputs: ReportInputs) -> JsonValue:
    return {
        "edges": list(inputs.counts.edges.tolist()),
        "calibration": list(inputs.counts.calibration_bins.tolist()),
        "audited": list(inputs.flagged.bins.tolist()),
    }
