"""Small pictures of the top flagged samples.

They are encoded again from decoded pixels: no byte of an audited file reaches a page.
"""

import base64
import io
import json
from collections.abc import Mapping, Sequence

from PIL import Image
from pydantic import JsonValue

from infra.commits import read_file
from infra.storage.storage import Storage
from pipeline.artifacts.scores import IMAGES
from pipeline.data.images.decoding import UnreadableImage, decode
from pipeline.data.images.reading import read_chosen_images
from pipeline.data.sources import Source
from pipeline.planning.plan import ModelPlan
from pipeline.planning.recipe import EarlierRun

LONGEST_SIDE = 96

PICTURES_VERSION = 1

Entry = Mapping[str, JsonValue]


def stored_thumbnails(storage: Storage, run: EarlierRun, entries: Sequence[Entry]) -> dict[str, JsonValue]:
    """The document of `thumbnails`, of the pictures that an earlier run's report has; no audited file is read."""
    path = f"{run.report}/{IMAGES}"
    earlier = json.loads(read_file(storage, path))["pictures"] if storage.exists(path) else {}
    return _document({place: earlier[place] for place in map(_place, entries) if place in earlier})


def thumbnails(plan: ModelPlan, sources: Mapping[str, Source], entries: Sequence[Entry]) -> dict[str, JsonValue]:
    """A document of PNG data URIs by `<source>#<row>`, in the order of the entries.

    An image that cannot be read any more is left out, and other samples have none. Each file is opened once.
    """
    if plan.config.samples != "images":
        return _document({})
    rows: dict[str, list[int]] = {}
    for entry in entries:
        rows.setdefault(str(entry["source"]), []).append(_row(entry))
    by_name = {source.file.name: source for source in sources.values()}
    encoded = {
        f"{name}#{row}": image
        for name, own in rows.items()
        for row, image in read_chosen_images(by_name[name], own).items()
    }
    pictures = {place: _thumbnail(encoded[place]) for place in map(_place, entries) if place in encoded}
    return _document({place: picture for place, picture in pictures.items() if picture})


def _thumbnail(encoded: bytes | None) -> str:
    """A data URI of an image, "" where it cannot be decoded."""
    try:
        pixels = decode(encoded, None, resize=False)
    except UnreadableImage:
        return ""
    image = Image.fromarray(pixels)
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return "data:image/png;base64," + base64.b64encode(sink.getvalue()).decode()


def _row(entry: Entry) -> int:
    return int(str(entry["row"]))


def _place(entry: Entry) -> str:
    return f"{entry['source']}#{entry['row']}"


def _document(pictures: Mapping[str, str]) -> dict[str, JsonValue]:
    return {"schema": PICTURES_VERSION, "pictures": dict(pictures)}
