"""Writes all generated parts of pages into one folder, from which pages include them."""

from pathlib import Path

from docs.generate.commands import command_reference
from docs.generate.config import config_reference
from docs.generate.examples import SCRIPTS, run_example
from docs.generate.tables import table_reference


def write_all(folder: Path) -> None:
    """Writes every part; a script that fails ends the build.

    Raises:
        RuntimeError: an example failed, with what it printed.
    """
    folder.mkdir(exist_ok=True)
    parts = {"commands.md": command_reference(), "config.md": config_reference(), "scores.md": table_reference()}
    parts |= {f"{name}.txt": run_example(name) for name in SCRIPTS}
    for name, text in parts.items():
        (folder / name).write_text(text, encoding="utf-8")
