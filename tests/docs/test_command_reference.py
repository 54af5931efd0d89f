"""The pages of commands, the README's table among them, have every command and option."""

import re
from pathlib import Path

from docs.generate.commands import command_reference, subcommands

REPOSITORY = Path(__file__).parents[2]


def test_every_command_and_option_is_there() -> None:
    page = command_reference()
    sections = dict(zip(*[iter(re.split(r"## `mad ?([a-z]*)`\n", page)[1:])] * 2, strict=True))
    assert list(sections) == ["", *subcommands()]
    for name, command in subcommands().items():
        options = [option for parameter in command.params for option in parameter.opts if option.startswith("-")]
        assert [option for option in options if option not in sections[name]] == []


def test_help_fits_a_page() -> None:
    assert max(map(len, command_reference().splitlines())) <= 100


def test_tables_written_by_hand_name_every_command() -> None:
    for page in ("README.md", "docs/reference/commands.md"):
        named = re.findall(r"^\| `mad ([a-z]+)` \|", (REPOSITORY / page).read_text(encoding="utf-8"), re.MULTILINE)
        assert sorted(named) == sorted(subcommands()), page
