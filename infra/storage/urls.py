"""Refuses URLs that carry credentials: what a config or command names is recorded, printed and shown on pages."""

import re

from infra.errors import StorageError

_HOST = re.compile(r"://([^/?#\s]*)")
_PORT = re.compile(r"(\[[0-9A-Fa-f:.]*\]|[^:@]*)(:\d*)?")
_ARN = "arn:"
_SIGNED = re.compile(
    r"[?&;](x-(?:amz|goog)-(?:signature|credential|security-token)|signature|sig|awsaccesskeyid"
    r"|(?:access_?)?token|password|passwd|secret|api_?key)=[^&;#\s'\"]*",
    re.IGNORECASE,
)
# botocore's error about an endpoint without a scheme quotes it as it is, after "endpoint: ".
_USER = re.compile(r"(://|endpoint: )[^\s'\"?#/]*:[^\s'\"?#]*@")


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
    return not (place.startswith(_ARN) or _PORT.fullmatch(place))
