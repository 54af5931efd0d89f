"""The probe of a model as a task: a worker loads the model, and what it found out travels back as a small value."""

from collections.abc import Callable
from dataclasses import dataclass, field

from infra.commits import Measures
from infra.events import Stopwatch, peak_memory_bytes
from infra.execution.threads import run_in_compute_thread
from pipeline.config.audit_config import AuditConfig
from pipeline.config.schema import ModelConfig
from pipeline.data.sources import Source
from pipeline.errors import SourceError
from pipeline.models.identity import identify
from pipeline.planning.probe.found import Probe
from pipeline.planning.probe.model import probe
from pipeline.planning.probe.shapes import probe_shapes

Report = Callable[[str, str], None]


def silent(model: str, doing: str) -> None:
    """Reports nothing."""


@dataclass(frozen=True)
class ProbeTask:
    """A model to probe, with its trusted samples, and the code of its architecture's file if that has been read."""

    model: str
    trusted: tuple[Source, ...] = field(compare=False)
    source: bytes | None = field(default=None, compare=False, repr=False)


class ProbeWorker:
    """Probes models."""

    def __init__(self, config: AuditConfig, report: Report = silent):
        """A worker that has loaded nothing yet; `report` is told what is being done, with the name of the model."""
        self._config, self._report = config, report

    def __call__(self, task: ProbeTask) -> tuple[Probe, Measures]:
        """What a probe found, and what it cost.

        Raises:
            SourceError: the model cannot be loaded, does not accept the trusted samples, or changed meanwhile.
            ModelError: its outputs are random or mix samples, or none of its layers can be covered.
        """
        model = next(one for one in self._config.models if one.name == task.model)
        before, watch = identify(self._config, model), Stopwatch()
        found = run_in_compute_thread(self._probe, model, task)
        if identify(self._config, model) != before:
            raise SourceError(f"{model.described}: its files changed while they were read; run again")
        rows = sum(source.rows for source in task.trusted)
        return found, Measures(rows=rows, seconds=watch.seconds, peak_memory_bytes=peak_memory_bytes())

    def _probe(self, model: ModelConfig, task: ProbeTask) -> Probe:
        """From shapes alone where the model is not to be loaded."""
        found = probe_shapes(self._config, model, task.trusted, task.source)
        if found is not None:
            return found
        return probe(self._config, model, task.trusted, lambda doing: self._report(task.model, doing), task.source)
