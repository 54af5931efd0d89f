"""What identifies a data file: its size and version, or its contents.

Contents do where the config asks for them, where a store tells no version, and where a file of a disk was found in
another state than a run recorded it in, with the same size and time of modification but other bytes.
"""

from collections.abc import Callable
from dataclasses import replace

from infra.storage.identity import NO_VERSION, InputFile
from infra.storage.pins import digest_of
from pipeline.config.schema import ModelConfig

Identify = Callable[[InputFile, ModelConfig], InputFile]

Digest = Callable[[InputFile], str]


def identify(file: InputFile, model: ModelConfig) -> InputFile:
    """A file that no run has recorded; raises as `identify_again`."""
    return identify_again(file, None, by_contents(file, model), digest_of)


def by_contents(file: InputFile, model: ModelConfig) -> bool:
    """Whether the contents of a file identify it, whatever else is known of it."""
    return model.data.identity == "contents" or file.version in NO_VERSION


def identify_again(file: InputFile, known: InputFile | None, contents: bool, digest: Digest) -> InputFile:
    """A file with what identifies it.

    Args:
        file: as it is now.
        known: the file at the same place as a run recorded it, None where none did.
        contents: whether its contents identify it in any case.
        digest: reads a file's contents.

    Raises:
        StorageError: it has to be read, and cannot be.
    """
    same = known if known is not None and _same_version(file, known) else None
    if same is not None and same.contents and _same_sighting(file, same):
        return replace(file, contents=same.contents, by_contents=contents or same.by_contents)
    if contents:
        return replace(file, contents=digest(file), by_contents=True)
    if same is None or same.seen is None or _same_sighting(file, same):
        return file  # new, or recorded by an early version of mad, or not read to its end before
    found = digest(file)
    return replace(file, contents=found, by_contents=same.by_contents or found != same.contents)


def _same_version(file: InputFile, known: InputFile) -> bool:
    return file.version not in NO_VERSION and (file.size, file.version) == (known.size, known.version)


def _same_sighting(file: InputFile, known: InputFile) -> bool:
    if file.seen is None or known.seen is None:
        return file.seen is known.seen
    return file.seen.same_file(known.seen)
