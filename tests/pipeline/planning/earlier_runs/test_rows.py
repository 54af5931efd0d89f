"""How stored rows differ from those of a config, and which of their layers it chooses."""

from pathlib import Path

import pytest
from pydantic import JsonValue

from infra.storage.storage import Storage
from pipeline.errors import SourceError
from pipeline.planning.earlier_runs.rows import chosen_layers, differences, find_rows
from pipeline.root.records import OutcomeRecord, RunRecord
from tests.pipeline.planning.plans import model_config, row_recipe

FREE: dict[str, JsonValue] = {
    "curvature": {"kind": "kfac"},
    "score": {"kind": "leverage"},
    "calibration": {"fraction": 0.5},
    "estimator": {"layers": ["first"]},
}


@pytest.mark.parametrize("section", FREE)
def test_rows_do_not_depend_on_what_a_rescoring_may_change(section: str) -> None:
    assert list(differences(model_config(**{section: FREE[section]}), model_config())) == []


def test_rows_do_not_depend_on_what_identified_their_files() -> None:
    files: dict[str, JsonValue] = {"trusted": "trusted.parquet", "audited": "day-*.parquet"}
    assert list(differences(model_config(data={**files, "identity": "contents"}), model_config())) == []


def test_each_setting_of_rows_that_differs_is_named_with_both_values() -> None:
    wanted = model_config(estimator={"projection": {"rank": 8, "seed": 3}}, task="classification")
    assert list(differences(wanted, model_config())) == [
        "estimator.projection.rank is 8, the stored rows have 16",
        "estimator.projection.seed is 3, the stored rows have 0",
    ]
    assert list(differences(model_config(estimator={"measurement": "margin"}), model_config())) == []  # as auto has it


def test_outputs_that_are_called_logits_are_what_nothing_says() -> None:
    said, nothing, other = (
        model_config().model_copy(update={"outputs": outputs}) for outputs in ("logits", None, "probabilities")
    )
    assert list(differences(said, nothing)) == list(differences(nothing, said)) == []
    assert list(differences(nothing, other)) == ["outputs is None, the stored rows have 'probabilities'"]


def test_patterns_choose_among_stored_layers() -> None:
    def chosen(*patterns: str) -> tuple[str, ...]:
        return chosen_layers(model_config(estimator={"layers": [*patterns]}), row_recipe(patterns=("*",)))

    assert chosen("*") == ("first.weight", "second.weight")
    assert chosen("sec*") == ("second.weight",)
    assert chosen("*", "!first") == ("second.weight",)


@pytest.mark.parametrize(
    ("patterns", "named"), [(["first", "third"], "'third'"), (["*", "!third"], "'!third'"), (["*", "!*"], r"'\* !\*'")]
)
def test_a_pattern_that_chooses_no_stored_layer_is_refused(patterns: list[str], named: str) -> None:
    config = model_config(estimator={"layers": [*patterns]})
    with pytest.raises(
        SourceError, match=rf"estimator.layers: {named} chooses none of the 2 layers .* \(first, second\); `mad run`"
    ):
        chosen_layers(config, row_recipe())


def test_runs_without_rows_of_the_model_are_named(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    with pytest.raises(SourceError, match=r"no run of this model has completed in .*; `mad run` stores them"):
        find_rows(storage, model_config())
    run_id = "20260101T000000000Z-aaaaaaaa"
    storage.write(f"runs/{run_id}/_run.json", RunRecord(run_id=run_id).encode())
    storage.write(f"runs/{run_id}/net.json", b"{}")
    with pytest.raises(SourceError, match="no run of this model has completed"):
        find_rows(storage, model_config())
    storage.write(f"runs/{run_id}/_outcome.json", OutcomeRecord(complete=True).encode())
    with pytest.raises(SourceError, match=f"run {run_id} stored other rows than the config needs: it is of an earlier"):
        find_rows(storage, model_config())
