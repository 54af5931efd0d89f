"""The facts of a report by hand: counts, calibration, classes, warnings and the section of screening."""

from dataclasses import replace

import numpy as np
import torch
from pydantic import JsonValue

from pipeline.artifacts.curvature import TrustedSamples
from pipeline.artifacts.screening import ClassModes, Screening
from pipeline.data.truth import Truth
from pipeline.planning.plan import ModelPlan
from pipeline.stages.reporting.counts import IdCounts, ScoreCounts
from pipeline.stages.reporting.decisions import Decisions, FlaggedSamples
from pipeline.stages.reporting.inputs import ReportInputs
from pipeline.stages.reporting.report import build_report, screening_section
from tests.pipeline.stages.reporting.tables import score_part

SCORES = [0.5, 400.0, None, 0.25]
STATUSES = ["ok", "ok", "nonfinite", "ok"]


def trusted_samples(calibration: int = 199) -> TrustedSamples:
    """Calibration scores 0, 1, ...; 40 references of class 0 and 1 of class 1; 20 filtered; 2 unreadable."""
    parts = ["calibration"] * calibration + ["reference"] * 41 + ["filtered"] * 20 + ["unreadable"] * 2
    predictions = torch.zeros(len(parts), dtype=torch.int64)
    predictions[calibration] = 1
    scores = np.full(len(parts), np.nan)
    scores[:calibration] = np.arange(calibration)
    ids = [f"t{row}" for row in range(len(parts))]
    return TrustedSamples(ids, parts, predictions, scores)  # type: ignore[arg-type]


def inputs_of(plan: ModelPlan, trusted: TrustedSamples, truth: Truth | None = None) -> ReportInputs:
    part = score_part(SCORES, STATUSES, predictions=[0, 1, -1, 2])
    counts = ScoreCounts(trusted.calibration_scores, trusted.suspected_scores)
    counts.add(part, truth)
    flagged = FlaggedSamples(Decisions.of(plan.config.calibration.target, counts), counts)
    flagged.decide(part)
    return ReportInputs(plan, trusted, counts, flagged, IdCounts(repeated=3, shared=2))


def test_counts_and_calibration_are_those_of_the_samples(plan: ModelPlan) -> None:
    facts = build_report(inputs_of(plan, trusted_samples()))
    assert facts["counts"] == {
        "audited": 4,
        "flagged": 2,
        "flat": 0,
        "nonfinite": 1,
        "unreadable": 0,
        "failed": 0,
        "duplicates": 3,
        "shared_with_trusted": 2,
    }
    assert facts["calibration"] == {
        "reference": 41,
        "calibration": 199,
        "filtered": 20,
        "unreadable": 2,
        "target": {"fpr": 0.01},
        "threshold": 197.0,
        "smallest_p_value": 1 / 200,
        "smallest_certified_group": None,
    }
    assert (facts["evaluation"], facts["controls"]) == (None, None)


def test_classes_are_those_with_reference_or_audited_samples(plan: ModelPlan) -> None:
    truth = Truth(label=np.array([0, 1, 2, 2]), anomalous=np.array([0, 0, 1, 0]), target=np.full(4, -1))
    facts = build_report(inputs_of(plan, trusted_samples(), truth))
    assert facts["classes"] == [
        {"class": 0, "reference": 40, "audited": 1, "flagged": 0, "fpr": 0.0},
        {"class": 1, "reference": 1, "audited": 1, "flagged": 1, "fpr": 1.0},
        {"class": 2, "reference": 0, "audited": 1, "flagged": 0, "fpr": 0.0},
    ]
    evaluation = facts["evaluation"]
    assert isinstance(evaluation, dict) and evaluation["accuracy"] == 1.0


def test_every_warning_names_what_it_counts(plan: ModelPlan) -> None:
    trusted = trusted_samples()
    trusted.scores[0] = np.inf
    warnings = build_report(inputs_of(plan, trusted))["warnings"]
    assert warnings == [
        "3 audited samples repeat an id of an earlier one; (source, row) tells them apart",
        "2 audited samples share their id with a trusted one; if they are the same, they explain themselves",
        "predicted classes without reference samples, compared with the mean of the others instead: 2 (1 audited)",
        "predicted classes with fewer than 10 reference samples, drawn towards the mean of all: 1 (1 reference)",
        "2 trusted samples could not be read and are in neither part",
        "20 of 61 trusted samples are not predicted as labelled and explain nothing; "
        "check the labels, the weights and data.preprocess",
        "1 calibration samples have a gradient that is not finite; they count as scores above all others",
    ]


