"""The tasks of the curvature stage: ranges that cover every part once, and the key of their results."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from pipeline.artifacts.rows import RowsPart
from pipeline.planning.plan import ModelPlan
from pipeline.stages.curvature.tasks import (
    PARTS_PER_SUM,
    CurvatureTask,
    curvature_key,
    moment_ranges,
    references_name,
    transductive_parts,
)


def part(number: int, content: str = "content", failure: str = "") -> RowsPart:
    return RowsPart("file", "key", number * 10, number * 10 + 10, "folder", content, failure)


@given(st.integers(0, 1000))
def test_ranges_cover_every_part_once_and_few_parts_need_none(parts: int) -> None:
    ranges = moment_ranges(parts)
    assert bool(ranges) == (parts > PARTS_PER_SUM)
    assert [number for first, last in ranges for number in range(first, last)] == list(range(parts if ranges else 0))
    assert all(0 < last - first <= PARTS_PER_SUM for first, last in ranges)


@given(st.integers(0, 60), st.integers(0, 60))
def test_ranges_of_a_task_read_every_trusted_and_audited_part_once_in_order(trusted: int, audited: int) -> None:
    parts = tuple(part(number) for number in range(trusted + audited))
    task = CurvatureTask("model", "moment", "key", parts[:trusted], parts[trusted:], split="split")
    read = []
    for first, last in moment_ranges(task.length):
        own = task.of_range("moment-0", first, last)
        both = (*own.parts, *own.audited)  # the audited ones that it carries follow all trusted ones
        read += both[own.first : own.last]
        assert len(own.audited) <= PARTS_PER_SUM
    assert tuple(read) == (parts if moment_ranges(task.length) else ())


def test_a_range_of_sums_carries_all_sums() -> None:
    task = CurvatureTask("model", "moment", "key", (part(0),), moments=tuple("abc"))
    own = task.of_range("moment-1", 1, 3)
    assert (own.name, own.moments[own.first : own.last]) == ("moment-1", ("b", "c"))


def test_a_transductive_curvature_leaves_failed_parts_out(plan: ModelPlan) -> None:
    audited = (part(0), part(1, failure="no memory"), part(2))
    assert transductive_parts(plan, audited) == ()
    section = plan.config.curvature.model_copy(update={"transductive": True})
    transductive = replace(plan, config=plan.config.model_copy(update={"curvature": section}))
    assert transductive_parts(transductive, audited) == (audited[0], audited[2])


def test_the_key_changes_with_what_the_curvature_is_made_of(plan: ModelPlan) -> None:
    def with_section(name: str, **changes: object) -> ModelPlan:
        section = getattr(plan.config, name).model_copy(update=changes)
        return replace(plan, config=plan.config.model_copy(update={name: section}))

    trusted, other = (part(0), part(1)), (part(0), part(1, "other"))
    keys = [
        curvature_key(plan, trusted, ()),
        curvature_key(plan, other, ()),
        curvature_key(plan, trusted, other),
        curvature_key(plan, trusted, (), other),
        curvature_key(replace(plan, dropped=("an id",)), trusted, ()),
        curvature_key(with_section("calibration", fraction=0.4), trusted, ()),
        curvature_key(with_section("calibration", seed=1), trusted, ()),
        curvature_key(with_section("calibration", screen=True), trusted, ()),
        curvature_key(with_section("curvature", kind="identity"), trusted, ()),
    ]
    assert len(set(keys)) == len(keys)


def test_a_changed_score_repeats_the_references_only(plan: ModelPlan) -> None:
    section = plan.config.score.model_copy(update={"kind": "leverage"})
    other = replace(plan, config=plan.config.model_copy(update={"score": section}))
    assert curvature_key(other, (part(0),), ()) == curvature_key(plan, (part(0),), ())
    assert references_name(other) != references_name(plan)
    assert references_name(plan).startswith("references-")
