"""Which of the state dicts in a file fit an architecture, decided by torch's own `load_state_dict`, and why none does.

What torch's report counts as missing is not, where the same tensor is there under another name (tied weights). What it
counts as unexpected is left out, where the architecture says so: as a buffer that it does not keep in its weights, or
by the patterns of its family (`_keys_to_ignore_on_load_unexpected` of Hugging Face's models).
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pipeline.errors import SourceError
from pipeline.models.user_code import user_code
from pipeline.models.weights.faithful import Copies, first_untrue, place_of
from pipeline.models.weights.mismatches import first_names, name_some
from pipeline.models.weights.state_dicts import MOST, StateDict, parts_of, undoings


@dataclass(frozen=True)
class _Report:
    """What torch says of a state dict that it was to load: how many names are wrong, and all in words; "" if it fits.

    `left_out`: tensors of the file that the architecture wants left out.
    """

    state: StateDict
    wrong: int = 0
    words: str = ""
    left_out: tuple[str, ...] = ()

    @property
    def undone(self) -> tuple[str, ...]:
        """What was undone, and what is left out, by name."""
        if not self.left_out:
            return self.state.undone
        left = f"leaving out {first_names(self.left_out)}, which the architecture does not keep in its weights"
        return (*self.state.undone, left)


def fill(module: nn.Module, found: Sequence[StateDict], misfit: str) -> str:
    """Load the only one of the state dicts that fits, by the only undoing that makes it fit.

    Args:
        module: of the architecture.
        found: in the file.
        misfit: the beginning of the sentence that says what does not fit what.

    Returns:
        What was undone, "" for a file that was taken as it is.

    Raises:
        SourceError: none fits, or several do, or what fits has other values in the file than the module would have; or
            the module was built without memory.
    """
    for name, own in module.state_dict(keep_vars=True).items():
        if isinstance(own, Tensor) and own.is_meta:
            raise SourceError(
                f"{misfit}: {name} is on the device meta, without memory; build the architecture on the CPU"
            )
    with Copies() as copies:
        report = _only_fitting(module, found, misfit, copies)
    untrue = first_untrue(module, copies.made, report.state.tensors)
    if untrue:
        raise SourceError(f"{misfit}: {untrue}")
    return ", ".join(report.undone)


def _only_fitting(module: nn.Module, found: Sequence[StateDict], misfit: str, copies: Copies) -> _Report:
    """Find the way that fits, and load it last; `copies` holds those of this loading. Raises as `fill`."""
    reports = list(_best_of_each(module, found, copies, undoings))
    if not any(report.wrong == 0 for report in reports):
        parts = list(islice((part for state in found for part in parts_of(state)), MOST))
        reports += [report for report in _best_of_each(module, parts, copies, undoings) if report.wrong == 0]
    fitting = [report for report in reports if report.wrong == 0]
    if not fitting:
        best = min(reports, key=lambda report: report.wrong)
        taken = f" (taken {', '.join(best.state.undone)})" if best.state.undone else ""
        raise SourceError(f"{misfit}{taken}: {best.words}")
    if len(fitting) > 1:
        ways = "; or ".join(", ".join(report.undone) or "as it is" for report in fitting[:3])
        raise SourceError(
            f"{misfit} in one way only, but in {len(fitting)}: {ways}; save the state dict that is meant alone"
        )
    if fitting[0].state is not found[0] or len(found) > 1:  # others were tried since
        copies.made.clear()
        _try(module, fitting[0].state)
    return fitting[0]


Variants = Callable[[StateDict], Iterator[StateDict]]


def _best_of_each(
    module: nn.Module, found: Iterable[StateDict], copies: Copies, variants: Variants
) -> Iterator[_Report]:
    """The first variant of each state dict that fits, or else the nearest one."""
    for state in found:
        nearest: _Report | None = None
        for variant in variants(state):
            copies.made.clear()
            report = _try(module, variant)
            if nearest is None or report.wrong < nearest.wrong:
                nearest = report
            if not report.wrong:
                break
        if nearest is not None:
            yield nearest


def _try(module: nn.Module, state: StateDict) -> _Report:
    """Load a state dict as torch does; what did not fit has left the module half filled."""
    wanted = module.state_dict(keep_vars=True)
    given = dict(state.tensors)
    given |= {name: given[other] for name, other in state.same.items() if name in wanted and other in given}
    try:
        with user_code("load_state_dict"):
            module.load_state_dict(state.as_torch_takes_it(given))
    except SourceError:
        return _diagnose(module, state, given, wanted)
    return _Report(state)


def _diagnose(
    module: nn.Module, state: StateDict, given: Mapping[str, object], wanted: Mapping[str, Tensor]
) -> _Report:
    """What torch finds wrong with a state dict, the tensors of another shape apart, which it would stop at."""
    shapes = _of_another_shape(given, wanted)
    rest = {name: value for name, value in given.items() if name not in shapes}
    try:
        with user_code("load_state_dict"):
            report = module.load_state_dict(state.as_torch_takes_it(rest), strict=False)
    except SourceError as error:
        cause = error.__cause__
        return _Report(state, len(wanted) + len(given), f"{type(cause).__name__}: {' '.join(str(cause).split())}")
    tied = _tied_to(wanted, rest)
    missing = [name for name in report.missing_keys if name not in shapes and name not in tied]
    left_out = names_left_out(module, report.unexpected_keys)
    unexpected = sorted(name for name in report.unexpected_keys if name not in left_out)
    words = name_some(
        {
            "missing in the file": missing,
            "unknown to the architecture": unexpected,
            "of another shape": list(shapes.values()),
        }
    )
    return _Report(state, len(missing) + len(unexpected) + len(shapes), words, left_out)


def _of_another_shape(given: Mapping[str, object], wanted: Mapping[str, Tensor]) -> dict[str, str]:
    """The tensors whose shape is not the architecture's, with both shapes."""
    pairs = ((name, given[name], own) for name, own in wanted.items() if name in given)
    return {
        name: f"{name} ({tuple(value.shape)} in the file, {tuple(own.shape)} in the architecture)"
        for name, value, own in pairs
        if isinstance(value, Tensor) and isinstance(own, Tensor) and not is_lazy(own) and _differ(value, own)
    }


