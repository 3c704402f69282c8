from __future__ import annotations

import threading
from pathlib import Path

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


def write(folder: Path) -> None:
    (folder / "set.csv").write_text("label,a,b\n" + "".join(f"{row % 2},{row},{255 - row}\n" for row in range(40)))
    np.savez(folder / "set.npz", x=np.arange(80, dtype=np.uint8).reshape(40, 2), y=np.arange(40) % 2)
    for part in range(2):
        table = pa.table({"image": [[row, 255 - row] for row in range(20)], "label": [row % 2 for row in range(20)]})
        (folder / "shards").mkdir(exist_ok=True)
        pq.write_table(table, folder / "shards" / f"{part}.parquet")


@pytest.mark.parametrize("name", ["set.csv", "set.npz"])
def test_from_the_web(name: str, served: tuple[str, list[str]], tmp_path: Path) -> None:
    write(tmp_path / "served")
    url = f"{served[0]}/{name}"
    config = on(get_recipe("digits"), discover([url]))
    assert config.training.data.train == (url,)
    assert len(load_splits(config.training.data).stored[0]) == 40
    assert served[1].count(f"GET /{name}") == 1, "what is there is not fetched again"
    (tmp_path / "served" / name).unlink()
    with pytest.raises(UserError, match=r"training\.data\.train: http.* cannot be fetched: .*404"):
        load_splits(config.training.data)


@pytest.mark.parametrize("served", ["Content-Length"], indirect=True)
def test_a_file_of_unknown_size_is_fetched_whole(served: tuple[str, list[str]], tmp_path: Path) -> None:
    text = "label,a\n" + "1,2\n" * 100_000
    (tmp_path / "served" / "set.csv").write_text(text)
    (found,) = fetched([f"{served[0]}/set.csv"], "f", print)
    assert Path(found).read_text() == text


def test_a_file_that_changed_is_fetched_again(served: tuple[str, list[str]], tmp_path: Path) -> None:
    write(tmp_path / "served")
    (first,) = fetched([f"{served[0]}/set.csv"], "f", print)
    (tmp_path / "served" / "set.csv").write_text("label,a\n1,2\n")
    (second,) = fetched([f"{served[0]}/set.csv"], "f", print)
    assert first != second
    assert Path(second).read_text() == "label,a\n1,2\n"


def test_of_several_at_once_one_fetches(served: tuple[str, list[str]], tmp_path: Path) -> None:
    write(tmp_path / "served")
    found: list[tuple[str, ...]] = []
    several = [
        threading.Thread(target=lambda: found.append(fetched([f"{served[0]}/set.npz"], "f", print))) for _ in range(4)
    ]
    for thread in several:
        thread.start()
    for thread in several:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert served[1].count("GET /set.npz") == 1


def test_a_store_and_a_folder_in_it(tmp_path: Path) -> None:
    write(tmp_path)
    places = (f"file://{tmp_path}/shards",)
    assert discover(places).source == "parquet"
    splits = load_splits(Data(source="parquet", train=places, test_count=10))
    assert len(splits.stored[0]) == 40
    assert fetched([str(tmp_path)], "f", print) == (str(tmp_path),)


def test_a_file_in_a_store_is_whole_or_fetched_anew(tmp_path: Path) -> None:
    write(tmp_path)
    place = f"file://{tmp_path}/set.csv"
    (first,) = fetched([place], "f", print)
    Path(first).write_text("label,")
    found: list[tuple[str, ...]] = []
    threads = [threading.Thread(target=lambda: found.append(fetched([place], "f", print))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [(first,)] * 4
    assert Path(first).read_bytes() == (tmp_path / "set.csv").read_bytes()
    assert [each.name for each in Path(first).parent.iterdir()] == ["set.csv"]


def test_a_file_of_the_web_is_whole_or_fetched_anew(served: tuple[str, list[str]], tmp_path: Path) -> None:
    write(tmp_path / "served")
    (first,) = fetched([f"{served[0]}/set.csv"], "f", print)
    Path(first).write_bytes(Path(first).read_bytes()[:20])
    assert fetched([f"{served[0]}/set.csv"], "f", print) == (first,)
    assert Path(first).read_bytes() == (tmp_path / "served" / "set.csv").read_bytes()


def test_names_of_any_letters(served: tuple[str, list[str]], tmp_path: Path) -> None:
    (tmp_path / "served" / "é ö.csv").write_text("label,a\n1,2\n")
    (found,) = fetched([f"{served[0]}/é ö.csv"], "f", print)
    assert Path(found).name == "é ö.csv"
    assert fetched([f"{served[0]}/%C3%A9%20%C3%B6.csv"], "f", print) == (found,)


def test_files_by_uri_are_of_the_part_that_their_names_tell(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / f"{part}.csv").write_text("label,a,b\n" + "0,1,2\n1,3,4\n" * 20)
    names = [f"file://{tmp_path}/{part}.csv" for part in ("test", "train")]
    found = discover(names)
    assert (found.train, found.test) == ((names[1],), (names[0],))
    with pytest.raises(UserError, match=r"--data: file://.* has files of a test part, such as test\.csv: name"):
        discover([f"file://{tmp_path}"])


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
        fetched([name], "training.data.train", print)
    assert str(caught.value).startswith(f"training.data.train: {name} ")


def test_an_empty_folder_in_a_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        UserError, match=f"--data: file://{tmp_path} cannot be fetched: there is no file in that folder"
    ):
        discover([f"file://{tmp_path}"])
