"""The pages: self-contained, safe with hostile values, linked, and complete where a summary is not."""

import json
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

import pytest
from pydantic import JsonValue

from pipeline.publication.charts import plot
from pipeline.publication.pages import render, template, zoo_headline
from pipeline.root.summary import Summary

Json = dict[str, JsonValue]


HOSTILE = (
    """</title></style><script>alert(1)</script><img src=x onerror='alert(2)'>" ' onload="alert(3)" """
    "href=//evil.test {{ 7 * 7 }} &amp; ?a#b%41"
)


PNG = "data:image/png;base64,iVBORw0KGgo="


FULL = """
{"schema": 1, "run_id": "20261122T184455-1a2b3c4d", "model": "badnets", "task": "classification",
 "model_digest": "0123abcd",
 "settings": {"measurement": "margin", "curvature": {"kind": "block_moment",
  "damping": {"kind": "relative_mean", "factor": 1.0}}, "rank": 16},
 "counts": {"audited": 2500, "flagged": 512, "flat": 2, "nonfinite": 3, "unreadable": 4, "failed": 0, "duplicates": 0,
  "shared_with_trusted": 0},
 "verdict": {"value": "unusual inputs", "reasons": ["512 of 2,500 p-values are small"]},
 "calibration": {"reference": 1160, "calibration": 600, "filtered": 240, "unreadable": 0,
  "target": {"fpr": 0.01}, "threshold": -0.125,
  "smallest_p_value": 0.001664, "smallest_certified_group": null},
 "evaluation": {"all": PERFORMANCE, "attack_succeeded": PERFORMANCE, "paper_filter": null,
  "attack_success_rate": 0.964, "accuracy": 0.831},
 "controls": {"confidence": {"auroc": 0.986, "matched_auroc": 0.97}, "gradient_norm": {"auroc": null,
  "matched_auroc": null}},
 "classes": [{"class": 0, "reference": 120, "audited": 700, "flagged": 505, "fpr": null}],
 "top_flagged": [
  {"sample_id": "x17", "source": "audited.parquet", "row": 17, "score": 0.314159, "p_value": 0.001664,
   "q_value": 0.01, "prediction": 0, "confidence": 0.99,
   "top_trusted": [{"sample_id": "t0", "influence": 0.25}, {"sample_id": "t1", "influence": 0.2}]},
  {"sample_id": "x18", "source": "audited.parquet", "row": 18, "score": 0.3, "p_value": 0.001664,
   "q_value": 0.01, "prediction": 0, "confidence": 0.9,
   "top_trusted": []}],
 "flat": {"count": 2, "share": 0.0008, "flagged": 1, "samples": [{"sample_id": "x19", "source": "audited.parquet",
  "row": 19, "prediction": 3, "confidence": 1.0, "p_value": 0.001664, "flagged": true}]},
 "warnings": ["class 7 has 8 reference samples"], "table": {"rows": 2500, "bytes": 123456, "sha256": "fedc"},
  "same_as": "20261121T184455-00000000",
 "layers": {"covered": ["stem.weight"], "fallback": ["odd.weight"],
  "not_covered": {"bn.weight": "not a matrix"}},
 "files": {"trusted": [{"name": "trusted.parquet", "rows": 2000}], "audited": [{"name": "audited.parquet",
  "rows": 2500}],
  "refused": {"bad.parquet": "no image column"}},
 "stages": {"gradients": {"seconds": 12.34, "tasks_run": 3, "tasks_reused": 0}, "reporting": {"seconds": 0.5,
  "tasks_run": 1, "tasks_reused": 0}}}
"""


PERFORMANCE = """{"anomalous": 500, "benign": 2000, "auroc": 0.991, "average_precision": 0.987,
 "at_calibrated": {"tpr": 1.0,
 "fpr": 0.0115, "der": 0.914},
 "at_best": {"tpr": 1.0, "fpr": 0.0015, "der": 0.917, "threshold": 1.7976931348623157e308}}"""


def histogram(edges: list[float], calibration: list[int], audited: list[int]) -> Json:
    return {
        "edges": list[JsonValue](edges),
        "calibration": list[JsonValue](calibration),
        "audited": list[JsonValue](audited),
    }


def summary(model: str = "badnets", verdict: str = "unusual inputs") -> Json:
    full: Json = json.loads(FULL.replace("PERFORMANCE", PERFORMANCE))
    bins = histogram([-1 + index / 30 for index in range(61)], [10] * 30 + [0] * 30, [40] * 50 + [50] * 10)
    return {
        **full,
        "model": model,
        "verdict": {"value": verdict, "reasons": ["512 of 2,500 p-values are small"]},
        "histogram": bins,
    }


