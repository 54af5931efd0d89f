"""Whether a module that this process has imported is what its file holds now.

A process that lives long, as that of a notebook, may have imported an older version: then the code that runs is not the
code whose digest is in the keys.
"""

import ast
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from inspect import unwrap
from types import CodeType, FunctionType, ModuleType

from pipeline.errors import SourceError

Shape = tuple[object, ...]


def refuse_stale(module: ModuleType, source: bytes, what: str) -> None:
    """Refuses a module whose functions, or constants at its top, are not those of its source.

    Args:
        module: as it was imported.
        source: what its file holds now.
        what: that needs it, as the error names it.

    Raises:
        SourceError: it is another version.
    """
    if type(module.__loader__) is not SourceFileLoader:  # others may change code as they load it
        return
    file = str(module.__file__)
    try:
        tree = ast.parse(source)
        codes = set(_shapes(compile(source, file, "exec", dont_inherit=True)))
    except (SyntaxError, ValueError):
        changed = "what it holds now is no Python"
    else:
        constants = [name for name, value in _constants(tree) if repr(vars(module).get(name)) != repr(value)]
        functions = [
            function.__qualname__ for function in _functions(module, file) if _shape(function.__code__) not in codes
        ]
        changed = ", ".join([*functions, *constants][:3])
    if changed:
        raise SourceError(
            f"{what}: {file} has changed since this process imported it as {module.__name__} ({changed}), so the code "
            "that runs is not the code of the file; start the process again (in a notebook: restart the kernel)"
        )


def _functions(module: ModuleType, file: str) -> Iterator[FunctionType]:
    """The functions and methods that a module defines, without what decorators have put around them."""
    values = list(vars(module).values())
    own = [value for value in values if isinstance(value, type) and value.__module__ == module.__name__]
    for value in (*values, *(member for kind in own for member in vars(kind).values())):
        inner = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        function = unwrap(inner) if callable(inner) and not isinstance(inner, type) else None
        if isinstance(function, FunctionType) and function.__code__.co_filename == file:
            yield function


def _shapes(code: CodeType) -> Iterator[Shape]:
    yield _shape(code)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _shapes(constant)


def _shape(code: CodeType) -> Shape:
    """What a piece of code does, wherever in its file it stands."""
    constants = tuple(
        _shape(constant) if isinstance(constant, CodeType) else (type(constant), repr(constant))
        for constant in code.co_consts
    )
    return code.co_qualname, code.co_code, code.co_names, code.co_varnames, constants


def _constants(tree: ast.Module) -> Iterator[tuple[str, object]]:
    """Names at the top of a module that are assigned once, and a literal number, text or truth."""
    stored = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
    changed = {name for node in ast.walk(tree) if isinstance(node, ast.Global) for name in node.names}
    for statement in tree.body:
        match statement:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=value))
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.Constant(value=value))
            ) if stored.count(name) == 1 and name not in changed:
                yield name, value
