"""The command line's reference, from the help that the command itself prints."""

from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from jobs.main import app

WIDTH = 100


def command_reference() -> str:
    """Markdown: the command's own help, then that of each subcommand."""
    group = _group()
    context = group.context_class(group, info_name="mad", terminal_width=WIDTH, max_content_width=WIDTH)
    parts = [_section("mad", group.get_help(context))]
    for name, command in subcommands().items():
        own = command.context_class(command, info_name=name, parent=context)
        parts.append(_section(f"mad {name}", command.get_help(own)))
    return "\n".join(parts)


def subcommands() -> dict[str, TyperCommand]:
    """All commands by name, in the order of the help."""
    return {name: command for name, command in _group().commands.items() if isinstance(command, TyperCommand)}


def _group() -> TyperGroup:
    group = get_command(app)
    assert isinstance(group, TyperGroup), "one command has no subcommands"
    return group


def _section(name: str, text: str) -> str:
    lines = "\n".join(line.rstrip() for line in text.strip().splitlines())
    return f"## `{name}`\n\n```text\n{lines}\n```\n"
