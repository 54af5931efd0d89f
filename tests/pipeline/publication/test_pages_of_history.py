"""What pages say of earlier runs: what differs since the run before, a line over the runs, and what reviews said."""

import json

import pytest
from pydantic import JsonValue

from pipeline.publication.charts import trend
from pipeline.publication.comparison import Difference
from pipeline.publication.history import History, RunComparison, ZooChanges
from pipeline.publication.pages import Background, render
from pipeline.root.records import ModelResult
from tests.pipeline.publication.test_pages import HOSTILE, Page, summary, typed, with_strings

RUNS = ("20261123T010000000Z-cccc", "20261122T010000000Z-bbbb", "20261121T010000000Z-aaaa")


HISTORY = """
{"format": 1, "runs": [
  {"run_id": "20261123T010000000Z-cccc", "verdict": "unusual inputs", "audited": 1000, "flagged": 200,
   "same_as": null},
  {"run_id": "20261122T010000000Z-bbbb", "verdict": "nothing unusual", "audited": 1000, "flagged": 10,
   "same_as": "20261121T010000000Z-aaaa"},
  {"run_id": "20261121T010000000Z-aaaa", "verdict": "nothing unusual", "audited": 1000, "flagged": 10,
   "same_as": null}],
 "compared": {
  "before": {"run_id": "20261122T010000000Z-bbbb", "verdict": "nothing unusual", "audited": 1000,
   "flagged": 10, "same_as": null},
  "after": {"run_id": "20261123T010000000Z-cccc", "verdict": "unusual inputs", "audited": 1000, "flagged": 200,
   "same_as": null},
  "changed": ["model"],
  "difference": {"common": 900,
   "newly_flagged": {"count": 191, "reviewed": 4, "samples": [
    {"sample_id": "n1", "source": "new.parquet", "row": 5, "prediction": 3, "score": null, "p_value": null,
     "known": false}]},
   "no_longer_flagged": {"count": 7, "reviewed": 0, "samples": [
    {"sample_id": "o1", "source": "old.parquet", "row": 6, "prediction": 2, "score": 0.25, "p_value": 0.001,
     "known": true}]},
   "no_longer_audited": 13,
   "drift": [
    {"predicted": 3, "samples": "same samples", "before": 90, "after": 90, "shift": 0.125, "p_value": 1e-9,
     "q_value": 2e-9, "drifted": true},
    {"predicted": 4, "samples": "other samples", "before": 80, "after": 70, "shift": 0.5, "p_value": 0.5,
     "q_value": 0.5, "drifted": false}]},
  "problem": ""},
 "reviewed": {"benign": 4, "camera fault": 2}}
"""


def history() -> History:
    """A history as it is stored."""
    return History.model_validate(json.loads(HISTORY))


def comparison() -> RunComparison:
    found = history().compared
    assert found is not None
    return found


def zoo() -> ZooChanges:
    return ZooChanges(before=RUNS[1], after=RUNS[0], added=("late",), changed=("badnets",), gone=("early",))


def background(known: History | None = None) -> Background:
    return Background({"badnets": known or history()}, {"badnets": {"x17": "camera fault"}}, zoo())


def page(known: History | None = None, name: str = "badnets", **changes: JsonValue) -> Page:
    return Page(render([typed({**summary(), **changes})], {}, {}, background(known))[name])


def test_a_models_page_says_what_differs_since_the_run_before() -> None:
    text = page().text
    for said in (
        "Newly flagged 191 samples, and 4 reviewed",
        "No longer flagged 7 and 13 no longer audited",
        "Classes drifted 1 more than chance explains",
        "What changed model 900 samples are in both runs",
        "Newly flagged: 1 of 191",
        "n1 (not audited before) new.parquet 5 3 - -",
        "o1 old.parquet 6 2 0.250 0.00100",
        "3 same samples 90 90 0.125 1.00e-09 2.00e-09",
        "whose verdict was: nothing unusual",
        "6 reviewed: 4 benign, 2 camera fault",
        "reviewed camera fault",
    ):
        assert said in text
    assert "other samples 80 70" not in text, "what did not drift is not listed"


def test_the_index_lists_models_that_differ_and_counts_the_others() -> None:
    nothing = RunComparison(before=comparison().before, after=comparison().after)
    quiet = history().model_copy(update={"compared": nothing})
    histories = {"badnets": history(), "still": quiet, "calm": quiet}
    summaries = [typed(summary(name)) for name in [*histories, "first"]]
    index = Page(render(summaries, {}, {}, Background(histories=histories, zoo=zoo()))["index"])
    assert "Models added late Models changed badnets Models gone early" in index.text
    assert "badnets 191 and 4 reviewed 7 1 model 2026-11-22 01:00 UTC" in index.text
    assert "No difference for 2 models." in index.text
    assert len(index.of_class("svg", "spark")) == 3, "a model of one run has no line"


