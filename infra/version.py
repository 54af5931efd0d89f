"""The installed version. The distribution is `madaudit`; `mad` is the command, and another project's distribution."""

from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

DISTRIBUTION = "madaudit"
FORMER_NAME = "mad"  # of editable installs that are older than the name


def installed_version() -> str:
    """The version of this software in this environment.

    Raises:
        PackageNotFoundError: it is not installed.
    """
    for name in (DISTRIBUTION, FORMER_NAME):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    raise PackageNotFoundError(DISTRIBUTION)


def source_digest(*packages: str) -> str:
    """A digest of the source of packages, in hexadecimal: a clone changes without a new version."""
    places = [
        place for name in packages if (spec := find_spec(name)) for place in spec.submodule_search_locations or ()
    ]
    found = sha256()
    for place in places:
        for path in sorted(Path(place).rglob("*.py")):
            found.update(f"{path.relative_to(place)}\n".encode())
            found.update(path.read_bytes())
    return found.hexdigest()[:16]
