"""The split of the trusted set: which samples explain, which calibrate, and which do neither."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from infra.storage.identity import InputFile
from infra.storage.storage import Storage
from madcore import screen, split_order
from madcore.scoring.calibration import calibration_size
from pipeline.artifacts.parts import RowsPart
from pipeline.artifacts.rows import SCORING_BLOCK, read_blocks
from pipeline.artifacts.samples import read_samples
from pipeline.artifacts.screening import ClassModes, Screening
from pipeline.artifacts.trusted import TrustedPart, TrustedSamples
from pipeline.artifacts.truth import read_stored_truth
from pipeline.data.statuses import NO_CLASS, UNREADABLE
from pipeline.data.truth import UNKNOWN, Truth, join_truth, read_truth
from pipeline.errors import StageError
from pipeline.planning.plan import ModelPlan


def split_trusted(
    storage: Storage, plan: ModelPlan, parts: tuple[RowsPart, ...], truth: Truth
) -> tuple[TrustedSamples, Screening | None]:
    """Split the trusted samples: calibration first, unfiltered; of the rest, those predicted correctly are references.

    The trusted set of a classifier is screened; with `calibration.screen`, suspects then leave both parts. Samples that
    are dropped by their ids are ignored. Samples without a gradient explain nothing, whatever is predicted of them.

    Args:
        storage: of the root.
        plan: the model's.
        parts: the rows of the trusted set.
        truth: of all trusted samples.

    Returns:
        The samples without scores, and what screening found, None where nothing was screened.

    Raises:
        StageError: no reference sample is left.
    """
    ids, readable, correct, predictions = list[str](), list[bool](), list[bool](), list[Tensor]()
    flat, all_labels = set[int](), torch.from_numpy(truth.label)
    if plan.config.untrained:  # which is right by chance
        all_labels = torch.full_like(all_labels, UNKNOWN)
    for stored in parts:
        samples = read_samples(storage, stored).recognised()
        labels = all_labels[len(ids) : len(ids) + len(samples.ids)]
        flat.update((len(ids) + torch.nonzero(samples.flat).flatten()).tolist())
        ids += samples.ids
        readable += [not status.startswith(UNREADABLE) for status in samples.statuses]
        correct += (samples.ok & ((labels == UNKNOWN) | (labels == samples.predictions))).tolist()
        predictions.append(samples.predictions)
    assigned = assign_parts(ids, readable, correct, plan)
    for place in flat:
        assigned[place] = "flat" if assigned[place] == "filtered" else assigned[place]
    trusted = TrustedSamples(ids, assigned, torch.cat(predictions), np.full(len(ids), np.nan), frozenset(flat))
    screening = None
    if plan.config.screened:
        trusted, screening = _screen(trusted, rows_of(storage, plan, parts), plan)
    if "reference" not in trusted.parts:
        raise StageError(_no_references(plan, trusted, sum(readable)))
    return trusted, screening


def _no_references(plan: ModelPlan, trusted: TrustedSamples, readable: int) -> str:
    """Why there is nothing to compare with."""
    lacking, flat = "has a finite gradient; check the weights", len(trusted.of("flat"))
    if plan.config.has_classes:
        lacking = "is predicted correctly; check the labels and data.preprocess"
    if flat:
        lacking = (
            f"has a gradient that can explain anything: {flat:,} have none (status flat: the outputs do not depend on "
            "the weights, as clamped, constant or certain ones do not); audit the model's logits"
        )
    return (
        f"the reference part is empty: of {readable} readable trusted samples, none outside the "
        f"calibration part {lacking}"
    )


def truth_of_trusted(storage: Storage, plan: ModelPlan, parts: tuple[RowsPart, ...]) -> Truth:
    """The truth of all trusted samples, (m,) each: as an earlier run kept it, or else from their files."""
    if plan.stored is not None and plan.stored.labels:
        return read_stored_truth(storage, plan.stored.labels)
    sources = {source.key: source for source in plan.trusted}
    return join_truth(
        [read_truth(sources[stored.source_key], stored.start, stored.stop, plan.class_names) for stored in parts]
    )


def files_of_truth(plan: ModelPlan) -> list[InputFile]:
    """The files that `truth_of_trusted` reads."""
    stored = plan.stored is not None and plan.stored.labels
    return [] if stored else [source.file for source in plan.trusted if "label" in source.truth]


def rows_of(storage: Storage, plan: ModelPlan, parts: tuple[RowsPart, ...]) -> Tensor:
    """All rows of parts, (m, k)."""
    return torch.cat(
        [rows for stored in parts for rows, _ in read_blocks(storage, stored, plan.row_reader, SCORING_BLOCK)]
    )


def _screen(samples: TrustedSamples, rows_mk: Tensor, plan: ModelPlan) -> tuple[TrustedSamples, Screening]:
    """Screen the reference and calibration parts; returns the samples, suspects set apart if asked, and findings.

    Samples whose gradient is not finite have no class, and are left out; so are those without one.
    """
    parts, classes_m = samples.parts, samples.predictions.clone()
    classes_m[torch.tensor([part not in ("reference", "calibration") for part in parts])] = NO_CLASS
    classes_m[sorted(samples.flat)] = NO_CLASS
    found = screen(rows_mk, classes_m, plan.layout)
    suspects, assigned = found.suspects.tolist(), list(parts)
    for place in suspects if plan.config.calibration.screen else ():
        assigned[place] = "suspect calibration" if parts[place] == "calibration" else "suspect"
    classes = [
        ClassModes(
            predicted=modes.predicted,
            samples=modes.samples,
            separation=modes.separation,
            z=modes.z,
            share=modes.share,
            stands_out=modes.stands_out,
            decidable=modes.decidable,
        )
        for modes in found.modes
    ]
    names = [samples.ids[place] for place in suspects]
    screening = Screening(suspects=names, classes=classes, too_small=list(found.too_small))
    return replace(samples, parts=assigned), screening


def assign_parts(ids: list[str], readable: list[bool], correct: list[bool], plan: ModelPlan) -> list[TrustedPart]:
    """The part of each sample before screening; the calibration part is drawn from all readable, undropped ones."""
    parts: list[TrustedPart] = [
        "reference" if right else "filtered" if can else "unreadable"
        for can, right in zip(readable, correct, strict=True)
    ]
    dropped = set(plan.dropped)
    parts = ["dropped" if name in dropped else part for name, part in zip(ids, parts, strict=True)]
    candidates = [index for index, part in enumerate(parts) if part not in ("unreadable", "dropped")]
    order = split_order([ids[index] for index in candidates], plan.config.calibration.seed)
    for place in order[: calibration_size(len(candidates), plan.config.calibration.fraction)]:
        parts[candidates[place]] = "calibration"
    return parts
