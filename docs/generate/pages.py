"""Writes all generated parts of pages into one folder, from which pages include them."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from docs.generate.commands import command_reference
from docs.generate.config import config_reference
from docs.generate.examples import SCRIPTS, printed_by
from docs.generate.tables import table_reference


def write_all(folder: Path) -> None:
    """Writes every part; a script that fails ends the build.

    Raises:
        RuntimeError: an example failed, with what it printed.
    """
    folder.mkdir(exist_ok=True)
    parts = {"commands.md": command_reference(), "config.md": config_reference(), "scores.md": table_reference()}
    with ThreadPoolExecutor() as pool:
        parts |= {f"{name}.txt": text for name, text in zip(SCRIPTS, pool.map(printed_by, SCRIPTS), strict=True)}
    for name, text in parts.items():
        (folder / name).write_text(text, encoding="utf-8")
