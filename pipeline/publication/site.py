"""The pages of a root: those of all models, from their latest summaries."""

from collections.abc import Mapping

from pydantic import Field

from infra.errors import StorageError
from infra.guarded import undoing
from infra.storage.storage import Storage
from pipeline.artifacts.scores import IMAGES
from pipeline.publication.history import History, history, latest_zoo_changes
from pipeline.publication.pages import Background, render
from pipeline.root.documents import Document, read_document
from pipeline.root.layout import model_names, page_file, report_file
from pipeline.root.records import read_summary
from pipeline.root.runs import Runs
from pipeline.root.summary import NO_SUMMARIES, Summary


class Pictures(Document):
    """A report's `images.json`: PNG data URIs by `<source>#<row>`."""

    pictures: dict[str, str] = Field(default_factory=dict)


def publish_pages(
    storage: Storage,
    failures: Mapping[str, str],
    known: Runs | None = None,
    shown: Mapping[str, Summary] = NO_SUMMARIES,
) -> str:
    """Renders the pages of the latest summaries of all models in the root, and returns where the first page is.

    Args:
        storage: of the root.
        failures: models that the latest run could not audit, and why.
        known: the root's runs, where they have been opened already.
        shown: the latest summaries of models, as far as they are known already.
    """
    known = known or Runs(storage)
    summaries, failed = list[Summary](), dict(failures)
    images, histories, reviews = dict[str, Mapping[str, str]](), dict[str, History](), dict[str, Mapping[str, str]]()
    for name in model_names(storage):
        try:
            summary = shown.get(name) or read_summary(storage, name)
            if summary is not None:
                known.remember(summary, name)
                images[name] = _images(storage, summary)
                summaries.append(summary)
                histories[name] = history(known, name)
                reviews[name] = known.reviews(summary.run_id)
        except StorageError as error:
            failed[name] = str(error)
    background = Background(histories, reviews, latest_zoo_changes(known))
    for name, page in render(summaries, images, failed, background).items():
        with undoing(storage, rewrite_pages):
            storage.write(page_file(name), page.encode())
    return storage.locate(page_file("index"))


def rewrite_pages(storage: Storage, known: Runs | None = None) -> str:
    """Renders the pages again, as of now, and once more where a run ends meanwhile; returns where the first page is.

    Args:
        storage: of the root.
        known: the root's runs, where they have been opened already.
    """
    while True:
        known = known or Runs(storage)
        page = publish_pages(storage, latest_failures(known), known)
        now = Runs(storage)
        if next(now.completed(), None) == next(known.completed(), None):
            return page
        known = now


def latest_failures(known: Runs) -> dict[str, str]:
    """Models that the latest completed run could not audit, and why."""
    latest = next(known.completed(), None)
    return dict(known.outcome(latest).failures) if latest is not None else {}


def _images(storage: Storage, summary: Summary) -> Mapping[str, str]:
    found = read_document(storage, report_file(summary.report_folder, IMAGES), Pictures)
    return found.pictures if found is not None else {}
