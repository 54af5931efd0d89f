"""Paths and URLs: which folder or file of a disk each names, and which are refused.

A plain path is taken literally, whatever characters it holds: `::`, `%20`, `#` and `?` have no meaning in it. URLs that
carry credentials are refused: what a config or command names is recorded, printed and shown on pages.
"""

import os
import re

from infra.errors import StorageError

_HOST = re.compile(r"://([^/?#\s]*)")
_PORT = re.compile(r"(\[[0-9A-Fa-f:.]*\]|[^:@]*)(:\d*)?")
_ARN = "arn:"
_CHAINED = re.compile(r"::([a-z][a-z0-9+.-]*:)?$")  # in a chain such as `zip://name::s3://bucket/archive.zip`
_SIGNED = re.compile(
    r"[?&;](x-(?:amz|goog)-(?:signature|credential|security-token)|signature|sig|awsaccesskeyid"
    r"|(?:access_?)?token|password|passwd|secret|api_?key)=[^&;#\s'\"]*",
    re.IGNORECASE,
)
# botocore's error about an endpoint without a scheme quotes it as it is, after "endpoint: ".
_USER = re.compile(r"(://|endpoint: )[^\s'\"?#/]*:[^\s'\"?#]*@")


LOCAL_SCHEMES = ("file://", "local://")
_ENCODED = re.compile(r"%[0-9A-Fa-f]{2}")


def path_on_disk(url: str) -> str | None:
    """The absolute path that a plain path or a URL of this machine's disks names, None for other URLs.

    Raises:
        StorageError: the URL names a machine, or a path that is not absolute.
    """
    scheme = next((scheme for scheme in LOCAL_SCHEMES if url.startswith(scheme)), "")
    if "://" in url and not scheme:
        return None
    path = url.removeprefix(scheme)
    if scheme and not path.startswith("/"):
        raise StorageError(
            f"{url}: names no absolute path of this machine (that begins with a third slash, {scheme}/...); "
            "write the plain path instead"
        )
    return os.path.join(os.getcwd(), path).rstrip("/") or "/"


def refuse_encoded(url: str) -> None:
    """Refuse a URL of a file in which `%20` may be three characters of a name, or a space.

    Raises:
        StorageError: with the remedy.
    """
    found = _ENCODED.search(url)
    if url.startswith(LOCAL_SCHEMES) and found:
        raise StorageError(
            f"{url}: {found[0]} may stand for itself or for the character that it encodes; write the plain path instead"
        )


def absolute(path: str, folder: str) -> str:
    """A plain path as an absolute one, in which `.`, `..` and repeated slashes are resolved.

    `..` behind a link to a folder is the parent of the folder that the link leads to. `~` and `~/...` are this user's
    home, and `~name` is that of another user, unless the folder has an entry of this name, or there is no such user.

    Args:
        path: the path.
        folder: absolute; what a relative path counts from.
    """
    own = os.path.join(folder, path)
    if path.startswith("~") and (path == "~" or path.startswith("~/") or not _starts_with_an_entry(path, folder)):
        own = os.path.join(folder, os.path.expanduser(path))
    plain = "/" + os.path.normpath(own).lstrip("/")
    if ".." in own.split("/") and os.path.realpath(own) != os.path.realpath(plain):
        return os.path.realpath(own)
    return plain


def _starts_with_an_entry(path: str, folder: str) -> bool:
    return os.path.lexists(os.path.join(folder, path.partition("/")[0]))


def refuse_credentials(url: str) -> None:
    """Refuse a URL with a password, a key or a signature in it; chained URLs (`simplecache::s3://...`) too.

    Raises:
        StorageError: the message does not repeat the secret.
    """
    if "://" in url and (_SIGNED.search(url) or any(_names_password(host) for host in _HOST.findall(url))):
        place = url.partition("://")[0]
        raise StorageError(
            f"{place}://...: this URL carries credentials, and URLs are recorded in runs and shown in reports; remove"
            " them from the URL and set them in the environment instead (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a"
            " profile or a role for S3; MAD_ALERT_URL for on_verdict)"
        )


def masked(text: str) -> str:
    """A text with the secrets of its URLs replaced by `***`."""
    return _SIGNED.sub(lambda found: f"{found[0].partition('=')[0]}=***", _USER.sub(r"\1***@", text))


def _names_password(host: str) -> bool:
    """Whether the part before the first slash has more than a user's name, a host and a port.

    A secret key may itself contain a slash.
    """
    place = host.rpartition("@")[2]
    if ":" in host.removesuffix(place):
        return True
    return not (place.startswith(_ARN) or _PORT.fullmatch(_CHAINED.sub("", place)))
