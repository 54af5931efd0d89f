"""The facts of a report: what follows from scores, calibration and truth alone, and so is kept under their key."""

import numpy as np
from pydantic import JsonValue

from madcore.scoring.calibration import largest_rank, smallest_certified_group
from madcore.scoring.coupling import RARE_CLASS
from pipeline.artifacts.curvature import Screening, TrustedSamples
from pipeline.planning.plan import ModelPlan
from pipeline.stages.reporting.counts import IdCounts, ScoreCounts
from pipeline.stages.reporting.decisions import FlaggedSamples
from pipeline.stages.reporting.evaluation import LabelledScores, controls, evaluate
from pipeline.stages.reporting.verdict import FDR_LEVEL, FINITE, LABELLED, Evidence, judge

FACTS_VERSION = 1


SUSPECTS_LISTED = 1000


def build_report(
    plan: ModelPlan, trusted: TrustedSamples, tally: ScoreCounts, found: FlaggedSamples, ids: IdCounts
) -> dict[str, JsonValue]:
    """All facts of one model's report."""
    known = tally.labelled(found.decisions.flag_rank)
    verdict = judge(_evidence(plan, trusted, tally))
    return {
        "schema": FACTS_VERSION,
        "counts": {
            "audited": tally.total,
            "flagged": found.flagged,
            **{status: tally.statuses[status] for status in ("nonfinite", "unreadable", "failed")},
            "duplicates": ids.repeated,
            "shared_with_trusted": ids.shared,
        },
        "verdict": {"value": verdict.value, "reasons": list(verdict.reasons)},
        "calibration": _calibration(plan, trusted, tally, found),
        "evaluation": evaluate(known) if known else None,
        "controls": controls(known) if known else None,
        "classes": _classes(plan, trusted, tally, found, known),
        "histogram": _histogram(tally, found),
        "top_flagged": list(found.top),
        "warnings": _warnings(plan, trusted, tally, ids),
    }


def screening_section(
    plan: ModelPlan, trusted: TrustedSamples, tally: ScoreCounts, screening: Screening
) -> dict[str, JsonValue]:
    """The section `screening`: the suspects, and the classes that stand out.

    `flagged_unscreened`, where suspects were taken out: how many samples would be flagged if the calibration part had kept its own.
    """
    target, suspects, taken = plan.config.calibration.target, screening.suspects, plan.config.calibration.screen
    rank = max(0, largest_rank(target.level, len(tally.unscreened)))
    second = {
        modes.predicted: round(modes.share * modes.samples)
        for modes in screening.classes
        if modes.stands_out and modes.decidable
    }
    undecidable = [modes.predicted for modes in screening.classes if modes.stands_out and not modes.decidable]
    lines = {
        f"{len(suspects):,} trusted samples were screened out, because their predicted class has a second mode; look at screening.suspects": (
            suspects and taken
        ),
        f"predicted classes of the trusted set with a second mode, as poisoned samples make one: {_counts(second, 'samples')}; look at "
        "screening.suspects, and if they do not belong, set calibration.screen: true": second and not taken,
        f"predicted classes of the trusted set with two modes, of which nobody can tell the sound one: {undecidable}; look at their samples": undecidable,
    }
    found: dict[str, JsonValue] = {
        "suspects": list(suspects[:SUSPECTS_LISTED]),
        "suspects_total": len(suspects),
        "suspects_of_calibration": len(trusted.of("suspect calibration")),
        "flagged_unscreened": int(tally.by_exceedances_unscreened[:rank].sum()) + tally.statuses["nonfinite"]
        if target.fpr is not None and taken
        else None,
        "classes": [modes.model_dump(mode="json") for modes in screening.classes],
        "too_small": list(screening.too_small),
        "warnings": [line for line, applies in lines.items() if applies],
    }
    return {"screening": found}


def _evidence(plan: ModelPlan, trusted: TrustedSamples, tally: ScoreCounts) -> Evidence:
    target = plan.config.calibration.target
    alpha, calibration = target.fpr if target.fpr is not None else FDR_LEVEL, len(tally.calibration)
    nonfinite, infinite, rank = (
        tally.statuses["nonfinite"],
        int(np.isinf(tally.calibration).sum()),
        max(0, largest_rank(alpha, calibration)),
    )
    extreme = int(tally.by_exceedances[:rank].sum()) + (nonfinite if infinite < rank else 0)
    return Evidence(
        audited=tally.total,
        scored=tally.statuses["ok"] + nonfinite,
        extreme=extreme,
        nonfinite=nonfinite,
        calibration=calibration,
        infinite=infinite,
        reference=len(trusted.of("reference")),
        filtered=len(trusted.of("filtered")),
        alpha=alpha,
        criterion=FINITE if plan.config.is_text else LABELLED,
    )


