"""`mad init`: a commented config to start from."""

from importlib.resources import files
from pathlib import Path

from jobs.console import Common
from pipeline.errors import ConfigError


def write_example(folder: str, common: Common) -> None:
    """Writes audit.yaml unless it exists.

    Raises:
        ConfigError: there is one already, or the folder cannot be written.
    """
    target = Path(folder) / "audit.yaml"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("x", encoding="utf-8") as file:
            file.write(files("jobs").joinpath("example.yaml").read_text(encoding="utf-8"))
    except FileExistsError as error:
        what = f"{target}: exists already and is left unchanged" if target.exists() else f"{folder}: is a file"
        raise ConfigError(f"{what}; name another folder") from error
    except OSError as error:
        raise ConfigError(f"{target}: cannot be written ({error.strerror}); name another folder") from error
    text = f"{target} is written; fill in your models and data, then: mad plan {target}"
    common.emit({"config": str(target)}, text)
