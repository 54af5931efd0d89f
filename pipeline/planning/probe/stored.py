"""Probes under a root: under which key a probe is committed, and how it is found again.

The key holds what a probe depends on, and no more: the model's files, known without reading its weights; the settings
of the model, its samples and its rows; the trusted samples; and the versions of what computes, mad's with its source.
So a model that did not change is planned without being loaded. Its code is known by contents: the probe names the
modules that it found the model to be made of, and is not used once one of them differs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from infra.commits import Measures, Receipt, read_file
from infra.formats.documents import parse
from infra.storage.storage import Storage
from infra.version import installed_version, source_digest
from pipeline.config.schema import ModelConfig
from pipeline.data.sources import Source
from pipeline.keys import key_of
from pipeline.models.interface import ModelFiles
from pipeline.planning.probe.found import Probe
from pipeline.root.logs import probe_log

PROBE_FORMAT = 1

TASK, DOCUMENT = "probe", "probe.json"

COMPUTING = ("torch", "transformers")

NOT_PROBED = ("name", "data", "curvature", "score", "calibration")


@dataclass(frozen=True)
class ProbeArtifact:
    """A probe as it is published under a root, by its manifest; or a new one: the document, what it cost, its place.

    `supersedes`: the receipt of an earlier one of the same key, whose code has changed since.
    """

    key: str
    manifest: str = ""
    document: bytes = field(default=b"", repr=False)
    measures: Measures | None = None
    supersedes: Receipt | None = None

    @property
    def is_published(self) -> bool:
        """Whether the root holds it already."""
        return bool(self.manifest)

    def publish(self, storage: Storage, model: str) -> str:
        """Commit and publish the probe of a model where it is new; returns the path of its manifest."""
        if self.measures is None:
            return self.manifest
        log = probe_log(storage, model, self.key)
        return log.publish([log.commit(TASK, {DOCUMENT: self.document}, self.measures, self.supersedes)])


@dataclass(frozen=True)
class StoredProbe:
    """A probe that is published under a root, its receipt, and the manifest that lists it."""

    probe: Probe
    receipt: Receipt
    manifest: str


def probe_key(model: ModelConfig, files: ModelFiles, trusted: Sequence[Source]) -> str:
    """The key of a model's probe."""
    read = {name: getattr(model.data, name).model_dump(mode="json") for name in ("columns", "preprocess")}
    return key_of(
        format=PROBE_FORMAT,
        files=list(files.lines),
        settings={
            **model.model_dump(mode="json", exclude={*NOT_PROBED}),
            **read,
            "preprocesses": model.data.preprocesses,
        },
        trusted=[source.key for source in trusted],
        versions=dict(_versions()),
    )


def find_probe(storage: Storage, model: str, key: str) -> StoredProbe | None:
    """The latest probe of a model that is published under a key; None where there is none.

    Raises:
        Corrupt: it is damaged.
    """
    log = probe_log(storage, model, key)
    published = [(receipt, path) for path in log.manifests() for receipt in log.manifest(path).receipts]
    if not published:
        return None
    receipt, manifest = max(published, key=lambda one: one[0].generation)
    path = f"{log.attempt_folder(receipt)}/{DOCUMENT}"
    return StoredProbe(parse(read_file(storage, path, receipt.content), Probe, storage.locate(path)), receipt, manifest)


@cache
def _versions() -> Mapping[str, str]:
    found = {"mad": f"{installed_version()} {source_digest('madcore', 'pipeline')}"}
    for package in COMPUTING:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # an extra
            continue
    return found
