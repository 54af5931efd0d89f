"""Ids, file names and statuses that attack who reads them: terminals, pages, memory. Every sample keeps its row."""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from infra.storage.files import digest
from pipeline.data.ids import LONGEST_ID, ids_of
from tests.jobs.command import Ended, Json, mad, section, table
from tests.jobs.workshop import small_config, small_tables

ESCAPE = "\x1b]0;owned\x07\x1b[2J\x1b[31mred"


HOSTILE = {
    "an escape sequence": ESCAPE.encode(),
    "a C1 escape": "\x9b2J".encode(),
    "lines": b"x\nmodel   verdict\r\nforged  nothing unusual",
    "turned around": "\u202egnp.exe\u202c".encode(),
    "markup": b"[red]x[/red][link=http://evil.test]y[/link] :skull:",
    "a script": b"<script>document.title='owned'</script>",
    "an attribute": b'"><img src=x onerror="document.title=\'owned\'">',
    "a template": b"{{ 7 * 7 }}{% raw %}",
    "a path": b"../../../../tmp/owned",
    "an absolute path": b"/tmp/owned",
    "NUL": b"a\0b",
    "a URL": b"javascript:alert(1)",
    "no UTF-8": b"\xff\xfe\xed\xa0\x80",
    "a megabyte": b"long-" + b"x" * (1 << 20),
    "empty": b"",
}


FILE = f"inputs-{ESCAPE}\n<script>document.title='owned'</script>.parquet".replace("/", "\u2215")


CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]")


@dataclass(frozen=True)
class Audited:
    """An audit of hostile samples."""

    root: Path
    ids: list[str]
    ended: Ended
    rows: list[Json]


def expected(data: bytes) -> str:
    """The id that a sample of these bytes has."""
    try:
        return data.decode() if len(data) <= LONGEST_ID else f"{data[:200].decode()}...sha256:{digest(data)[:32]}"
    except UnicodeDecodeError:
        return f"{data.decode(errors='replace')}...sha256:{digest(data)[:32]}"


def strings(values: list[bytes]) -> pa.Array:
    """Bytes as a column that says it is text, which pyarrow looks at no further."""
    binary = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(binary), binary.buffers())


@pytest.fixture(scope="module")
def audit(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Audited:
    """Every hostile id on a triggered picture, which is flagged, and on a broken one; in a file of a hostile name."""
    folder = tmp_path_factory.mktemp("hostile")
    shutil.copy(digits / "digits.safetensors", folder)
    trusted, audited = small_tables(digits)
    pq.write_table(trusted, folder / "trusted.parquet")
    raw = [*HOSTILE.values()] * 2
    images = audited["image"].to_pylist()[-len(HOSTILE) :] + [{"bytes": ESCAPE.encode(), "path": None}] * len(HOSTILE)
    clean = audited.slice(0, 20)
    rows = pa.table(
        {
            "id": strings([name.encode() for name in clean["id"].to_pylist()] + raw),
            "image": pa.array(clean["image"].to_pylist() + images, clean["image"].type),
        }
    )
    pq.write_table(rows, folder / FILE)
    config = small_config(folder / "root")
    config["data"] = {**config["data"], "audited": "inputs-*.parquet"}  # type: ignore[dict-item]
    (folder / "audit.yaml").write_text(yaml.safe_dump(config))
    ended = mad("run", folder / "audit.yaml")
    assert ended.code == 0, ended.err
    return Audited(folder / "root", [expected(data) for data in raw], ended, table(folder / "root", "digits"))


def test_every_hostile_sample_has_its_row_and_is_scored_or_says_why(audit: Audited) -> None:
    assert [row["sample_id"] for row in audit.rows[20:]] == audit.ids
    assert [row["status"] for row in audit.rows] == ["ok"] * (20 + len(HOSTILE)) + ["unreadable: not an image"] * len(
        HOSTILE
    )
    assert sum(bool(row["flagged"]) for row in audit.rows[20:]) > len(HOSTILE) / 2


def test_no_name_of_a_file_is_made_of_a_sample(audit: Audited) -> None:
    names = [str(path.relative_to(audit.root)) for path in audit.root.rglob("*")]
    assert [name for name in names if not re.fullmatch(r"[A-Za-z0-9._/=-]+", name)] == []
    assert [name for name in names if "owned" in name or "long" in name] == []
    assert not Path("/tmp/owned").exists()


def shown(ended: Ended) -> str:
    """What a command printed, none of which does anything to a terminal."""
    text = ended.out + ended.err
    assert CONTROL.findall(text) == []
    assert max(map(len, text.split("\n"))) < 20_000
    return text


def test_no_command_prints_what_a_terminal_would_obey(audit: Audited) -> None:
    shown(audit.ended)
    for command in (
        ("report", audit.root, "--top", "50"),
        ("status", audit.root),
        ("inspect", audit.root),
        ("verify", audit.root),
    ):
        text = shown(mad(*command))
        assert "\nforged" not in text
    for name in dict.fromkeys(audit.ids):
        text = shown(mad("explain", audit.root, "--model", "digits", "--sample", name, "-v"))
        assert "\nforged" not in text
    assert "\\x1b[31mred" in shown(mad("explain", audit.root, "--model", "digits", "--sample", ESCAPE))


def test_markup_of_the_printing_library_is_shown_as_it_is(audit: Audited) -> None:
    assert "[red]x[/red][link=http://evil.test]y[/link] :skull:" in mad("report", audit.root, "--top", "50").out


def test_a_sample_that_is_not_there_is_named_in_one_printable_line(audit: Audited) -> None:
    ended = mad("explain", audit.root, "--model", "digits", "--sample", f"{ESCAPE}x\nforged")
    assert ended.code == 2
    assert "has no audited sample" in ended.complaint
    shown(ended)


def test_json_is_one_document_without_control_characters(audit: Audited) -> None:
    out = mad("report", audit.root, "--top", "50", "--output", "json").out
    assert CONTROL.findall(out) == []
    (summary,) = section(json.loads(out), "models").values()
    assert {row["sample_id"] for row in summary["top"]} & {ESCAPE, "a\0b"}  # type: ignore[index,call-overload]


def test_pages_show_them_as_text(audit: Audited) -> None:
    for page in ("index", "digits"):
        html = (audit.root / "report" / f"{page}.html").read_text()
        assert not re.search(r"<script|<img(?! src=\"data:image/png;base64,)|onerror=[\"']?doc", html)
        assert len(html) < 1 << 20
        assert CONTROL.findall(html) == []
    assert "\\x1b]0;owned\\x07\\x1b[2J" in (audit.root / "report" / "digits.html").read_text()


def test_a_hostile_config_path_is_complained_of_in_one_printable_line(tmp_path: Path) -> None:
    folder = tmp_path / "\x1b[2J"
    ended = mad("plan", folder / "audit\n.yaml")
    assert "no such file" in ended.complaint
    shown(ended)


def test_ids_are_text_of_bounded_length_whatever_they_are() -> None:
    assert ids_of(pa.array([1, None, -(1 << 62)])) == ["1", None, str(-(1 << 62))]
    for kind in (pa.string(), pa.large_string(), pa.string_view()):
        assert ids_of(pa.array(["é", None, "x" * LONGEST_ID, ""], kind)) == ["é", None, "x" * LONGEST_ID, ""]
    twins = ids_of(strings([b"x" * 600 + b"1", b"x" * 600 + b"2", b"\xff", "\ufffd".encode()]))
    assert len(set(twins)) == 4
    assert max(len(str(name)) for name in twins) < LONGEST_ID
