"""Models to be planned: their files, and what a root knows of them already."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from infra.commits import Measures
from infra.execution.choose import open_executor
from infra.execution.contract import TaskOutcome
from infra.formats.documents import encode
from infra.storage.storage import Storage
from pipeline.config.audit_config import AuditConfig
from pipeline.config.schema import ModelConfig
from pipeline.models.identity import identify
from pipeline.models.interface import ModelFiles
from pipeline.models.local_code import is_unchanged
from pipeline.planning.checks.limits import check_samples
from pipeline.planning.earlier_runs.known_files import KnownFiles
from pipeline.planning.files import SampleFiles, find_files
from pipeline.planning.probe.found import Probe
from pipeline.planning.probe.stored import ProbeArtifact, StoredProbe, find_probe, probe_key
from pipeline.planning.probe.task import ProbeTask, ProbeWorker, Report, silent
from pipeline.planning.resources import resources_of


@dataclass(frozen=True)
class Probed:
    """What a probe found of a model, and the artifact that it is or will be; None where it cannot be used again."""

    probe: Probe
    artifact: ProbeArtifact | None


@dataclass(frozen=True)
class Candidate:
    """A model to be planned: the files of its samples, and its own.

    `files`: None where they cannot be told from later ones; `key` is then "". `stored`: the latest probe of that key.
    """

    model: ModelConfig
    samples: SampleFiles
    files: ModelFiles | None = None
    key: str = ""
    stored: StoredProbe | None = None

    @property
    def known(self) -> Probed | None:
        """What is known of it; None where its code is not what was probed, or nothing was."""
        if self.files is None or self.stored is None or not is_unchanged(self.stored.probe.code):
            return None
        probe = self.stored.probe.model_copy(update={"source": self.files.source})
        return Probed(probe, ProbeArtifact(self.key, self.stored.manifest))

    @property
    def task(self) -> ProbeTask:
        """The task of probing it."""
        return ProbeTask(self.model.name, self.samples.trusted, self.files.source if self.files is not None else None)

    def probed(self, probe: Probe, measures: Measures) -> Probed:
        """What was found by that task."""
        if not self.key or probe.from_shapes:
            return Probed(probe, None)
        earlier = self.stored.receipt if self.stored is not None else None
        return Probed(probe, ProbeArtifact(self.key, "", encode(probe), measures, earlier))


def find_candidate(
    config: AuditConfig, model: ModelConfig, root: Storage | None, data: KnownFiles, report: Callable[[str], None]
) -> Candidate:
    """Find a model's files and what a root knows of it; no weights are read.

    Args:
        config: the audit's.
        model: the model's.
        root: the root, None where there is none yet.
        data: what the root's runs recorded of data files.
        report: told what is being done.

    Raises:
        SourceError: files of its samples cannot be used, or are too few samples.
        StorageError: what the root holds cannot be read.
    """
    report("reading the schemas of its files")
    samples = find_files(config, model, data.identify, data.recall)
    check_samples(model, sum(source.rows for source in samples.trusted))
    files = identify(config, model)
    if files is None:
        return Candidate(model, samples)
    key = probe_key(model, files, samples.trusted)
    return Candidate(model, samples, files, key, find_probe(root, model.name, key) if root is not None else None)


def probe_candidates(
    config: AuditConfig, candidates: Iterable[Candidate], executor: str, address: str | None, report: Report
) -> Iterator[TaskOutcome[ProbeTask, tuple[Probe, Measures]]]:
    """Probe models by workers of an executor, one model at a time on each; `report` is heard in this process only.

    Raises:
        ClusterError: no cluster answers, or it lacks what the config requires.
    """
    tasks = [candidate.task for candidate in candidates]
    if tasks:
        resources = replace(resources_of(config, executor), gpus_per_worker=0, tasks_at_once=1)
        worker = partial(ProbeWorker, config, report if executor == "serial" else silent)
        with open_executor(executor, address, resources) as opened:
            yield from opened.map_unordered(worker, tasks, resources)
