"""Names of classes: where they come from, and what names and integers of a file mean. They match by name alone."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import JsonValue

from pipeline.config.schema import ModelConfig
from pipeline.data.columns import UnfitValue, integers, plain
from pipeline.data.sources import Source
from pipeline.errors import SourceError

NAMES_SHOWN = 20


def class_names(model: ModelConfig, given: Sequence[str], trusted: Sequence[Source]) -> tuple[str, ...]:
    """The names of a model's classes in the order of its outputs; none where nobody says them.

    They are the model's own, or else those of `data.labels`, or else those that the trusted files' integers stand for,
    or else, in the order of the alphabet, those of the folders that trusted images are in.

    Args:
        model: its config.
        given: the names that the model has itself, none where it has none.
        trusted: the files of its trusted set.

    Raises:
        SourceError: two of these contradict each other, or a name stands twice.
    """
    stated, own = model.data.labels, tuple(given)
    for place, names in (("data.labels", stated), ("the model", own)):
        repeated = next((name for name in names if names.count(name) > 1), None)
        if repeated is not None:
            raise SourceError(f"{place} names the class {repeated!r} twice, so that labels by name mean nothing")
    if own and stated and set(own) != set(stated):
        raise SourceError(
            f"data.labels names the classes {shown(stated)}, the model itself {shown(own)}; leave data.labels out"
        )
    return own or stated or _of_files(trusted)


def _of_files(trusted: Sequence[Source]) -> tuple[str, ...]:
    """The names that the integers of trusted files stand for, which must be the same in all.

    Raises:
        SourceError: they are not.
    """
    with_classes = [source for source in trusted if "label" in source.classes]
    folders = {name for source in with_classes if "label" in source.named for name in source.classes["label"]}
    found = {source.classes["label"]: source.file.name for source in with_classes if "label" not in source.named}
    if not found:
        return tuple(sorted(folders))
    if len(found) > 1:
        (one, first), (other, second) = list(found.items())[:2]
        raise SourceError(
            f"{first} and {second} name classes in different orders ({shown(one)}; {shown(other)}), and nothing says "
            "which is the model's; give its own in data.labels"
        )
    return next(iter(found), ())


def shown(names: Sequence[str]) -> str:
    """Names in a message."""
    more = f" and {len(names) - NAMES_SHOWN:,} more" if len(names) > NAMES_SHOWN else ""
    return f"{', '.join(names[:NAMES_SHOWN])}{more}"


def indices_of(source: Source, role: str, column: pa.Array, names: Sequence[str]) -> pa.Array:
    """Labels or targets as indices of the model's classes (n,), int64, null where they are not known.

    Args:
        source: whose column it is.
        role: `label` or `target`.
        column: names, or integers, which are indices of the file's own classes where it names them.
        names: of the model's classes.

    Raises:
        UnfitValue: a value is a name that no class has, or an integer that is not whole.
    """
    own = source.classes.get(role, ())
    if role in source.named:
        return _by_name(plain(column), names)
    values = integers(column)
    if not own or not names or own == tuple(names):
        return values
    named = pc.and_(pc.greater_equal(values, 0), pc.less(values, len(own)))
    texts = pa.array(own).take(pc.if_else(named, values, None))
    return pc.if_else(pc.fill_null(named, False), _by_name(texts, names), values)


def _by_name(texts: pa.Array, names: Sequence[str]) -> pa.Array:
    """The indices of names, null where there is none."""
    known = pa.array(list(names), pa.large_string())
    texts = texts.cast(pa.large_string())
    texts = pc.if_else(pc.equal(texts, ""), None, texts)
    found = pc.index_in(texts, value_set=known).cast(pa.int64())
    strange = pc.and_(pc.is_null(found), pc.is_valid(texts))
    row = pc.index(strange, True).as_py()
    if row >= 0:
        raise UnfitValue(row, f"holds {texts[row].as_py()!r}, which no class is called; classes: {shown(names)}")
    return found


def described_labels(source: Source, names: Sequence[str]) -> JsonValue:
    """What decides how a source's labels are read, for keys: the column, and, where names decide, the names."""
    return described_roles(source, ("label",), names)["label"]


def described_roles(source: Source, roles: Sequence[str], names: Sequence[str]) -> dict[str, JsonValue]:
    """By role, what decides how a source's values are read."""
    found: dict[str, JsonValue] = {}
    for role in roles:
        column, own = getattr(source.columns, role), source.classes.get(role, ())
        by_name = role in source.named or (own and names and own != tuple(names))
        found[role] = {"column": column, "classes": [*own], "names": [*names]} if by_name else column
    return found
