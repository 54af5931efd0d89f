"""The installed version. The distribution is `madaudit`; `mad` is the command, and another project's distribution."""

from importlib.metadata import PackageNotFoundError, version

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