def test_a_long_list_of_classes_says_how_many_it_leaves_out(plan: ModelPlan) -> None:
    predictions = [*range(2, 25), 24, 24]
    part = score_part([0.5] * len(predictions), ["ok"] * len(predictions), predictions=predictions)
    many = replace(plan, recipe=plan.recipe.model_copy(update={"classes": 25}))
    inputs = inputs_of(many, trusted_samples())
    inputs.counts.add(part, None)
    warnings = build_report(inputs)["warnings"]
    assert isinstance(warnings, list)
    (warning,) = (line for line in warnings if "without reference" in str(line))
    assert str(warning).endswith(", 21 (1 audited), and 3 more classes (5 audited)")


def test_samples_without_a_gradient_are_counted_apart(plan: ModelPlan) -> None:
    trusted = trusted_samples()
    trusted.parts[-3], trusted.scores[:3] = "flat", np.inf
    trusted = replace(trusted, flat=frozenset({0, 1, len(trusted.ids) - 3}))
    part = score_part([np.inf, 5.0, np.inf], ["flat", "ok", "flat"])
    counts = ScoreCounts(trusted.calibration_scores)
    counts.add(part, None)
    flagged = FlaggedSamples(Decisions.of(plan.config.calibration.target, counts), counts)
    flagged.decide(part)
    facts = build_report(ReportInputs(plan, trusted, counts, flagged, IdCounts(0, 0)))
    section, calibration, warnings = facts["flat"], facts["calibration"], facts["warnings"]
    assert isinstance(section, dict) and isinstance(calibration, dict) and isinstance(warnings, list)
    assert (section["count"], section["share"], section["flagged"]) == (2, 2 / 3, 0), "three calibration scores tie"
    assert (calibration["flat"], calibration["flat_calibration"], calibration["filtered"]) == (1, 2, 19)
    assert [line for line in warnings if "gradient" in str(line)] == [
        "1 calibration samples have a gradient that is not finite; they count as scores above all others",
        "3 trusted samples have no gradient (status flat): 1 explain nothing, and 2, of the calibration part, count as "
        "scores above all others",
    ]
    assert build_report(inputs_of(plan, trusted_samples())).get("flat") is None


def test_dropped_samples_are_counted(plan: ModelPlan) -> None:
    facts = build_report(inputs_of(replace(plan, dropped=("t1", "t2")), trusted_samples()))
    calibration = facts["calibration"]
    assert isinstance(calibration, dict) and calibration["dropped"] == 2


def modes(predicted: int, decidable: bool = True, stands_out: bool = True) -> ClassModes:
    return ClassModes(
        predicted=predicted, samples=40, separation=3.0, z=9.0, share=0.25, stands_out=stands_out, decidable=decidable
    )


def screened(plan: ModelPlan, screen: bool, *classes: ClassModes) -> dict[str, JsonValue]:
    """The section for 5 suspects, one of them drawn for calibration with a score above all others."""
    calibration = plan.config.calibration.model_copy(update={"screen": screen})
    plan = replace(plan, config=plan.config.model_copy(update={"calibration": calibration}))
    trusted = trusted_samples()
    trusted.parts[-1], trusted.scores[-1] = "suspect calibration", 1000.0
    screening = Screening(suspects=[f"t{row}" for row in range(5)], classes=list(classes), too_small=[7])
    section = screening_section(plan, trusted, inputs_of(plan, trusted).counts, screening)["screening"]
    assert isinstance(section, dict)
    return section


def test_suspects_that_stay_are_warned_about(plan: ModelPlan) -> None:
    section = screened(plan, False, modes(3), modes(4, decidable=False), modes(5, stands_out=False))
    assert (section["suspects_total"], section["suspects_of_calibration"]) == (5, 1)
    assert section["flagged_unscreened"] is None
    assert section["too_small"] == [7]
    assert section["warnings"] == [
        "predicted classes of the trusted set with a second mode, as poisoned samples make one: 3 (10 samples); "
        "look at screening.suspects, and if they do not belong, set calibration.screen: true",
        "predicted classes of the trusted set with two modes, where it is not possible to tell which mode is clean: "
        "4; look at their samples",
    ]


def test_suspects_that_leave_are_counted_as_if_they_had_stayed(plan: ModelPlan) -> None:
    section = screened(plan, True, modes(3))
    assert section["flagged_unscreened"] == 1 + 1, "one of 200 scores exceeds 400, fewer than the 2 that are allowed"
    assert section["warnings"] == [
        "5 trusted samples were screened out, because their predicted class has a second mode; "
        "look at screening.suspects"
    ]
