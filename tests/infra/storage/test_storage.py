"""What every store guarantees; certify another one by adding its kind to `tests.infra.stores`."""

import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from infra.errors import AlreadyExists, Missing, StorageError
from infra.storage.storage import Storage
from tests.infra.stores import RACEABLE, another_client


def attempt(storage: Storage, path: str, data: bytes) -> bool:
    """Whether an exclusive create succeeds."""
    try:
        storage.create(path, data)
    except AlreadyExists:
        return False
    return True


def listed_before(storage: Storage) -> None:
    """Make a folder with one file and list it; some stores cache listings."""
    storage.create("folder/a", b"1")
    assert storage.list("folder") == ["a"]
    assert list(storage.walk("")) == ["folder/a"]


LOOKS: dict[str, Callable[[Storage], object]] = {
    "list": lambda storage: storage.list("folder") == ["a", "b"],
    "walk": lambda storage: sorted(storage.walk("")) == ["folder/a", "folder/b"],
    "exists": lambda storage: storage.exists("folder/b"),
}

REPLACEMENTS: dict[str, Callable[[Storage], None]] = {
    "create": lambda storage: storage.create("folder/b", b"3"),
    "publish": lambda storage: storage.publish("folder/a", "folder/b"),
}


class TestConformance:
    """Run against every kind of store."""

    @pytest.mark.parametrize("data", [b"", b"a", bytes(range(256)) * 5000], ids=["empty", "a byte", "a megabyte"])
    @pytest.mark.parametrize("path", ["file", "a/b/c.json", "a b/ü=1/x.y"])
    def test_what_is_written_is_read(self, storage: Storage, path: str, data: bytes) -> None:
        assert not storage.exists(path)
        storage.write(path, data)
        assert storage.exists(path)
        assert storage.read(path) == data
        assert list(storage.walk("")) == [path]

    def test_write_replaces(self, storage: Storage) -> None:
        storage.write("a/file", b"a longer first version")
        storage.write("a/file", b"second")
        assert storage.read("a/file") == b"second"

    def test_create_writes_once(self, storage: Storage) -> None:
        storage.create("a/file", b"first")
        with pytest.raises(AlreadyExists, match="a/file: already exists"):
            storage.create("a/file", b"second")
        assert storage.read("a/file") == b"first"

    def test_create_refuses_what_write_made(self, storage: Storage) -> None:
        storage.write("file", b"first")
        with pytest.raises(FileExistsError):
            storage.create("file", b"second")
        assert storage.read("file") == b"first"

    @pytest.mark.parametrize("storage", RACEABLE, indirect=True)
    def test_a_race_has_exactly_one_winner_and_readers_see_it_whole(self, storage: Storage) -> None:
        writers, rounds = 8, 20
        contents = [bytes([w]) * 10_000 for w in range(writers)]
        clients = [another_client(storage) for _ in range(writers)]
        with ThreadPoolExecutor(writers) as threads:
            for number in range(rounds):
                start = Barrier(writers)

                def race(writer: int, path: str = f"race/{number}", start: Barrier = start) -> bool:
                    start.wait()
                    return attempt(clients[writer], path, contents[writer])

                won = list(threads.map(race, range(writers)))
                assert won.count(True) == 1
                assert storage.read(f"race/{number}") == contents[won.index(True)]
        assert storage.list("race") == sorted(str(number) for number in range(rounds))

    def test_upload_writes_what_a_local_file_holds_and_replaces(self, storage: Storage, tmp_path: Path) -> None:
        local = tmp_path / "local"
        for data in (b"a longer first version" * 1000, b"second", b""):
            local.write_bytes(data)
            storage.upload("a/b/file", local)
            assert storage.read("a/b/file") == data
        assert list(storage.walk("")) == ["a/b/file"]
        assert local.exists()

    def test_publish_gives_a_second_name_and_keeps_the_first(self, storage: Storage) -> None:
        storage.write("attempt/table", b"table" * 1000)
        storage.publish("attempt/table", "public/run=1/table")
        assert storage.read("public/run=1/table") == storage.read("attempt/table") == b"table" * 1000
        assert sorted(storage.walk("")) == ["attempt/table", "public/run=1/table"]

    def test_publish_never_replaces(self, storage: Storage) -> None:
        storage.write("first", b"first")
        storage.write("second", b"second")
        storage.publish("first", "public")
        with pytest.raises(AlreadyExists, match="public: already exists"):
            storage.publish("second", "public")
        assert storage.read("public") == b"first"

    def test_what_is_published_does_not_follow_its_first_name(self, storage: Storage) -> None:
        storage.write("first", b"first")
        storage.publish("first", "public")
        storage.write("first", b"changed")
        assert storage.read("public") == b"first"

    def test_publishing_what_is_not_there_is_missing(self, storage: Storage) -> None:
        with pytest.raises(Missing):
            storage.publish("nothing", "public")
        assert list(storage.walk("")) == []

    def test_list_names_what_is_directly_there_sorted_hidden_left_out(self, storage: Storage) -> None:
        for path in ["folder/b", "folder/a/x", "folder/.hidden", "folder/.tmp/y", "other"]:
            storage.write(path, b"1")
        assert storage.list("folder") == ["a", "b"]
        assert storage.list("") == ["folder", "other"]
        assert storage.list("folder/nothing") == []

    @pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS.keys())
    def test_what_another_writer_made_since_is_seen(self, storage: Storage, look: Callable[[Storage], object]) -> None:
        listed_before(storage)
        another_client(storage).create("folder/b", b"2")
        assert look(storage)

    @pytest.mark.parametrize("replace", REPLACEMENTS.values(), ids=REPLACEMENTS.keys())
    def test_what_another_writer_made_since_is_not_replaced(
        self, storage: Storage, replace: Callable[[Storage], None]
    ) -> None:
        listed_before(storage)
        another_client(storage).create("folder/b", b"2")
        with pytest.raises(AlreadyExists):
            replace(storage)
        assert storage.read("folder/b") == b"2"

    def test_walk_finds_every_file_below(self, storage: Storage) -> None:
        paths = {"top", "a/x", "a/b/y", "a/b/c/z"}
        for path in paths:
            storage.write(path, b"1")
        assert set(storage.walk("")) == paths
        assert sorted(storage.walk("a")) == ["a/b/c/z", "a/b/y", "a/x"]
        assert list(storage.walk("nothing")) == []

    def test_open_reads_ranges(self, storage: Storage) -> None:
        data = bytes(range(256)) * 40
        storage.write("a/file", data)
        with storage.open("a/file") as file:
            file.seek(300)
            assert file.read(10) == data[300:310]
            file.seek(-3, 2)
            assert file.read() == data[-3:]

    @pytest.mark.parametrize("ask", [Storage.read, Storage.open, Storage.remove], ids=["read", "open", "remove"])
    def test_what_is_not_there_is_missing(self, storage: Storage, ask: object) -> None:
        assert callable(ask)
        with pytest.raises(Missing, match="folder/nothing: no such file") as caught:
            ask(storage, "folder/nothing")
        assert isinstance(caught.value, StorageError) and isinstance(caught.value, FileNotFoundError)

    def test_remove_removes_one_file(self, storage: Storage) -> None:
        storage.write("a/x", b"1")
        storage.write("a/y", b"2")
        storage.remove("a/x")
        assert storage.list("a") == ["y"]

    def test_it_travels_to_workers(self, storage: Storage) -> None:
        storage.write("file", b"data")
        copy = pickle.loads(pickle.dumps(storage))
        assert copy.url == storage.url
        assert copy.read("file") == b"data"
        assert not attempt(copy, "file", b"other")

    def test_making_one_writes_nothing(self, storage: Storage) -> None:
        assert list(storage.walk("")) == []
        assert not storage.filesystem.exists(storage.root)

    def test_the_probe_accepts_it_and_leaves_nothing_behind(self, storage: Storage) -> None:
        storage.refuse_without_exclusive_create()
        storage.refuse_without_exclusive_create()
        assert list(storage.walk("")) == []

    def test_places_are_named_as_a_person_would_open_them(self, storage: Storage) -> None:
        assert storage.locate("a/b") == f"{storage.url}/a/b"
        assert storage.locate("").rstrip("/") == storage.url