def test_a_comparison_that_failed_says_why_on_both_pages() -> None:
    failed = comparison().model_copy(update={"problem": "the table is gone"})
    found = history().model_copy(update={"compared": failed})
    assert "cannot be compared: the table is gone" in page(found, "index").text
    text = page(found).text
    assert (
        "Cannot be compared with run 20261122T010000000Z-bbbb : the table is gone" in text
        and "Classes drifted" not in text
    )


def test_the_line_over_the_runs_goes_from_the_oldest_to_the_newest() -> None:
    runs = history().runs
    drawn = trend(runs, 100, 50)
    assert drawn is not None and drawn.top == 0.2
    assert [(x, round(y, 2), tone) for x, y, tone, _ in drawn.dots] == [
        (6, 42.1, "calm"),
        (50, 42.1, "calm"),
        (94, 6, "alarm"),
    ]
    assert drawn.line == "M6.0,42.1 L50.0,42.1 L94.0,6.0"
    assert drawn.dots[-1][3].replace("\N{NO-BREAK SPACE}", " ") == "2026-11-23 01:00 UTC: 20 % flagged, unusual inputs"
    assert trend([], 100, 50) is trend(runs[:1], 100, 50) is None
    empty = ModelResult(run_id="r", verdict="v", audited=0, flagged=0, same_as=None)
    still = trend([empty] * 2, 100, 50)
    assert still is not None and [y for _, y, _, _ in still.dots] == [44, 44]


def test_a_text_model_has_no_classes_to_drift() -> None:
    text = page(task="causal_lm").text
    assert "Scores drifted more than chance explains" in text and "Classes drifted" not in text


@pytest.mark.parametrize("name", ["index", "badnets"])
def test_labels_links_and_ids_of_the_history_hold_together(name: str) -> None:
    found = page(name=name)
    ids = found.values("id")
    assert len(set(ids)) == len(ids)
    assert {label for value in found.values("aria-labelledby") for label in value.split()} <= set(ids)
    assert {link.removeprefix("#") for link in found.values("href") if link.startswith("#")} <= set(ids)
    assert all("scope" in attributes for tag, attributes in found.tags if tag == "th")
    assert all(
        "aria-label" in attributes
        for tag, attributes in found.tags
        if tag == "svg" and attributes.get("class") == "spark"
    )


def hostile(lead: str, model: str = "badnets") -> Background:
    """A background in which every string that comes from data begins with `lead`."""

    def led(value: History | RunComparison | ZooChanges, **kept: JsonValue) -> JsonValue:
        document = with_strings(value.model_dump(mode="json"), lambda text: lead + text)
        assert isinstance(document, dict)
        return {**document, **kept}

    found = comparison()
    difference = with_strings(found.difference.model_dump(mode="json", exclude={"drift"}), lambda text: lead + text)
    assert isinstance(difference, dict)
    difference["drift"] = [drift.model_dump(mode="json") for drift in found.difference.drift]
    compared = led(found, problem="", difference=difference)
    known = History.model_validate(led(history(), compared=compared))
    reviews = {"x17": f"{lead}said", f"{lead}x17": f"{lead}said"}
    return Background({model: known}, {model: reviews}, ZooChanges.model_validate(led(zoo())))


def test_hostile_strings_of_earlier_runs_and_reviews_stay_text() -> None:
    pages = [render([typed(summary())], {}, {}, hostile(lead)) for lead in ("calm ", HOSTILE)]
    for name in ("index", "badnets"):
        assert Page(pages[1][name]).shape == Page(pages[0][name]).shape
    shown = " ".join(Page(pages[1]["badnets"]).pieces) + " ".join(Page(pages[1]["index"]).pieces)
    for text in ("n1", "new.parquet", "o1", "nothing unusual", "late", "early", "said", RUNS[1]):
        assert HOSTILE + text in shown


def test_what_counts_as_a_difference() -> None:
    found = comparison()
    same = RunComparison(before=found.before, after=found.after)
    assert found.difference.drifted_classes == [3] and found.differs
    assert not same.differs
    for section in ("drift", "newly_flagged", "no_longer_flagged"):
        one = Difference.model_validate({section: getattr(found.difference, section)})
        assert same.model_copy(update={"difference": one}).differs
    assert same.model_copy(update={"changed": ("settings",)}).differs
    assert same.model_copy(update={"problem": "the table is gone"}).differs
    assert not same.model_copy(update={"difference": Difference(common=9, no_longer_audited=3)}).differs
