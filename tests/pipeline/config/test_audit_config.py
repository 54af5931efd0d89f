"""`audit.yaml` to a frozen config: paths, and files that are refused as a whole."""

from pathlib import Path

import pytest
import yaml
from pydantic import JsonValue, ValidationError

from pipeline.config.audit_config import AuditConfig
from pipeline.config.safe_yaml import LARGEST_CONFIG
from pipeline.errors import ConfigError
from tests.pipeline.config.configs import MINIMAL, MODEL, parse


def test_relative_paths_count_from_the_folder_of_the_config_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "audit.yaml").write_text(yaml.safe_dump(MINIMAL))
    monkeypatch.chdir(tmp_path)
    for place in ("configs/audit.yaml", folder / "audit.yaml"):
        config = AuditConfig.load(place)
        assert config.root == str(folder / "audits")
        located = [
            config.locate(path) for path in ("net.safetensors", "../w.pt", "/data/a.parquet", "s3://bucket/a.parquet")
        ]
        assert located == [
            str(folder / "net.safetensors"),
            str(folder.parent / "w.pt"),
            "/data/a.parquet",
            "s3://bucket/a.parquet",
        ]


@pytest.mark.parametrize("root", ["s3://audits/zoo", "memory://zoo", "/srv/audits"])
def test_a_root_that_is_a_url_or_absolute_stays_as_it_is(root: str) -> None:
    assert parse(f"root: {root}").root == root


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("", "root", "elsewhere"),
        ("", "models", ()),
        ("run", "batch_size", 1),
        ("models.0", "weights", "x"),
        ("models.0.calibration.target", "fpr", 0.5),
    ],
)
def test_a_config_is_frozen(section: str, name: str, value: object) -> None:
    held: object = parse()
    for part in section.split(".") if section else []:
        held = held[int(part)] if isinstance(held, tuple) else getattr(held, part)
    before = getattr(held, name)
    with pytest.raises(ValidationError, match="frozen"):
        setattr(held, name, value)
    assert getattr(held, name) == before


BROKEN = {
    "not closed": ("models: [1", "not valid YAML: .*line 1, column 9.*expected ',' or '\\]'"),
    "two documents": ("root: a\n---\nroot: b\n", "not valid YAML: expected a single document"),
    "a tab": ("root:\n\t- a\n", r"not valid YAML: .*'\\t' that cannot start any token.*line 2"),
    "code": (
        "root: !!python/object/apply:os.getcwd []\n",
        "not valid YAML: could not determine a constructor for the tag",
    ),
    "deep": ("[" * 100_000, "nested 65 deep in line 1; a config needs at most 64"),
    "a list": (
        "- root: a\n",
        "expected a mapping with root, models, task and data, found list; `mad init` writes an example config",
    ),
    "text": ("hello\n", "expected a mapping with root, models, task and data, found str"),
    "nothing": ("", "expected a mapping with root, models, task and data, found NoneType"),
    "another encoding": ("root: \udcff", "cannot be read \\('utf-8' codec can't decode byte 0xff in position 6"),
    "a data file": ("#" * (LARGEST_CONFIG + 1), r"4,194,305 bytes are too many for a config \(at most 4,194,304\)"),
}


@pytest.mark.parametrize(("text", "expected"), BROKEN.values(), ids=BROKEN)
def test_a_file_that_holds_no_mapping_is_refused_by_name(text: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "audit.yaml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match=f"audit.yaml: {expected}") as caught:
        AuditConfig.load(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"^{tmp_path}/none.yaml: no such file; `mad init` writes an example config$"):
        AuditConfig.load(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=f"^{tmp_path}: cannot be read .*Is a directory"):
        AuditConfig.load(tmp_path)


@pytest.mark.parametrize("text", ["root: 2026-13-45\n", f"root: {'9' * 5000}\n"])
def test_a_scalar_that_yaml_cannot_build_is_refused_by_name(text: str, tmp_path: Path) -> None:
    (tmp_path / "audit.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"audit\.yaml: not valid YAML"):
        AuditConfig.load(tmp_path / "audit.yaml")


@pytest.mark.parametrize("models", [None, [], {}, "net", [3], [MODEL, "net"]])
def test_models_are_a_list_of_mappings(models: JsonValue) -> None:
    with pytest.raises(
        ConfigError,
        match="models: a list of at least one model is required, each a mapping with name, architecture and weights",
    ):
        AuditConfig.parse({**MINIMAL, "models": models})


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("root", "root: required, but not given"),
        ("task", "models.net.task: required, but not given"),
        ("data", "models.net.data: required, but not given"),
    ],
)
def test_what_is_required_is_asked_for(key: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        AuditConfig.parse({name: value for name, value in MINIMAL.items() if name != key})


def test_names_are_unique() -> None:
    models: list[JsonValue] = [{**MODEL, "name": name} for name in ("b", "a", "b", "c", "a")]
    with pytest.raises(ConfigError, match=r"models: names must be unique, repeated: a, b$"):
        AuditConfig.parse({**MINIMAL, "models": models})


def test_names_that_differ_in_case_only_are_refused() -> None:
    models: list[JsonValue] = [{**MODEL, "name": name} for name in ("Net", "other", "net")]
    with pytest.raises(ConfigError, match=r"models: the names Net and net differ in case only, and are one folder on"):
        AuditConfig.parse({**MINIMAL, "models": models})
