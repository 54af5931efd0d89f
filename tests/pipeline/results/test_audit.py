"""An opened root of a release: its models, summaries and scores, and what is refused."""

import shutil
from pathlib import Path

import pytest

from pipeline.errors import ConfigError, RootError
from pipeline.results.audit import Audit, open_audit
from pipeline.results.explain import explain
from tests.data.roots_of_releases import ROOTS, releases


@pytest.fixture
def audit(tmp_path: Path) -> Audit:
    """A copy of the latest release's root."""
    return open_audit(str(shutil.copytree(ROOTS / releases()[-1] / "root", tmp_path / "root")))


def test_models_summaries_and_scores_belong_together(audit: Audit) -> None:
    assert audit.models == ["factored", "plain", "traced"] and audit.outcome is None
    for name in audit.models:
        summary, table = audit.summary(name), audit.scores(name).read_all()
        assert summary.model == name
        assert (table.num_rows, sum(table.column("flagged").to_pylist())) == (
            summary.counts.audited,
            summary.counts.flagged,
        )


def test_an_explanation_has_the_published_row_and_its_layers_in_order(audit: Audit) -> None:
    row = max(audit.scores("plain").read_all().to_pylist(), key=lambda one: one["score"])
    (found,) = explain(audit, "plain", row["sample_id"], top=2)
    assert (found.score, found.p_value, found.flagged) == (row["score"], row["p_value"], row["flagged"])
    assert [(one.layer, one.score) for one in found.layers] == sorted(row["layer_scores"], key=lambda one: -one[1])[:2]
    assert [one.sample_id for one in found.top_trusted] == [one["sample_id"] for one in row["top_trusted"][:2]]
    assert found.run_id == audit.summary("plain").run_id
    assert found.threshold == audit.summary("plain").calibration.threshold


def test_an_unknown_sample_is_refused_with_similar_ids(audit: Audit) -> None:
    known = audit.scores("plain").read_all().column("sample_id")[0].as_py()
    with pytest.raises(ConfigError, match=rf"has no audited sample '{known}x'; similar ids: .*{known}"):
        explain(audit, "plain", f"{known}x")


def test_an_unknown_model_or_split_is_refused_with_those_that_are_there(audit: Audit) -> None:
    with pytest.raises(RootError, match="no completed run of model 'other'; models here: factored, plain, traced"):
        audit.summary("other")
    with pytest.raises(RootError, match="there is no split 'all'; splits: trusted, audited"):
        audit.rows("plain", "all")  # type: ignore[arg-type]
