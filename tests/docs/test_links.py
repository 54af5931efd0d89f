"""Links and names of files on the pages lead somewhere, and the check of a built site finds those that do not."""

import re
from pathlib import Path

import pytest

from docs.links import broken_links

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted(
    path
    for path in (*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md"))
    if not {"_build", "_generated"} & set(path.parts)
)
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
FILE = re.compile(r"`([a-z_0-9]+(?:/[a-z_0-9]+)*/[a-z_0-9]+\.(?:py|yaml|svg|png))`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_links_and_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    linked = [link for link in LINK.findall(text) if "://" not in link]
    assert [link for link in linked if not (page.parent / link).exists()] == []
    assert [name for name in FILE.findall(text) if not (REPOSITORY / name).exists()] == []


def test_a_built_sites_broken_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "index.html").write_text(
        '<h1 id="top-of-it"></h1><a href="deep/page.html#there"></a><a href="deep/page.html#nowhere"></a>'
        '<a href="gone.html"></a><a href="https://example.org/x"></a><a href="#top-of-it"></a><img src="gone.png">'
    )
    (tmp_path / "deep/page.html").write_text('<p id="there"></p><a href="../index.html"></a><a href="#not-here"></a>')
    assert broken_links(tmp_path) == [
        "deep/page.html: #not-here",
        "index.html: deep/page.html#nowhere",
        "index.html: gone.html",
        "index.html: gone.png",
    ]