class Page(HTMLParser):
    """A page as a browser's parser sees it: tags with their attributes, and text."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.pieces: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.pieces.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.pieces).split())

    @property
    def shape(self) -> list[tuple[str, tuple[str, ...]]]:
        return [(tag, tuple(attributes)) for tag, attributes in self.tags]

    def values(self, name: str) -> list[str]:
        return [value for _, attributes in self.tags if (value := attributes.get(name)) is not None]

    def of_class(self, tag: str, name: str) -> list[dict[str, str | None]]:
        return [attributes for found, attributes in self.tags if found == tag and attributes.get("class") == name]


def with_strings(value: JsonValue, change: Callable[[str], str]) -> JsonValue:
    """The same structure with every string changed, and the keys of mappings whose keys come from data."""
    if isinstance(value, dict):
        return {(change(key) if "." in key else key): with_strings(inner, change) for key, inner in value.items()}
    if isinstance(value, list):
        return [with_strings(inner, change) for inner in value]
    return change(value) if isinstance(value, str) else value


def without_numbers(value: JsonValue) -> JsonValue:
    """The same document with every float null, and every count 0: what a summary says where nothing is known."""
    if isinstance(value, dict):
        return {key: without_numbers(inner) if key != "schema" else inner for key, inner in value.items()}
    if isinstance(value, list):
        return [without_numbers(inner) for inner in value]
    return None if isinstance(value, float) else 0 if isinstance(value, int) else value


def typed(document: Json) -> Summary:
    return Summary.model_validate(document)


def only(changed: Json) -> Page:
    return Page(render([typed(changed)], {})[str(changed["model"])])


def zoo() -> dict[str, str]:
    verdicts = {
        "clean": "nothing unusual",
        "badnets": "unusual inputs",
        "small": "cannot tell",
        "a.b-c_d": "nothing unusual",
    }
    summaries = [typed(summary(model, verdict)) for model, verdict in verdicts.items()]
    return render(summaries, {"badnets": {"audited.parquet#17": PNG}})


@pytest.mark.parametrize("name", ["index", "badnets", "a.b-c_d"])
def test_a_page_fetches_nothing(name: str) -> None:
    html = zoo()[name]
    page = Page(html)
    assert not re.search(r"https?:|@import|url\(|<script|<link|<iframe", html)
    assert all(source.startswith("data:image/png;base64,") for source in page.values("src"))
    assert "default-src 'none'" in " ".join(page.values("content"))
    assert not {"style", "onclick", "onload", "srcset"} & {
        attribute for _, attributes in page.tags for attribute in attributes
    }


def test_every_link_leads_to_a_page_or_to_a_place_on_it() -> None:
    pages = zoo()
    for name, html in pages.items():
        page = Page(html)
        for link in page.values("href"):
            parts = urlsplit(link)
            assert (parts.scheme, parts.netloc) == ("", "")
            target = PurePosixPath(unquote(parts.path)).name or f"{name}.html"
            assert target in {f"{page}.html" for page in pages}
            assert not parts.fragment or parts.fragment in page.values("id")
        assert name == "index" or "./index.html" in page.values("href")
    assert {unquote(link) for link in Page(pages["index"]).values("href")} == {
        f"./{name}.html" for name in pages if name != "index"
    }


@pytest.mark.parametrize("name", ["index", "badnets"])
def test_labels_refer_to_something(name: str) -> None:
    page = Page(zoo()[name])
    assert len(set(page.values("id"))) == len(page.values("id"))
    assert {label for value in page.values("aria-labelledby") for label in value.split()} <= set(page.values("id"))
    assert all("alt" in attributes for tag, attributes in page.tags if tag == "img")
    assert all("scope" in attributes for tag, attributes in page.tags if tag == "th")


def test_hostile_strings_stay_text_everywhere() -> None:
    # The verdict is one that no page knows in both, so that only the strings differ.
    calm = with_strings(summary(), lambda text: f"calm {text}")
    hostile = with_strings(summary(), lambda text: HOSTILE + text)
    assert isinstance(calm, dict)
    assert isinstance(hostile, dict)
    tame = render([typed(calm)], {str(calm["model"]): {"calm audited.parquet#17": "calm"}})
    wild = render([typed(hostile)], {str(hostile["model"]): {f"{HOSTILE}audited.parquet#17": HOSTILE}})
    assert Page(wild["index"]).shape == Page(tame["index"]).shape
    page = Page(wild[str(hostile["model"])])
    assert page.shape == Page(tame["calm badnets"]).shape
    shown = " ".join(page.pieces)
    for text in (
        "x17",
        "t0",
        "512 of",
        "class 7 has",
        "stem.weight",
        "bn.weight",
        "not a matrix",
        "no image column",
        "margin",
        "fedc",
        "0123abcd",
    ):
        assert HOSTILE + text in shown
    (link,) = (urlsplit(link) for link in Page(wild["index"]).values("href"))
    assert link == ("", "", link.path, "", "")
    assert unquote(link.path) == f"./{hostile['model']}.html"


@pytest.mark.parametrize(
    "uri", ["https://evil.test/x.png", "data:image/svg+xml;base64,PHN2Zz4=", PNG + '" onerror="alert(1)', PNG + "\n"]
)
def test_an_image_that_is_no_embedded_png_is_not_shown(uri: str) -> None:
    page = Page(render([typed(summary())], {"badnets": {"audited.parquet#17": uri}})["badnets"])
    assert page.values("src") == []
    assert len(page.of_class("div", "empty")) == 2


def test_images_belong_to_their_source_and_row() -> None:
    images = {"badnets": {"audited.parquet#17": PNG, "other.parquet#18": PNG}, "clean": {"audited.parquet#18": PNG}}
    page = Page(render([typed(summary())], images)["badnets"])
    assert (page.values("src"), page.values("alt")) == ([PNG], ["Sample x17"])


def test_the_verdict_is_the_first_line_and_warnings_follow_its_reasons() -> None:
    body = Page(zoo()["badnets"].partition("<body>")[2]).text
    assert body.startswith("Unusual inputs: badnets 512 of 2,500 p-values are small")
    assert body.index("512 of") < body.index("class 7 has 8") < body.index("Key figures") < body.index("Anomaly score:")


def test_samples_without_a_gradient_are_listed_apart() -> None:
    text = Page(zoo()["badnets"]).text
    assert "2 audited samples (0.08 %) are flat" in text and "1 of them are flagged" in text
    assert "The first 1 of 2" in text and "x19 audited.parquet 19 3 100 % 0.00166 yes" in text
    assert "9 2 flat, 3 nonfinite" in text


def test_the_index_lists_the_worst_first_with_its_figures() -> None:
    body = Page(zoo()["index"].partition("<body>")[2]).text
    assert body.startswith("Unusual inputs for 1 of 4 models")
    assert [body.index(name) for name in ("badnets", "small", "clean")] == sorted(
        body.index(name) for name in ("badnets", "small", "clean")
    )
    for figure in (
        "2,500",
        "512 20.5 %",
        "fpr 1 %",
        "0.991",
        "100 % / 1.15 %",
        "9 2 flat 3 nonfinite 4 unreadable",
        "12.8 s",
        "2026-11-22 18:44 UTC",
    ):
        assert figure in body


@pytest.mark.parametrize(
    ("verdicts", "sentence"),
    [
        ([], "No model has been audited yet"),
        (["nothing unusual"], "Nothing unusual for 1 of 1 model"),
        (["nothing unusual", "cannot tell"], "Cannot tell for 1 of 2 models"),
        (["nothing unusual", "a verdict of the future"], "Cannot tell for 1 of 2 models"),
        (["unusual inputs", "cannot tell", "unusual inputs"], "Unusual inputs for 2 of 3 models"),
    ],
)
def test_the_headline_never_calls_unknown_calm(verdicts: list[str], sentence: str) -> None:
    assert zoo_headline(verdicts) == sentence


def test_the_histogram_shows_both_groups_and_the_threshold() -> None:
    page = only(summary())
    (line,) = page.of_class("line", "threshold")
    assert line["x1"] == line["x2"] == f"{68 + (704 - 68) * 0.875 / 2:.1f}"
    assert all(
        label in page.text
        for label in ("threshold -0.125", "anomaly score, larger = more anomalous", "square-root scale")
    )
    assert [len(page.of_class("path", name)) for name in ("calibration", "audited")] == [2, 2]


@pytest.mark.parametrize(
    ("success", "auroc", "samples"), [(0.5, "0.700", "attacks that succeeded"), (None, "0.991", "all samples")]
)
def test_the_auroc_among_the_key_figures_is_that_of_the_index(success: float | None, auroc: str, samples: str) -> None:
    succeeded: Json = {**json.loads(PERFORMANCE), "auroc": 0.7}
    known: Json = {
        "all": json.loads(PERFORMANCE),
        "attack_succeeded": succeeded,
        "paper_filter": None,
        "attack_success_rate": success,
        "accuracy": 0.8,
    }
    pages = render([typed({**summary(), "evaluation": known})], {})
    assert f"AUROC {auroc} {samples}; truth is known" in Page(pages["badnets"]).text
    assert f"fpr 1 % {auroc} 100 % / 1.15 %" in Page(pages["index"]).text


def test_random_weights_are_compared_over_the_same_samples() -> None:
    full = summary()
    controls: Json = {"untrained": {"auroc": 0.51, "samples": 2500, "flagged_share": 0.01}}
    known: Json = {
        "all": {**json.loads(PERFORMANCE), "auroc": 0.78},
        "attack_succeeded": json.loads(PERFORMANCE),
        "attack_success_rate": 0.2,
    }
    text = only({**full, "evaluation": known, "controls": controls}).text
    assert "the anomaly score 0.991 - the anomaly score, all samples 0.780 -" in text
    assert "the anomaly score on random weights, all samples 0.510 -" in text


@pytest.mark.parametrize(("edges", "counts"), [([], []), ([0.0, 1.0], [0]), ([2.0, 2.0], [5])])
def test_without_scores_there_is_no_histogram(edges: list[float], counts: list[int]) -> None:
    assert plot(edges, counts, counts, None) is None
    calibration = summary()["calibration"]
    assert isinstance(calibration, dict)
    assert (
        "No sample has a score"
        in only(
            {
                **summary(),
                "histogram": histogram(edges, counts, counts),
                "calibration": {**calibration, "threshold": None},
            }
        ).text
    )


def partial_summaries() -> Iterator[tuple[str, Json, str]]:
    full = summary()
    empty: Json = {
        "evaluation": None,
        "controls": None,
        "top_flagged": [],
        "warnings": [],
        "classes": [],
        "same_as": None,
    }
    yield "bare", {**full, **empty}, "No sample that has a score was flagged"
    unknown: Json = {
        "all": None,
        "attack_succeeded": None,
        "paper_filter": None,
        "attack_success_rate": None,
        "accuracy": None,
    }
    yield "evaluation of nulls", {**full, "evaluation": unknown}, "Attack success rate -, accuracy on clean samples -"
    stages: Json = {"gradients": {"tasks_run": 0, "tasks_reused": 0}}
    calibration = full["calibration"]
    assert isinstance(calibration, dict)
    targeted: Json = {**calibration, "target": {}}
    nulls = without_numbers({**full, "histogram": histogram([], [], []), "stages": stages, "calibration": targeted})
    assert isinstance(nulls, dict)
    yield "no number at all", nulls, "No sample has a score"
    discovery: Json = {**calibration, "target": {"fdr": 0.05}, "threshold": None, "smallest_certified_group": 84}
    yield "false discovery rate", {**full, "calibration": discovery}, "false discovery rate 5 %"


@pytest.mark.parametrize(("case", "partial", "sentence"), list(partial_summaries()))
def test_what_is_not_known_is_left_out_or_a_dash(case: str, partial: Json, sentence: str) -> None:
    page = only(partial)
    assert sentence in page.text
    assert "None" not in page.text
    headings = {value for _, attributes in page.tags if (value := attributes.get("id"))}
    assert ("evaluation" in headings) == (partial["evaluation"] is not None)
    assert ("warnings" in headings) == bool(partial["warnings"])
    assert "None" not in Page(render([typed(partial)], {})["index"]).text


def test_templates_are_compiled_once() -> None:
    assert template("model.html.j2") is template("model.html.j2")


def test_the_index_of_no_models_says_so() -> None:
    assert "No model has been audited yet" in Page(render([], {})["index"]).text


@pytest.mark.parametrize("names", [["a", "a"], ["index"]])
def test_two_pages_cannot_share_a_name(names: list[str]) -> None:
    with pytest.raises(ValueError, match="must be unique and none may be 'index'"):
        render([typed(summary(name)) for name in names], {})


def test_a_model_that_failed_is_named_with_its_reason_even_where_an_older_summary_is_shown() -> None:
    page = Page(
        render([typed(summary("badnets"))], {}, {"badnets": "weights gone", "other": "<b>no such file</b>"})["index"]
    )
    assert "weights gone. The results of it below are older." in page.text
    assert "<b>no such file</b>" in page.text
