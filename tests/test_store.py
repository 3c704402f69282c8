"""Places of snapshots that cannot be had: refused in one line, within a deadline, by those that refuse."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pytest
from commands import refused
from pyarrow import fs

from ffpipe.storage import checkpoint
from ffpipe.storage.store import Store
from ffpipe.system.errors import UserError

TAKEN = "give a folder, or a URI that begins with s3://, gs://, hdfs:// or file://"


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("carrier-pigeon://coop", TAKEN),
        ("fsspec+data://x", TAKEN),
        ("mock://x", TAKEN),
        ("abfs://", TAKEN),
        ("abfs://c@account.dfs.core.windows.net/run", TAKEN),
        ("S3://bucket/run", TAKEN),
        ("s3:/bucket/run", TAKEN),
        ("gs:/bucket/run", TAKEN),
        ("s3://", "it names no folder"),
        ("gs://", "it names no folder"),
        ("file:///", "it names no folder"),
        ("s3://bucket/run?colour=red", "Unexpected query parameter in S3 URI: 'colour'"),
        ("file://elsewhere/run", "Unsupported hostname"),
    ],
)
def test_no_place_for_snapshots(place: str, says: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "digits", "--engine", "local", "--run-dir", "run", "--execution.checkpoints", place]
    refused(command, f"{place} is not a place for snapshots: {says}", capsys)
    assert not list(here.iterdir())


@pytest.mark.parametrize("field", ["run-dir", "data-dir", "execution.spool"])
def test_what_is_on_this_host_is_no_uri(field: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(["train", "digits", f"--{field}", "s3:/bucket/run"], "is on this host: give the path of a folder", capsys)
    assert not list(here.iterdir())


class Endpoint(BaseHTTPRequestHandler):
    """An S3 endpoint that says the same to everything."""

    status = 200
    body = b"<Error><Code>InvalidAccessKeyId</Code><Message>no such key</Message></Error>"

    def do_HEAD(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(self.body)

    do_PUT = do_POST = do_DELETE = do_GET

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture(params=[200, 401, 403])
def s3(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A place in a store that refuses a key with this status."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    handler = type("Refusing", (Endpoint,), {"status": request.param})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"127.0.0.1:{server.server_address[1]}"
        yield f"s3://key:secret@bucket/run?scheme=http&region=us-east-1&endpoint_override={endpoint}"
        server.shutdown()


def test_a_key_that_is_refused(s3: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "digits", "--engine", "local", "--run-dir", "run", "--execution.checkpoints", s3]
    refused(command, "access was refused by S3 (", capsys)
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("given", "opened"),
    [
        ("gs://bucket/run", "gs://bucket/run?retry_limit_seconds=10"),
        ("gcs://bucket/run?scheme=http", "gcs://bucket/run?scheme=http&retry_limit_seconds=10"),
        ("gs://bucket/run?retry_limit_seconds=90", "gs://bucket/run?retry_limit_seconds=90"),
        ("s3://bucket/run", "s3://bucket/run"),
    ],
)
def test_google_is_not_tried_for_a_quarter_of_an_hour(given: str, opened: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from_uri = mock.Mock(return_value=(mock.Mock(), "bucket/run"))
    monkeypatch.setattr(fs, "FileSystem", mock.Mock(from_uri=from_uri))
    assert Store(given).root == given
    from_uri.assert_called_once_with(opened)


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> tuple[Store, mock.Mock]:
    """A store that is not on this host, and the file system behind it."""
    files = mock.Mock()
    monkeypatch.setattr(fs, "FileSystem", mock.Mock(from_uri=mock.Mock(return_value=(files, "bucket/run"))))
    return Store("gs://bucket/run"), files


def test_a_store_that_does_not_answer(far: tuple[Store, mock.Mock]) -> None:
    asked, files = Store("gs://bucket/run", silence=0.4), far[1]
    end = threading.Event()
    files.get_file_info.side_effect = files.create_dir.side_effect = lambda *_, **__: end.wait()
    with pytest.raises(UserError, match="cannot be read: there was no answer for 0 s"):
        checkpoint.owner(asked)
    with pytest.raises(OSError, match="no answer"):
        asked.write("run", [b"a"])
    end.set()


class Upload:
    """A stream to a store, which closes itself when it is dropped, as Arrow's do. ends: hears of that."""

    def __init__(self, ends: list[str], fails: bool = False) -> None:
        self._ends, self._fails = ends, fails

    def write(self, piece: bytes) -> None:
        if self._fails:
            raise OSError("torn")

    def close(self) -> None:
        self._ends.append("closed")

    def __del__(self) -> None:
        self._ends.append("dropped")


