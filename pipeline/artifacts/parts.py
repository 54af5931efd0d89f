"""What stages have committed, as later stages find it: folders, and digests of what they hold."""

from dataclasses import dataclass

from infra.commits import CommitLog, Receipt
from pipeline.keys import key_of


@dataclass(frozen=True)
class RowsPart:
    """The committed rows [start, stop) of one source; or, without a folder, why its task failed for good."""

    source: str
    source_key: str
    start: int
    stop: int
    folder: str
    content: str
    failure: str = ""

    @classmethod
    def of(cls, log: CommitLog, receipt: Receipt, source: str = "") -> "RowsPart":
        """The part that a rows task committed.

        `source` is the name of its file, which only the names of later tasks need.
        """
        start, stop = (int(number) for number in receipt.task.split("-"))
        key = log.folder.rpartition("/")[2]
        return cls(source, key, start, stop, log.attempt_folder(receipt), receipt.content)

    @property
    def name(self) -> str:
        """The part's name as a task of a later stage: its range, and a digest of its content and its source's name."""
        return f"{self.start:012d}-{self.stop:012d}-{key_of(content=self.content, source=self.source)[:16]}"


@dataclass(frozen=True)
class CurvatureFolders:
    """The folders of a model's whitening ("" for identity) and references, and a digest of both."""

    factor: str
    references: str
    content: str


@dataclass(frozen=True)
class ScorePart:
    """A committed score part: the range of its source, and its folder."""

    source: str
    source_key: str
    start: int
    stop: int
    folder: str
    content: str
