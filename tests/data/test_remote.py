from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ffpipe.config.recipes import get_recipe
from ffpipe.config.schema import Data
from ffpipe.data.discover import discover, on
from ffpipe.data.remote import fetched
from ffpipe.data.splits import load_splits
from ffpipe.system.errors import UserError


class Handler(http.server.SimpleHTTPRequestHandler):
    asked: ClassVar[list[str]] = []

    def log_message(self, format: str, *args: object) -> None:
        self.asked.append(f"{self.command} {self.path}")


class WithoutLength(Handler):
    """It ends a file by closing the connection, as servers do that make their answers as they go."""

    def send_header(self, keyword: str, value: str) -> None:
        if keyword != "Content-Length":
            super().send_header(keyword, value)


@pytest.fixture
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a server of the folder `served`, on loopback. Its parameter: a handler other than Handler."""
    folder = tmp_path / "served"
    folder.mkdir()
    Handler.asked.clear()
    handler = partial(getattr(request, "param", Handler), directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        thread = threading.Thread(target=serving.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()
        thread.join()


def silent(line: str) -> None:
    pass


def write(folder: Path) -> None:
    (folder / "set.csv").write_text("label,a,b\n" + "".join(f"{row % 2},{row},{255 - row}\n" for row in range(40)))
    np.savez(folder / "set.npz", x=np.arange(80, dtype=np.uint8).reshape(40, 2), y=np.arange(40) % 2)
    for part in range(2):
        table = pa.table({"image": [[row, 255 - row] for row in range(20)], "label": [row % 2 for row in range(20)]})
        (folder / "shards").mkdir(exist_ok=True)
        pq.write_table(table, folder / "shards" / f"{part}.parquet")


@pytest.mark.parametrize("name", ["set.csv", "set.npz"])
def test_from_the_web(name: str, server: str, tmp_path: Path) -> None:
    write(tmp_path / "served")
    url = f"{server}/{name}"
    config = on(get_recipe("digits"), discover([url]))
    assert config.training.data.train == (url,)
    assert len(load_splits(config.training.data).stored[0]) == 40
    assert Handler.asked.count(f"GET /{name}") == 1, "what is there is not fetched again"
    (tmp_path / "served" / name).unlink()
    with pytest.raises(UserError, match=r"training\.data\.train: http.* cannot be fetched: .*404"):
        load_splits(config.training.data)


@pytest.mark.parametrize("server", [WithoutLength], indirect=True)
def test_a_file_of_unknown_size_is_fetched_whole(server: str, tmp_path: Path) -> None:
    text = "label,a\n" + "1,2\n" * 100_000
    (tmp_path / "served" / "set.csv").write_text(text)
    (found,) = fetched([f"{server}/set.csv"], "f", silent)
    assert Path(found).read_text() == text


def test_a_file_that_changed_is_fetched_again(server: str, tmp_path: Path) -> None:
    write(tmp_path / "served")
    (first,) = fetched([f"{server}/set.csv"], "f", silent)
    (tmp_path / "served" / "set.csv").write_text("label,a\n1,2\n")
    (second,) = fetched([f"{server}/set.csv"], "f", silent)
    assert first != second
    assert Path(second).read_text() == "label,a\n1,2\n"


def test_of_several_at_once_one_fetches(server: str, tmp_path: Path) -> None:
    write(tmp_path / "served")
    found: list[tuple[str, ...]] = []
    several = [
        threading.Thread(target=lambda: found.append(fetched([f"{server}/set.npz"], "f", silent))) for _ in range(4)
    ]
    for thread in several:
        thread.start()
    for thread in several:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert Handler.asked.count("GET /set.npz") == 1


def test_a_store_and_a_folder_in_it(tmp_path: Path) -> None:
    write(tmp_path)
    places = (f"file://{tmp_path}/shards",)
    assert discover(places).source == "parquet"
    splits = load_splits(Data(source="parquet", train=places, test_count=10))
    assert len(splits.stored[0]) == 40
    assert fetched([str(tmp_path)], "f", silent) == (str(tmp_path),)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("file:///nowhere/at.csv", "cannot be fetched: there is no such file"),
        ("ftp://127.0.0.1/set.csv", "cannot be fetched: give a folder, or a URI that begins with s3://"),
        ("http://127.0.0.1:1/set.csv", "cannot be fetched: .*refused"),
        ("s3:/bucket/set.csv", "cannot be fetched: give a folder, or a URI that begins"),
    ],
)
def test_what_cannot_be_fetched(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        fetched([name], "training.data.train", silent)
    assert str(caught.value).startswith(f"training.data.train: {name} ")


def test_an_empty_folder_in_a_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        UserError, match=f"--data: file://{tmp_path} cannot be fetched: there is no file in that folder"
    ):
        discover([f"file://{tmp_path}"])
