"""The warnings of a report: what of its samples and classes a reader should know, each with its number."""

from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from madcore.scoring.coupling import RARE_CLASS
from pipeline.artifacts.screening import Screening
from pipeline.root.facts import named_class
from pipeline.stages.reporting.counts import IdCounts
from pipeline.stages.reporting.inputs import ReportInputs

CLASSES_LISTED = 20


def report_warnings(inputs: ReportInputs) -> list[JsonValue]:
    """What applies of the warnings about ids, classes and trusted samples."""
    return _applying({**_of_ids(inputs.ids), **_of_classes(inputs), **_of_trusted(inputs)})


def _of_ids(ids: IdCounts) -> dict[str, object]:
    repeated = f"{ids.repeated:,} audited samples repeat an id of an earlier one; (source, row) tells them apart"
    shared = (
        f"{ids.shared:,} audited samples share their id with a trusted one; "
        "if they are the same, they explain themselves"
    )
    return {repeated: ids.repeated, shared: ids.shared}


def _of_classes(inputs: ReportInputs) -> dict[str, object]:
    references = inputs.references
    predicted = sorted(inputs.counts.predicted.items()) if inputs.plan.classes else []
    unseen = {number: count for number, count in predicted if not references[number]}
    rare = {number: references[number] for number, _ in predicted if 0 < references[number] < RARE_CLASS}
    without = (
        "predicted classes without reference samples, compared with the mean of the others instead: "
        f"{_listed(unseen, 'audited', inputs.plan.class_names)}"
    )
    few = (
        f"predicted classes with fewer than {RARE_CLASS} reference samples, drawn towards the mean of all: "
        f"{_listed(rare, 'reference', inputs.plan.class_names)}"
    )
    return {without: unseen, few: rare}


def _of_trusted(inputs: ReportInputs) -> dict[str, object]:
    trusted, criterion = inputs.trusted, inputs.criterion
    unreadable, filtered, flat = (len(trusted.of(part)) for part in ("unreadable", "filtered", "flat"))
    outside, flat_calibration = filtered + len(trusted.of("reference")), trusted.flat_calibration
    nonfinite = inputs.infinite - flat_calibration
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
    return {
        lost: unreadable,
        left_out: 4 * filtered > outside,
        above_all: nonfinite,
        without_gradient: flat + flat_calibration,
    }


def screening_warnings(screening: Screening, removed: bool, names: Sequence[str]) -> list[JsonValue]:
    """What applies of the warnings about classes with a second mode, whose suspects may have been removed."""
    outstanding = [modes for modes in screening.classes if modes.stands_out]
    second = {modes.predicted: round(modes.share * modes.samples) for modes in outstanding if modes.decidable}
    undecidable = [modes.predicted for modes in outstanding if not modes.decidable]
    screened_out = (
        f"{len(screening.suspects):,} trusted samples were screened out, because their predicted class has a second "
        "mode; look at screening.suspects"
    )
    kept = (
        "predicted classes of the trusted set with a second mode, as poisoned samples make one: "
        f"{_listed(second, 'samples', names)}; look at screening.suspects, and if they do not belong, "
        "set calibration.screen: true"
    )
    unclear = (
        "predicted classes of the trusted set with two modes, where it is not possible to tell which mode is clean: "
        f"{', '.join(named_class(number, names) for number in undecidable)}; look at their samples"
    )
    return _applying(
        {screened_out: bool(screening.suspects) and removed, kept: bool(second) and not removed, unclear: undecidable}
    )


def _applying(lines: Mapping[str, object]) -> list[JsonValue]:
    """The lines whose condition holds, in order."""
    return [line for line, applies in lines.items() if applies]


def _listed(classes: Mapping[int, int], what: str, names: Sequence[str]) -> str:
    """The first classes with their counts, and of the rest how many they are and what they count together."""
    listed, rest = list(classes.items())[:CLASSES_LISTED], list(classes.values())[CLASSES_LISTED:]
    more = f", and {len(rest):,} more classes ({sum(rest):,} {what})" if rest else ""
    return ", ".join(f"{named_class(number, names)} ({count:,} {what})" for number, count in listed) + more
