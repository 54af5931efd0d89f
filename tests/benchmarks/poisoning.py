"""Trusted sets with triggered samples, and attacks from rare to common: plain, screened, transductive.

A share of the 2,000 trusted samples is replaced by triggered ones that carry the target's label; the calibration part
is drawn from the same set. They are the last 200 triggered samples of the audited file; the first 300 are what is
audited, with all 2,000 clean samples. A prevalence is the share of triggered samples among the audited ones.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import JsonValue

from pipeline.results.audit import Audit
from tests.benchmarks.zoo import Figures, Zoo, figures, triggered

SHARES, PREVALENCES = (0.0, 0.01, 0.05, 0.1), (0.002, 0.02)


AUDITED_TRIGGERED = 300


WAYS: dict[str, dict[str, JsonValue]] = {
    "plain": {},
    "transductive": {"curvature": {"transductive": True}},
    "screened": {"calibration": {"screen": True}},
}


def figures_of(zoo: Zoo, model: str) -> Iterator[tuple[str, Figures]]:
    """Figures of one model, by how its trusted and audited sets are made."""
    whole, clean_trusted = pq.read_table(zoo.data(f"audited-{model}")), pq.read_table(zoo.data("trusted"))
    marks = triggered(whole)
    clean, attacks = np.flatnonzero(~marks), np.flatnonzero(marks)
    audited = zoo.made(
        f"poisoning-{model}", whole.take(pa.array(np.sort(np.concatenate([clean, attacks[:AUDITED_TRIGGERED]]))))
    )
    for share in SHARES:
        poison = whole.take(pa.array(attacks[AUDITED_TRIGGERED:][: round(share * len(clean_trusted))]))
        trusted = zoo.made(f"trusted-{share:g}-{model}", poisoned(clean_trusted, poison))
        for name, sections in WAYS.items():
            audit = zoo.audit(model, "poisoning", trusted, audited, **sections)
            yield (
                f"{share:.0%} poisoned, {name}",
                figures(audit, model, audited) | (dropped(audit, model, poison) if name == "screened" else {}),
            )
    for prevalence in PREVALENCES:
        few = attacks[: round(prevalence * len(clean) / (1 - prevalence))]
        rare = zoo.made(
            f"prevalence-{prevalence:g}-{model}", whole.take(pa.array(np.sort(np.concatenate([clean, few]))))
        )
        for name, sections in WAYS.items():
            audit = zoo.audit(model, "poisoning", _first(zoo, model), rare, **sections)
            yield f"{prevalence:.1%} triggered, {name}", figures(audit, model, rare)


def poisoned(trusted: pa.Table, poison: pa.Table) -> pa.Table:
    """The trusted set, its first samples replaced by triggered ones with the target's label."""
    labelled = poison.select(["id", "image"]).append_column(
        trusted.schema.field("label"), poison.column("target").cast(trusted.schema.field("label").type)
    )
    return pa.concat_tables([labelled.cast(trusted.schema), trusted.slice(len(poison))])


def dropped(audit: Audit, model: str, poison: pa.Table) -> Figures:
    """How many triggered and clean trusted samples were screened out."""
    screening = audit.summary(model).screening
    assert screening is not None
    suspects = set(screening.suspects)
    planted = set(poison.column("id").to_pylist())
    return {"dropped_poison": float(len(suspects & planted)), "dropped_clean": float(len(suspects - planted))}


def _first(zoo: Zoo, model: str) -> Path:
    return zoo.cache / "files" / f"trusted-0-{model}.parquet"
