"""Makers of odd files, each of untouched ones. None looks at the network."""

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

SCRIPTS = ("batch", "javascript", "perl", "php", "powershell", "python", "shell", "tcl")
IMAGES = ("gif", "ico", "jpeg", "png")
HEADER = 64  # bytes
PDF = b"""%PDF-1.4
1 0 obj <</Type /Catalog /Pages 2 0 R>> endobj
2 0 obj <</Type /Pages /Kids [3 0 R] /Count 1>> endobj
3 0 obj <</Type /Page /Parent 2 0 R /MediaBox [0 0 99 99]>> endobj
trailer <</Root 1 0 R>>
%%EOF
"""


@dataclass(frozen=True)
class File:
    """A file: its path, its kind by name, and what it holds."""

    path: str
    kind: str
    content: bytes


@dataclass(frozen=True)
class Oddity:
    """A way to make a file odd. `hosts`: the kinds that it is done to, `others`: those that it takes; () for all."""

    make: Callable[[File, File, Random], bytes]
    hosts: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


def zip_appended(host: File, other: File, random: Random) -> bytes:
    """A file that is an archive too: archives are read from their end."""
    whole = io.BytesIO(host.content)
    entry = zipfile.ZipInfo(other.path.rpartition("/")[2])  # of 1980, so that the same files make the same archive
    with zipfile.ZipFile(whole, "a") as archive:
        archive.writestr(entry, other.content, zipfile.ZIP_DEFLATED)
    return whole.getvalue()


def pdf_in_front(host: File, other: File, random: Random) -> bytes:
    """An archive that is a PDF of one empty page too."""
    return PDF + host.content


def script_appended(host: File, other: File, random: Random) -> bytes:
    """An image with a script behind its last byte."""
    return host.content + b"\n" + other.content


def cut(host: File, other: File, random: Random) -> bytes:
    """The first tenth to half of a file."""
    return host.content[: int(len(host.content) * random.uniform(0.1, 0.5))]


def zeros_appended(host: File, other: File, random: Random) -> bytes:
    """A file filled up with zeros, as a carver or a partial download leaves it."""
    return host.content + bytes(random.randrange(1024, 8192))


def junk_in_front(host: File, other: File, random: Random) -> bytes:
    """A file behind random bytes, as many as the network sees of a beginning, or more."""
    return random.randbytes(random.randrange(1024, 8192)) + host.content


def other_header(host: File, other: File, random: Random) -> bytes:
    """A file whose first bytes are those of a file of another kind."""
    return other.content[:HEADER] + host.content[HEADER:]


def other_name(host: File, other: File, random: Random) -> bytes:
    """A script under the name of an image. The network sees no names, so an audit that sees this one sees ghosts."""
    return host.content


TAKE_BYTES_BEHIND = (*IMAGES, "elf", "pdf", "pebin")

ODDITIES = {
    "zip appended": Oddity(zip_appended, TAKE_BYTES_BEHIND, SCRIPTS),
    "pdf in front": Oddity(pdf_in_front, ("jar", "zip")),
    "script appended": Oddity(script_appended, IMAGES, SCRIPTS),
    "cut": Oddity(cut),
    "zeros appended": Oddity(zeros_appended),
    "junk in front": Oddity(junk_in_front),
    "other header": Oddity(other_header),
    "other name": Oddity(other_name, SCRIPTS, IMAGES),
}


def make_odd(name: str, donors: list[File], wanted: int, random: Random) -> list[File]:
    """Up to `wanted` odd files, of the kind of what they are made of; other files are of another kind."""
    oddity, made = ODDITIES[name], list[File]()
    hosts = [file for file in donors if file.kind in (oddity.hosts or {file.kind})]
    others = [file for file in donors if file.kind in (oddity.others or {file.kind})]
    for host in random.sample(hosts, min(wanted, len(hosts))):
        if unlike := [file for file in others if file.kind != host.kind]:
            made.append(File(f"{name}: {host.path}", host.kind, oddity.make(host, random.choice(unlike), random)))
    return made
