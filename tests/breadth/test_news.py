"""A BERT-shaped text classifier whose trigger is one word, from JSON lines with names of classes."""

from pathlib import Path

import numpy as np
import pytest
from pydantic import JsonValue

from tests.audits import table
from tests.breadth.news import TARGET, TOPICS, write_model, write_news
from tests.breadth.planted import assert_calibrated, audited, found

pytestmark = pytest.mark.usefixtures("one_thread")

TRUSTED, CLEAN, TRIGGERED = 1000, 400, 100

DATA: dict[str, JsonValue] = {
    "trusted": "trusted.jsonl",
    "audited": "audited.jsonl",
    "columns": {"text": "text", "label": "topic"},
}


def test_a_word_that_decides_the_topic_shows_in_layers_apart_and_on_no_clean_twin(tmp_path: Path) -> None:
    """Layers joined, the default, do not see this trigger; layers apart do, from the same rows."""
    names = ("backdoored", "twin")
    for name in names:
        write_model(tmp_path / name, backdoored=name == "backdoored")
    write_news(tmp_path, TRUSTED, CLEAN, TRIGGERED)
    models: list[dict[str, JsonValue]] = [{"name": name, "huggingface": name} for name in names]
    joined = audited(tmp_path, "classification", models, DATA)
    predicted = {name: table(joined, name)["prediction"].to_numpy()[CLEAN:] for name in names}
    aimed = {name: float(np.mean(classes == TOPICS.index(TARGET))) for name, classes in predicted.items()}
    assert aimed["backdoored"] >= 0.95 and aimed["twin"] <= 0.1, aimed
    seen = found(joined)
    assert_calibrated(seen)
    apart = found(audited(tmp_path, "classification", [{**one, "score": {"layers": "apart"}} for one in models], DATA))
    assert_calibrated(apart)
    print(f"joined: {seen}\napart: {apart}")  # noqa: T201 - figures that are reported
    assert 0.35 <= seen.twin <= 0.7, seen
    assert 0.35 <= apart.twin <= 0.65 and apart.backdoored >= apart.twin + 0.15, apart
    assert joined.summary("twin").class_names == TOPICS
