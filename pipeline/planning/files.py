"""The files that a model's plan takes: each one usable, the trusted ids unique, none padded without a mask."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from pipeline.config.audit_config import AuditConfig
from pipeline.config.schema import ModelConfig
from pipeline.data.finding.sources import Recall, find_sources, recall_nothing
from pipeline.data.identities import Identify, identify
from pipeline.data.sources import Source, read_ids
from pipeline.data.texts.rows import TextLimits
from pipeline.errors import SourceError
from pipeline.planning.checks.labels import strange_names
from pipeline.planning.checks.padding import check_padding, refuse_padded
from pipeline.planning.checks.token_types import check_token_types, refuse_token_types


@dataclass(frozen=True)
class SampleFiles:
    """The files of a model's samples. `sampling`: none without loss traces. `refused`: why others are left out."""

    trusted: tuple[Source, ...]
    audited: tuple[Source, ...]
    sampling: tuple[Source, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)

    def without_padded(self, limits: TextLimits) -> "SampleFiles":
        """The files of texts without audited ones that look padded.

        Raises:
            SourceError: all of those do, or a file of another kind does.
        """
        check_padding((*self.trusted, *self.sampling), limits)
        return self._without(refuse_padded(self.audited, limits))

    def without_token_types(self) -> "SampleFiles":
        """The files of texts without audited ones that have token types.

        Raises:
            SourceError: all of those do, or a file of another kind does.
        """
        check_token_types((*self.trusted, *self.sampling))
        return self._without(refuse_token_types(self.audited))

    def without_features(self, names: Sequence[str]) -> "SampleFiles":
        """The files, those with the classes of the model in its own order like files that name none."""

        def plain(source: Source) -> Source:
            other = tuple(
                (role, own) for role, own in source.features if own != tuple(names) and role not in source.named
            )
            return replace(source, features=other) if names else source

        trusted, audited, sampling = (tuple(map(plain, own)) for own in (self.trusted, self.audited, self.sampling))
        return SampleFiles(trusted, audited, sampling, self.refused)

    def with_known_names(self, names: Sequence[str]) -> "SampleFiles":
        """The files without audited ones whose labels or targets are names that no class has.

        Raises:
            SourceError: all of them have such.
        """
        return self._without(strange_names(self.audited, names))

    def _without(self, refused: Mapping[str, str]) -> "SampleFiles":
        if len(refused) == len(self.audited):
            raise SourceError("; ".join(refused.values()))
        whole = tuple(source for source in self.audited if source.file.name not in refused)
        return replace(self, audited=whole, refused={**self.refused, **refused})


def find_files(
    config: AuditConfig, model: ModelConfig, identified: Identify = identify, recall: Recall = recall_nothing
) -> SampleFiles:
    """Find the files of a model's samples, and read their schemas; `identified` and `recall` as in `find_sources`.

    Raises:
        SourceError: a trusted or sampling file, or every audited one, cannot be used; trusted ids are repeated; or a
            sample of the sampling set has the id of a trusted one.
    """
    trusted, refused = find_sources(config, model, "trusted", identified, recall)
    if refused:
        raise SourceError("; ".join(refused.values()))
    audited, refused_files = find_sources(config, model, "audited", identified, recall)
    sampling = _find_sampling(config, model, trusted, identified, recall) if model.traced is not None else []
    _refuse_repeated_ids(trusted)
    return SampleFiles(tuple(trusted), tuple(audited), tuple(sampling), refused_files)


def _find_sampling(
    config: AuditConfig, model: ModelConfig, trusted: Sequence[Source], identified: Identify, recall: Recall
) -> list[Source]:
    """The files of the sampling set.

    Raises:
        SourceError: a file cannot be used, or a sample has the id of a trusted one.
    """
    sampling, refused = find_sources(config, model, "sampling", identified, recall)
    if refused:
        raise SourceError("; ".join(refused.values()))
    known = {name for source in trusted for ids in read_ids(source) for name in ids if name is not None}
    shared = [name for source in sampling for ids in read_ids(source) for name in ids if name in known]
    if shared:
        shown, samples = ", ".join(repr(name) for name in shared[:3]), sum(source.rows for source in sampling)
        raise SourceError(
            f"estimator.sampling: {len(shared):,} of {samples:,} samples have the id of a trusted one ({shown}); "
            "weights sampled on trusted samples would explain them better than others; name files of other clean ones"
        )
    return sampling


def _refuse_repeated_ids(trusted: Sequence[Source]) -> None:
    seen: set[str] = set()
    repeated: list[str] = []
    for name in chain.from_iterable(ids for source in trusted for ids in read_ids(source)):
        if name is not None and name in seen:
            repeated.append(name)
        elif name is not None:
            seen.add(name)
    if repeated:
        shown = ", ".join(repr(name) for name in repeated[:3])
        raise SourceError(
            f"data.trusted: {len(repeated)} repeated ids among {len(seen) + len(repeated):,} samples ({shown}); "
            "the split needs each id once"
        )
