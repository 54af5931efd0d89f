"""Small pictures of the top flagged samples, made anew from decoded pixels: no byte of an audited file reaches a page."""

import base64
import io
import json
from collections.abc import Mapping, Sequence

from PIL import Image
from pydantic import JsonValue

from infra.commits import read_file
from infra.errors import StorageError
from infra.storage.storage import Storage
from pipeline.artifacts.scores import IMAGES
from pipeline.data.images import UnreadableImage, decode, read_image
from pipeline.data.sources import Source
from pipeline.planning.plan import ModelPlan
from pipeline.planning.recipe import EarlierRun

LONGEST_SIDE = 96


PICTURES_VERSION = 1


def stored_thumbnails(
    storage: Storage, run: EarlierRun, entries: Sequence[Mapping[str, JsonValue]]
) -> dict[str, JsonValue]:
    """A document like that of `thumbnails`, of the pictures that an earlier run's report has of these entries; no audited file is read."""
    path = f"{run.report}/{IMAGES}"
    earlier = json.loads(read_file(storage, path))["pictures"] if storage.exists(path) else {}
    places = [f"{entry['source']}#{entry['row']}" for entry in entries]
    return {"schema": PICTURES_VERSION, "pictures": {place: earlier[place] for place in places if place in earlier}}


def thumbnails(
    plan: ModelPlan, sources: Mapping[str, Source], entries: Sequence[Mapping[str, JsonValue]]
) -> dict[str, JsonValue]:
    """A document of PNG data URIs by `<source>#<row>`; an image that cannot be read any more is left out, and texts have none."""
    by_name = {source.file.name: source for source in sources.values()}
    pictures: dict[str, JsonValue] = {}
    for entry in () if plan.config.is_text else entries:
        name, row = str(entry["source"]), int(str(entry["row"]))
        try:
            pixels = decode(read_image(by_name[name], row), None, resize=False)
        except (UnreadableImage, StorageError):
            continue
        image = Image.fromarray(pixels)
        image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        sink = io.BytesIO()
        image.save(sink, "PNG")
        pictures[f"{name}#{row}"] = "data:image/png;base64," + base64.b64encode(sink.getvalue()).decode()
    return {"schema": PICTURES_VERSION, "pictures": pictures}
