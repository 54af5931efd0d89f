"""The verdict on a model's inputs: whether more of them are extreme than the calibration part predicts."""

from dataclasses import dataclass

from madcore.scoring.calibration import flag_count_tail, largest_rank
from pipeline.config.on_verdict import CANNOT_TELL, NOTHING_UNUSUAL, UNUSUAL

CHANCE = 0.01

FDR_LEVEL = 0.01


@dataclass(frozen=True)
class Verdict:
    """A value of VERDICTS, and why."""

    value: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Criterion:
    """What a trusted sample outside the calibration part must be to explain anything, and the remedy where few are."""

    kept: str
    remedy: str


LABELLED = Criterion("predicted as labelled", "check the labels, the weights and data.preprocess")

FINITE = Criterion("of finite gradient", "check the weights")


@dataclass(frozen=True)
class Evidence:
    """What the verdict rests on: counts of audited and of trusted samples.

    Of the `audited` samples, `scored` have a score or a gradient that is not finite (`nonfinite`), and `extreme` have a
    p-value <= `alpha`; `flat` have no gradient. Of the `calibration` samples, `infinite` score above all others:
    `flat_calibration` have no gradient, that of the rest is not finite. Of the trusted samples outside the calibration
    part, `reference` meet the criterion, `filtered` do not.
    """

    audited: int
    scored: int
    extreme: int
    nonfinite: int
    calibration: int
    infinite: int
    reference: int
    filtered: int
    alpha: float
    criterion: Criterion = LABELLED
    flat: int = 0
    flat_calibration: int = 0


def judge(evidence: Evidence) -> Verdict:
    """The verdict: `unusual inputs` where chance gives as many extreme p-values with a probability below 1 %.

    A sample whose gradient is not finite has the p-value of an infinite score here, as in the calibration part.
    """
    rank = largest_rank(evidence.alpha, evidence.calibration)
    notes, blind = _notes(evidence), _blind(evidence, rank)
    if blind:
        return Verdict(CANNOT_TELL, (blind, *notes))
    tail = flag_count_tail(evidence.extreme, evidence.scored, rank, evidence.calibration)
    expected = evidence.scored * rank / (evidence.calibration + 1)
    counted = (
        f"{evidence.extreme:,} of {evidence.scored:,} samples have a p-value <= {evidence.alpha:g}; "
        f"chance alone gives {expected:,.1f} on average, and this many or more with probability {tail:.2g}"
    )
    if tail < CHANCE:
        return Verdict(UNUSUAL, (counted, *notes))
    if evidence.filtered > evidence.reference:
        counts = f"only {evidence.reference:,} are {evidence.criterion.kept} and {evidence.filtered:,} are not"
        doubt = f"of the trusted samples outside the calibration part, {counts}: {evidence.criterion.remedy}"
        return Verdict(CANNOT_TELL, (doubt, counted, *notes))
    if 2 * evidence.infinite > rank:
        return Verdict(CANNOT_TELL, (_nearly_blind(evidence, rank), counted, *notes))
    if evidence.scored < evidence.audited / 2:
        few = f"only {evidence.scored:,} of {evidence.audited:,} audited samples could be scored"
        return Verdict(CANNOT_TELL, (few, counted, *notes))
    return Verdict(NOTHING_UNUSUAL, (counted, *notes))


def _blind(evidence: Evidence, rank: int) -> str | None:
    """Why no count of extreme p-values could mean anything; None where one can."""
    if rank < 1:
        return f"{evidence.calibration} calibration samples cannot resolve p-values of {evidence.alpha:g}"
    if evidence.infinite >= rank:
        return (
            f"{_infinite(evidence)} and score above all others, so that no finite score can reach a p-value "
            f"<= {evidence.alpha:g}; {_remedy(evidence)}"
        )
    if evidence.scored == 0:
        return "no audited sample could be scored"
    if flag_count_tail(evidence.scored, evidence.scored, rank, evidence.calibration) >= CHANCE:
        return f"{evidence.scored} scored samples are too few: even if all were extreme, chance could explain it"
    return None


def _nearly_blind(evidence: Evidence, rank: int) -> str:
    """Why few extreme p-values do not say that nothing is unusual."""
    return (
        f"{_infinite(evidence)} and score above all others, which hides anomalous samples: a p-value "
        f"<= {evidence.alpha:g} needs fewer than {rank} calibration scores as high, and these are there already. "
        f"At most {rank // 2} of them leave enough to find nothing unusual; {_remedy(evidence)}"
    )


def _infinite(evidence: Evidence) -> str:
    """How many calibration samples score above all others whatever is audited, and why."""
    count, flat = evidence.infinite, evidence.flat_calibration
    why = "have no gradient" if flat == count else "have a gradient that is not finite"
    if 0 < flat < count:
        why = f"have no gradient ({flat:,}) or one that is not finite ({count - flat:,})"
    return f"{count:,} of {evidence.calibration:,} calibration samples {why}"


def _remedy(evidence: Evidence) -> str:
    if evidence.flat_calibration:
        return (
            "audit outputs that depend on the weights for these samples too (logits instead of probabilities or "
            "clamped outputs), or replace those trusted samples"
        )
    return "repair the model or those trusted samples"


def _notes(evidence: Evidence) -> list[str]:
    notes, unscored = list[str](), evidence.audited - evidence.scored
    if evidence.nonfinite:
        notes.append(
            f"{evidence.nonfinite:,} samples have a gradient that is not finite; "
            "here they count as scores above all others"
        )
    if evidence.flat:
        share = evidence.flat / evidence.audited
        notes.append(
            f"{evidence.flat:,} of {evidence.audited:,} audited samples ({share:.1%}) have no "
            "gradient (status flat), so that nothing can explain them; they count as scores above all others"
        )
    if unscored:
        notes.append(f"{unscored:,} of {evidence.audited:,} audited samples have no score")
    return notes
