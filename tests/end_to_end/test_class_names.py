"""Names of classes: read from data or config, and shown wherever a class is."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.results.explain import explain
from tests.audits import audited, table
from tests.conftest import ConfigMaker
from tests.jobs.command import mad

NAMES = [f"digit <{number}>" for number in range(10)]


def test_a_class_is_shown_by_its_name_in_summary_page_and_commands(make_config: ConfigMaker, digits: Path) -> None:
    config = make_config(data={"labels": NAMES})
    audit = audited(config)
    summary = audit.summary("digits")
    assert summary.class_names == tuple(NAMES)
    assert (summary.class_named(3), summary.class_named(-1)) == ("digit <3> (3)", "-1")
    page = (Path(config.root) / "report/digits.html").read_text()
    assert "digit &lt;0&gt; (0)" in page and "digit <0>" not in page
    first = table(audit).slice(0, 1).to_pylist()[0]
    (found,) = explain(audit, "digits", first["sample_id"])
    assert found.class_name == NAMES[first["prediction"]]
    name = f"{found.class_name} ({first['prediction']})"
    assert (
        f"prediction: class {name}"
        in mad("explain", config.root, "--model", "digits", "--sample", first["sample_id"]).out
    )
    assert any(f"{one} ({number})" in mad("report", config.root).out for number, one in enumerate(NAMES))


def test_names_change_no_row_and_no_score(make_config: ConfigMaker) -> None:
    plain = audited(make_config()).summary("digits")
    named = audited(make_config(data={"labels": NAMES})).summary("digits")
    assert named.stages["gradients"].tasks_run == named.stages["scoring"].tasks_run == 0
    assert named.same_as == plain.run_id


@pytest.mark.parametrize("order", [1, -1])
def test_labels_by_name_mean_the_same_as_numbers(
    make_config: ConfigMaker, digits: Path, tmp_path: Path, order: int
) -> None:
    """Also where the data's own features count the classes in another order."""
    plain = audited(make_config())
    samples = pq.read_table(digits / "trusted.parquet")
    numbers = samples.column("label").to_pylist()
    names = NAMES[::order]
    if order == 1:
        labels = pa.array([NAMES[number] for number in numbers])
    else:
        labels = pa.array([names.index(NAMES[number]) for number in numbers], pa.int64())
    own = samples.set_column(samples.schema.names.index("label"), "label", labels)
    if order == -1:
        features = {"label": {"_type": "ClassLabel", "names": names}}
        own = own.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(own, tmp_path / "named.parquet")
    audit = audited(make_config(root="named", data={"labels": NAMES, "trusted": str(tmp_path / "named.parquet")}))
    assert audit.summary("digits").calibration == plain.summary("digits").calibration
    assert table(audit).drop(["top_trusted"]).equals(table(plain).drop(["top_trusted"]))
