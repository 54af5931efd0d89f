"""YAML that cannot do harm: no code, and bounded in size, depth, scalars and in what its aliases grow to.

An alias stands for all of what it names, so a few lines can stand for billions of values; what counts is the size when all are written out.
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
        ConfigError: it is not YAML, has tags that YAML's safe types do not know, has a key twice, or is larger than a config ever is.
    """
    if len(data) > LARGEST_CONFIG:
        raise ConfigError(f"{len(data):,} bytes is no config (at most {LARGEST_CONFIG:,})")
    try:
        return yaml.load(data.decode("utf-8"), _Loader)  # noqa: S506 - it is a SafeLoader
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot be read ({error})") from error
    except ConfigError:
        raise
    except (yaml.YAMLError, ValueError, OverflowError, AttributeError, TypeError) as error:
        raise ConfigError(f"not valid YAML: {' '.join(str(error).split())}") from error


class _Loader(yaml.SafeLoader):
    """Counts what it composes, and refuses a key that stands twice, of which YAML would keep the last and drop the others in silence."""

    def __init__(self, text: str):
        super().__init__(text)
        self._depth = self._values = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """A value, or what an alias stands for; counted before it is made into anything."""
        line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]
        if self.check_event(yaml.AliasEvent):
            node = super().compose_node(parent, index)
            if id(node) not in self._sizes:
                raise ConfigError(f"the alias in line {line} stands within what it names, without end")
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
                f"more than {MOST_VALUES:,} values up to line {line}, aliases written out; split the config"
            )

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> str:
        """A scalar's text, bounded."""
        text = str(super().construct_scalar(node))
        if len(text) > LONGEST_SCALAR:
            raise ConfigError(
                f"the value in line {node.start_mark.line + 1} has {len(text):,} characters, at most {LONGEST_SCALAR:,} are taken"
            )
        return text

    def construct_whole(self, node: yaml.ScalarNode) -> int:
        """A whole number of at most 64 bits, beyond which nothing that reads a config goes."""
        number = int(super().construct_yaml_int(node))
        if not -(1 << 63) <= number < 1 << 63:
            raise ConfigError(f"the number in line {node.start_mark.line + 1} needs more than 64 bits")
        return number

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        """A mapping, each key once."""
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<")
        twice = [key for key, times in keys.items() if times > 1]
        if twice:
            raise ConfigError(
                f"the key {twice[0]!r} stands twice in the mapping that begins in line {node.start_mark.line + 1}; keep one"
            )
        return super().construct_mapping(node, deep)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_whole)
