"""YAML that cannot do harm: no code, and bounded in size, depth, scalars, and in what its aliases expand to.

An alias repeats all that it names, so a few lines can expand to billions of values; the size with all aliases expanded
counts.
"""

from collections import Counter
from collections.abc import Hashable

import yaml

from pipeline.errors import ConfigError

LARGEST_CONFIG = 4 << 20


MOST_VALUES = 1 << 18


DEEPEST = 64


LONGEST_SCALAR = 1 << 16


def parse_yaml(data: bytes) -> object:
    """The one document in a file's bytes, UTF-8.

    Raises:
        ConfigError: it is not YAML, has tags other than those of YAML's safe types, a duplicated key, or an
            unreasonable size.
    """
    if len(data) > LARGEST_CONFIG:
        raise ConfigError(f"{len(data):,} bytes are too many for a config (at most {LARGEST_CONFIG:,})")
    try:
        return yaml.load(data.decode("utf-8"), _Loader)  # noqa: S506 - it is a SafeLoader
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot be read ({error})") from error
    except ConfigError:
        raise
    except (yaml.YAMLError, ValueError, OverflowError, AttributeError, TypeError) as error:
        raise ConfigError(f"not valid YAML: {' '.join(str(error).split())}") from error


class _Loader(yaml.SafeLoader):
    """Counts what it composes, and refuses duplicated keys, of which YAML would silently keep the last."""

    def __init__(self, text: str):
        super().__init__(text)
        self._depth = self._values = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """A value, or what an alias names; counted before an object is made from it."""
        line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]
        if self.check_event(yaml.AliasEvent):
            node = super().compose_node(parent, index)
            if id(node) not in self._sizes:
                raise ConfigError(f"the alias in line {line} refers to itself: it is within the value that it names")
            self._count(self._sizes[id(node)], line)
            return node
        before = self._values
        self._count(1, line)
        self._depth += 1
        if self._depth > DEEPEST:
            raise ConfigError(f"nested {self._depth} deep in line {line}; a config needs at most {DEEPEST}")
        node = super().compose_node(parent, index)
        self._depth -= 1
        self._sizes[id(node)] = self._values - before
        return node

    def _count(self, values: int, line: int) -> None:
        self._values += values
        if self._values > MOST_VALUES:
            raise ConfigError(
                f"more than {MOST_VALUES:,} values up to line {line}, with aliases expanded; split the config"
            )

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> str:
        """A scalar's text, bounded."""
        text = str(super().construct_scalar(node))
        if len(text) > LONGEST_SCALAR:
            line = node.start_mark.line + 1
            raise ConfigError(
                f"the value in line {line} has {len(text):,} characters, at most {LONGEST_SCALAR:,} are allowed"
            )
        return text

    def construct_whole(self, node: yaml.ScalarNode) -> int:
        """A whole number of at most 64 bits, because nothing that reads a config takes more."""
        number = int(super().construct_yaml_int(node))
        if not -(1 << 63) <= number < 1 << 63:
            raise ConfigError(f"the number in line {node.start_mark.line + 1} needs more than 64 bits")
        return number

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        """A mapping, each key once."""
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<")
        duplicated = [key for key, times in keys.items() if times > 1]
        if duplicated:
            line = node.start_mark.line + 1
            raise ConfigError(
                f"the key {duplicated[0]!r} is duplicated in the mapping that begins in line {line}; keep one"
            )
        return super().construct_mapping(node, deep)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_whole)