def _differ(value: Tensor, own: Tensor) -> bool:
    """Whether shapes differ; torch takes one number in a row for a scalar, as older files hold it."""
    return value.shape != own.shape and not (own.ndim == 0 and value.shape == (1,))


def _tied_to(wanted: Mapping[str, Tensor], given: Mapping[str, object]) -> set[str]:
    """Names whose tensor in the module is the same as one that is given, or lies within one."""
    whole, exact = set[int](), set[tuple[object, ...]]()
    for name, own in wanted.items():
        if name in given and isinstance(own, Tensor) and not is_lazy(own):
            exact.add(place_of(own))
            if own.nbytes == own.untyped_storage().nbytes():
                whole.add(own.untyped_storage().data_ptr())
    return {
        name
        for name, own in wanted.items()
        if isinstance(own, Tensor)
        and not is_lazy(own)
        and own.numel()
        and (place_of(own) in exact or own.untyped_storage().data_ptr() in whole)
    }


def names_left_out(module: nn.Module, names: Iterable[str]) -> tuple[str, ...]:
    """Those of the names that the architecture does not keep in its weights, or that its family leaves out."""
    computed = {
        f"{prefix}.{name}" if prefix else name
        for prefix, each in module.named_modules(remove_duplicate=False)
        for name in each._non_persistent_buffers_set  # torch offers no public view of it
    }
    base = getattr(module, "base_model_prefix", "")  # files of Hugging Face's models may hold the base model alone
    computed |= {name.removeprefix(f"{base}.") for name in computed}
    patterns = [re.compile(pattern) for pattern in _ignored_patterns(module)]
    return tuple(
        sorted(name for name in names if name in computed or any(pattern.search(name) for pattern in patterns))
    )


def _ignored_patterns(module: nn.Module) -> set[str]:
    """What Hugging Face's models leave out: by their own patterns, and buffers that earlier versions of them kept."""
    patterns = {
        pattern
        for each in module.modules()
        for pattern in getattr(each, "_keys_to_ignore_on_load_unexpected", None) or ()
    }
    if not patterns and not any(hasattr(each, "_keys_to_ignore_on_load_unexpected") for each in module.modules()):
        return set()
    buffers = [name for name, _ in module.named_buffers()]
    moved = ("rotary_emb.inv_freq", "position_ids")
    kept = {rf"(^|\.){re.escape(end)}$" for end in moved if any(name.endswith(end) for name in buffers)}
    return patterns | kept | {r"\.masked_bias$"}