def _calibration(
    plan: ModelPlan, trusted: TrustedSamples, tally: ScoreCounts, found: FlaggedSamples
) -> dict[str, JsonValue]:
    target = plan.config.calibration.target
    group = smallest_certified_group(target.fdr, len(tally.calibration), tally.statuses["ok"]) if target.fdr else None
    return {
        "reference": len(trusted.of("reference")),
        "calibration": len(tally.calibration),
        "filtered": len(trusted.of("filtered")),
        "unreadable": len(trusted.of("unreadable")),
        **({"dropped": len(plan.dropped)} if plan.dropped else {}),
        "target": {"fpr": target.fpr} if target.fdr is None else {"fdr": target.fdr},
        "threshold": found.decisions.finite_threshold,
        "smallest_p_value": 1 / (len(tally.calibration) + 1),
        "smallest_certified_group": group,
    }


def _references_by_class(plan: ModelPlan, trusted: TrustedSamples) -> list[int]:
    """Reference samples by predicted class; none at all where the model's outputs have no classes."""
    counts: list[int] = trusted.reference_predictions.bincount(minlength=plan.classes).tolist() if plan.classes else []
    return counts


def _classes(
    plan: ModelPlan, trusted: TrustedSamples, tally: ScoreCounts, found: FlaggedSamples, known: LabelledScores | None
) -> list[JsonValue]:
    """Per predicted class: reference samples, audited and flagged ones, and the realised FPR on clean ones where truth is known."""
    references = _references_by_class(plan, trusted)
    rows: list[JsonValue] = []
    for number in range(plan.classes):
        rate = None
        if known is not None:
            clean = (known.anomalous == 0) & (known.predictions == number)
            rate = float(known.flagged[clean].mean()) if clean.any() else None
        if references[number] or tally.predicted[number]:
            rows.append(
                {
                    "class": number,
                    "reference": references[number],
                    "audited": tally.predicted[number],
                    "flagged": found.by_class[number],
                    "fpr": rate,
                }
            )
    return rows


def _warnings(plan: ModelPlan, trusted: TrustedSamples, tally: ScoreCounts, ids: IdCounts) -> list[JsonValue]:
    references = _references_by_class(plan, trusted)
    predicted = sorted(tally.predicted.items()) if plan.classes else []
    unseen = {number: count for number, count in predicted if not references[number]}
    rare = {number: references[number] for number, _ in predicted if 0 < references[number] < RARE_CLASS}
    infinite, left_out = int(np.isinf(tally.calibration).sum()), len(trusted.of("filtered"))
    others, criterion = left_out + len(trusted.of("reference")), FINITE if plan.config.is_text else LABELLED
    lines = {
        f"{ids.repeated:,} audited samples repeat an id of an earlier one; (source, row) tells them apart": ids.repeated,
        f"{ids.shared:,} audited samples share their id with a trusted one; if they are the same, they explain themselves": ids.shared,
        f"predicted classes without reference samples, compared with the mean of the others instead: {_counts(unseen, 'audited')}": unseen,
        f"predicted classes with fewer than {RARE_CLASS} reference samples, drawn towards the mean of all: {_counts(rare, 'reference')}": rare,
        f"{len(trusted.of('unreadable')):,} trusted samples could not be read and are in neither part": trusted.of(
            "unreadable"
        ),
        f"{left_out:,} of {others:,} trusted samples are not {criterion.kept} and explain nothing; {criterion.remedy}": 4
        * left_out
        > others,
        f"{infinite:,} calibration samples have a gradient that is not finite; they count as scores above all others": infinite,
    }
    return [line for line, applies in lines.items() if applies]


def _counts(classes: dict[int, int], what: str) -> str:
    return ", ".join(f"{number} ({count:,} {what})" for number, count in list(classes.items())[:20])


def _histogram(tally: ScoreCounts, found: FlaggedSamples) -> JsonValue:
    return {
        "edges": list(tally.edges.tolist()),
        "calibration": list(tally.calibration_bins.tolist()),
        "audited": list(found.bins.tolist()),
    }