def test_a_stream_that_is_given_up_is_never_closed(far: tuple[Store, mock.Mock]) -> None:
    """Else what it has, be it nothing, would lie over the file that the next try has written."""
    asked, files = Store("gs://bucket/run", silence=0.4), far[1]
    ends, late, threads = list[str](), threading.Event(), list[threading.Thread]()

    def opened(_: str) -> Upload:
        threads.append(threading.current_thread())
        late.wait()
        return Upload(ends)

    files.open_output_stream.side_effect = opened
    with pytest.raises(OSError, match="no answer"):
        asked.write("run", [b"a"])
    late.set()
    threads[0].join()
    assert ends == []
    files.open_output_stream.side_effect = lambda _: Upload(ends, fails=True)
    with pytest.raises(OSError, match="torn"):
        asked.write("run", [b"a"])
    assert ends == []
    files.open_output_stream.side_effect = lambda _: Upload(ends)
    asked.write("run", [b"a"])
    assert ends == ["closed", "dropped"]


def test_by_hdfs_a_file_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There one that is being written is seen, and stays cut where its writer is killed."""
    below = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    monkeypatch.setattr(fs, "FileSystem", mock.Mock(from_uri=mock.Mock(return_value=(below, "run"))))
    store, seen = Store("hdfs://host/run"), list[bool]()

    def pieces(last: bytes) -> Iterator[bytes]:
        yield b"a"
        seen.append(store.exists("step/file"))
        if not last:
            raise OSError("torn")
        yield last

    with pytest.raises(OSError, match="torn"):
        store.write("step/file", pieces(b""))
    store.write("step/file", pieces(b"b"))
    assert store.read("step/file", 9) == b"ab"
    with pytest.raises(OSError, match="torn"):
        store.write("step/file", pieces(b""))
    store.write("step/file", pieces(b"c"))
    assert store.read("step/file", 9) == b"ac"
    assert seen == [False, False, True, True]
    assert len(list((tmp_path / "run" / "step").iterdir())) == 3
    store.remove_temporary("step")
    assert [each.name for each in (tmp_path / "run" / "step").iterdir()] == ["file"]


@pytest.mark.parametrize("error", [pa.ArrowException("torn"), pa.ArrowInvalid("torn"), OSError("torn")])
def test_whatever_a_store_fails_with_is_an_oserror(error: Exception, far: tuple[Store, mock.Mock]) -> None:
    asked, files = far
    files.get_file_info.side_effect = files.create_dir.side_effect = error
    for work in (
        lambda: asked.write("run", [b"a"]),
        lambda: asked.exists("run"),
        lambda: asked.folders("step-"),
        lambda: asked.remove("run"),
        lambda: asked.remove_folder("run"),
    ):
        with pytest.raises(OSError, match="torn"):
            work()
    with pytest.raises(UserError, match=r"run cannot be reached \(torn\)"):
        asked.read("run", 64)
    with pytest.raises(UserError, match=r"the place of the snapshots, cannot be read: torn"):
        checkpoint.whole_snapshots(asked)


def test_a_file_that_is_larger_than_was_asked_for_is_not_read(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write("a", [b"1234"])
    assert store.read("a", 4) == b"1234"
    with pytest.raises(OSError, match="it has 4 bytes, more than 3"):
        store.read("a", 3)
    (tmp_path / "folder").mkdir()
    for name in ("folder", "absent"):
        with pytest.raises(FileNotFoundError):
            store.read(name, 4)


def test_folders_are_those_that_begin_so_without_links(tmp_path: Path) -> None:
    for name in ("step-2", "step-1", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "step-3").symlink_to(tmp_path / "other", target_is_directory=True)
    (tmp_path / "step-4").write_text("")
    assert Store(str(tmp_path)).folders("step-") == ["step-1", "step-2"]
    assert Store(str(tmp_path / "absent")).folders("step-") == []
