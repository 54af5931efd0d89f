"""Probing a model: it is loaded once, run on a few trusted samples, and checked against autograd."""

from collections.abc import Sequence

from pipeline.config.audit_config import AuditConfig
from pipeline.config.schema import ModelConfig
from pipeline.data.sources import Source
from pipeline.models.load import load_model
from pipeline.planning.probe.found import Probe
from pipeline.planning.probe.rows import Report
from pipeline.planning.probe.texts import probe_texts
from pipeline.planning.probe.vectors import probe_vectors
from pipeline.tasks.measured import by_number


def probe(
    config: AuditConfig,
    model: ModelConfig,
    trusted: Sequence[Source],
    report: Report = lambda _: None,
    source: bytes | None = None,
) -> Probe:
    """Load a model and check its forward pass, and its layers against autograd.

    Args:
        config: the audit's.
        model: the model's.
        trusted: its trusted samples, of which a few are used.
        report: told what is being done.
        source: the code of its architecture file, where it has been read before.

    Raises:
        SourceError: the model cannot be loaded, or does not accept the trusted samples.
        ModelError: its outputs are random or mix samples, or none of its layers can be covered.
    """
    report("loading the model")
    loaded = load_model(config, model, source)
    model = by_number(model, loaded.known.class_names)
    if loaded.limits is None:
        return probe_vectors(loaded, model, trusted, report)
    return probe_texts(loaded, loaded.limits, model, trusted, report)
