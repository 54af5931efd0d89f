"""The facts of a model's report (`facts.json`): what follows from scores, calibration and truth alone.

They are the first half of a summary (see `pipeline.root.summary`).
"""

from collections.abc import Sequence

from pydantic import Field, JsonValue

from pipeline.root.documents import RECORD_FORMAT, Document, DocumentPart, optional_key


class Counts(DocumentPart):
    """How many samples were audited, and how many of them were flagged or got no score."""

    audited: int
    flagged: int
    flat: int = 0
    nonfinite: int = 0
    unreadable: int = 0
    failed: int = 0
    duplicates: int = 0
    shared_with_trusted: int = 0

    @property
    def not_ok(self) -> int:
        """Samples that have no gradient or one that is not finite, that cannot be read, or whose task failed."""
        return self.flat + self.not_scored

    @property
    def not_scored(self) -> int:
        """Samples whose gradient is not finite, that cannot be read, or whose task failed."""
        return self.nonfinite + self.unreadable + self.failed


class ModelVerdict(DocumentPart):
    """The verdict on a model's inputs, and why."""

    value: str
    reasons: tuple[str, ...] = ()


class Calibration(DocumentPart):
    """The parts of the trusted set, the target that samples are flagged by, and the threshold that follows from both.

    `target` has one key, `fpr` or `fdr`. `threshold` is None where no score can be flagged. `dropped`: trusted
    samples left out by id. `flat`: those outside the calibration part that have no gradient; `flat_calibration`: those
    in it. Both are None where no trusted sample lacks one.
    """

    reference: int = 0
    calibration: int = 0
    filtered: int = 0
    unreadable: int = 0
    dropped: int | None = optional_key()
    flat: int | None = optional_key()
    flat_calibration: int | None = optional_key()
    target: dict[str, float] = Field(default_factory=dict)
    threshold: float | None = None
    smallest_p_value: float | None = None
    smallest_certified_group: int | None = None


class Rates(DocumentPart):
    """TPR, FPR and DER at a threshold, None where they cannot be known. Only the best threshold is given itself."""

    tpr: float | None = None
    fpr: float | None = None
    der: float | None = None
    threshold: float | None = None


class Performance(DocumentPart):
    """How well scores separate anomalous from benign samples."""

    anomalous: int
    benign: int
    auroc: float | None = None
    average_precision: float | None = None
    at_calibrated: Rates = Rates()
    at_best: Rates = Rates()


class Evaluation(DocumentPart):
    """Performance by three choices of samples (see `pipeline.stages.reporting.evaluation`)."""

    attack_success_rate: float | None = None
    accuracy: float | None = None
    all: Performance | None = None
    attack_succeeded: Performance | None = None
    paper_filter: Performance | None = None

    @property
    def main(self) -> Performance | None:
        """The performance to show first: on attacks that succeeded, or on all where success is not known."""
        return self.all if self.attack_success_rate is None else self.attack_succeeded


class Control(DocumentPart):
    """The AUROC of a measure that needs no attribution, and the score's own among samples alike in it.

    Or, of `untrained`, that of the same score on random weights, with the share of samples that are flagged there.
    """

    auroc: float | None = None
    matched_auroc: float | None = None
    samples: int = 0
    flagged_share: float | None = optional_key()


class ClassCounts(DocumentPart):
    """Samples of a predicted class; the false positive rate on clean ones is None where the truth is not known."""

    number: int = Field(alias="class")
    reference: int
    audited: int
    flagged: int
    fpr: float | None = None


class Histogram(DocumentPart):
    """Counts of scores in bins: one edge more than counts, or none at all where nothing has a score."""

    edges: tuple[float, ...] = ()
    calibration: tuple[int, ...] = ()
    audited: tuple[int, ...] = ()


class Influence(DocumentPart):
    """A trusted sample, and its influence on an audited one."""

    sample_id: str
    influence: float | None = None


class TopSample(DocumentPart):
    """One of the flagged samples of largest score."""

    sample_id: str
    source: str
    row: int
    score: float | None = None
    p_value: float | None = None
    q_value: float | None = None
    prediction: int
    confidence: float | None = None
    top_trusted: tuple[Influence, ...] = ()


class FlatSample(DocumentPart):
    """An audited sample without a gradient; the p-value is that of a score above all others."""

    sample_id: str
    source: str
    row: int
    prediction: int
    confidence: float | None = None
    p_value: float | None = None
    flagged: bool = False


class FlatSummary(DocumentPart):
    """The audited samples without a gradient: how many, their share, how many are flagged, and the first of them."""

    count: int
    share: float | None = None
    flagged: int
    samples: tuple[FlatSample, ...] = ()


class ScreeningSummary(DocumentPart):
    """Trusted samples that screening suspects; `flagged_unscreened` is None unless suspects were taken out."""

    suspects: tuple[str, ...] = ()
    suspects_total: int = 0
    suspects_of_calibration: int = 0
    flagged_unscreened: int | None = None
    classes: tuple[dict[str, JsonValue], ...] = ()
    too_small: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()


class ChainSummary(DocumentPart):
    """How far a chain of sampled weights went (see `pipeline.stages.reporting.chain_diagnostics`)."""

    loss_at_trained_weights: float
    loss_inflation: float
    distance: float
    drift: float
    autocorrelation_time: float


class SamplingSummary(DocumentPart):
    """How well chains of weights have sampled."""

    draws_kept: int
    autocorrelation_time: float
    effective_sample_size: float
    loss_inflation: float
    drift: float
    chains: tuple[ChainSummary, ...] = ()
    warnings: tuple[str, ...] = ()


def named_class(number: int, names: Sequence[str]) -> str:
    """A class as `cat (3)`, or as `3` where nobody names the classes."""
    return f"{names[number]} ({number})" if 0 <= number < len(names) else str(number)


class Facts(Document):
    """What follows from scores, calibration and truth alone."""

    format: int = Field(RECORD_FORMAT, alias="schema")
    counts: Counts
    verdict: ModelVerdict
    calibration: Calibration = Calibration()
    evaluation: Evaluation | None = None
    controls: dict[str, Control] | None = None
    classes: tuple[ClassCounts, ...] = ()
    histogram: Histogram = Histogram()
    top_flagged: tuple[TopSample, ...] = ()
    warnings: tuple[str, ...] = ()
    flat: FlatSummary | None = optional_key()
    screening: ScreeningSummary | None = optional_key()
    sampling: SamplingSummary | None = optional_key()
    class_names: tuple[str, ...] | None = optional_key()

    def class_named(self, number: int) -> str:
        """A class for a reader: its name and its number, or the number alone."""
        return named_class(number, self.class_names or ())
