"""State dicts as files hold them, and as an architecture may want them: out of their wrappers, without their prefixes.

Trainers wrap what `model.state_dict()` gave: in an entry of a larger dict (`state_dict`, `model`, `net`, Lightning's
beside its optimizers), and in prefixes of names (`module.` of DataParallel, `_orig_mod.` of torch.compile, `model.` of
a class around the network). Which of these undoings is right is not guessed: `pipeline.models.weights.fitting` tries
them.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeGuard

from torch import Tensor

from pipeline.models.weights.mismatches import first_names

DEEPEST = 3  # entries within entries that are looked into


MOST = 64  # entries, or parts of names, that are tried


WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


EXTRA_STATE = "_extra_state"  # of modules whose state is more than tensors, as torch names it


COUNTER = "n_averaged"  # of torch.optim.swa_utils.AveragedModel, beside the averaged weights


@dataclass(frozen=True)
class StateDict:
    """Tensors by name, and what the file says of them.

    `versions`: of each module's format, by its name, as torch writes them; None where the file has none. `same`: names
    that safetensors' `save_model` left out, each with the name of the tensor that it is the same as. `undone`: what was
    undone to get here, such as "from its entry `state_dict`" and "without the prefix `module.`"; none for a file as it
    is.
    """

    tensors: Mapping[str, object]
    versions: Mapping[str, object] | None = None
    same: Mapping[str, str] = field(default_factory=dict)
    undone: tuple[str, ...] = ()

    def as_torch_takes_it(self, tensors: Mapping[str, object]) -> OrderedDict[str, object]:
        """Some tensors of it with its versions, for `load_state_dict`."""
        state = OrderedDict(tensors)
        if self.versions is not None:
            state._metadata = dict(self.versions)  # type: ignore[attr-defined]
        return state


def is_state_dict(found: object) -> TypeGuard[Mapping[str, object]]:
    """Whether something is a mapping of names to tensors, extra states of modules apart."""
    if not isinstance(found, Mapping):
        return False
    return all(
        isinstance(name, str) and (isinstance(value, Tensor) or name.endswith(EXTRA_STATE))
        for name, value in found.items()
    )


def state_dicts_in(loaded: object) -> list[StateDict]:
    """The state dicts in what torch loaded from a file: itself, or in entries of it, the outer ones first.

    A hostile file may name one entry a million times, and each by millions of names: none is looked into twice.
    """
    if is_state_dict(loaded):
        return [StateDict(loaded, _versions(loaded))]
    found, known, waiting = list[StateDict](), dict[int, bool](), deque[tuple[tuple[str, ...], object]]([((), loaded)])
    while waiting and len(found) < MOST:
        place, holder = waiting.popleft()
        for key, value in holder.items() if isinstance(holder, Mapping) else ():
            if not isinstance(key, str) or not isinstance(value, Mapping) or not value:
                continue
            known_before = id(value) in known
            if known.setdefault(id(value), known_before or is_state_dict(value)):
                entry = ".".join((*place, key))
                found.append(StateDict(value, _versions(value), undone=(f"from its entry `{entry}`",)))
            elif not known_before and len(place) < DEEPEST - 1:
                waiting.append(((*place, key), value))
    return found[:MOST]


def _versions(state: object) -> Mapping[str, object] | None:
    """What torch notes of each module beside its tensors, without the setting that makes it replace parameters."""
    noted = getattr(state, "_metadata", None)
    if not isinstance(noted, Mapping):
        return None
    return {
        name: {key: value for key, value in of_module.items() if key != "assign_to_params_buffers"}
        for name, of_module in noted.items()
        if isinstance(name, str) and isinstance(of_module, Mapping)
    }


def undoings(state: StateDict) -> Iterator[StateDict]:
    """A state dict as it is, then with ever more undone of what wraps all of its names."""
    yield state
    bare = _without_counter(state)
    yield from _stripped(bare)
    present = [wrapper for wrapper in WRAPPERS if any(wrapper in name.split(".") for name in bare.tensors)]
    inner = _renamed(bare, _without_wrappers)
    if inner is not None:
        within = " and ".join(f"`{wrapper}.`" for wrapper in present)
        inner = replace(inner, undone=(*state.undone, f"without {within} in its names"))
        yield inner
        yield from _stripped(inner)


def parts_of(state: StateDict) -> Iterator[StateDict]:
    """The tensors under each first part of their names, where there are several parts; the others are left out."""
    firsts = dict.fromkeys(name.partition(".")[0] for name in state.tensors if "." in name)
    for first in list(firsts)[:MOST]:
        rest = [name for name in state.tensors if not name.startswith(f"{first}.")]
        part = _renamed(state, partial(_below, first=first)) if rest else None
        if part is not None:
            left = f"leaving out {first_names(rest)}"
            yield replace(part, undone=(*state.undone, f"without the prefix `{first}.`", left))


def _below(segments: tuple[str, ...], first: str) -> tuple[str, ...] | None:
    return segments[1:] if segments[0] == first else None


Rename = Callable[[tuple[str, ...]], tuple[str, ...] | None]


def _stripped(state: StateDict) -> Iterator[StateDict]:
    """Without the prefix that all names share, one segment of it after the other."""
    prefix, said = "", state.undone
    for _ in range(DEEPEST):
        firsts = {name.partition(".")[0] if "." in name else "" for name in state.tensors}
        first = next(iter(firsts), "")
        shorter = _renamed(state, partial(_below, first=first)) if len(firsts) == 1 and first else None
        if shorter is None:
            return
        prefix, state = f"{prefix}{first}.", shorter
        yield replace(state, undone=(*said, f"without the prefix `{prefix}`"))


def _without_counter(state: StateDict) -> StateDict:
    """Without the counter of averaged weights."""
    others = [name for name in state.tensors if name != COUNTER]
    if len(others) == len(state.tensors) or not all(name.startswith("module.") for name in others):
        return state
    return replace(state, tensors={name: state.tensors[name] for name in others})


def _without_wrappers(segments: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(segment for segment in segments if segment not in WRAPPERS)


def _renamed(state: StateDict, rename: Rename) -> StateDict | None:
    """With other names throughout, without the tensors that get none; None where nothing changes or names collide."""

    def new(name: str) -> str | None:
        segments = rename(tuple(name.split(".")))
        return None if segments is None else ".".join(segments)

    pairs = [(new(name), value) for name, value in state.tensors.items()]
    tensors = {name: value for name, value in pairs if name}
    kept = sum(name is not None for name, _ in pairs)
    if len(tensors) != kept or list(tensors) == list(state.tensors):
        return None
    modules = {} if state.versions is None else {_module(new, name): value for name, value in state.versions.items()}
    versions = None if state.versions is None else {name: value for name, value in modules.items() if name is not None}
    same = {new(name): new(other) for name, other in state.same.items()}
    return StateDict(
        tensors, versions, {name: other for name, other in same.items() if name and other}, undone=state.undone
    )


def _module(new: Callable[[str], str | None], module: str) -> str | None:
    """The new name of a module, by that of a tensor in it; None where it is now outside."""
    name = new(f"{module}.x" if module else "x")
    return name.rpartition(".")[0] if name else None
