"""Downloads from a real server on this machine, with a small file in the place of a data set's."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ffpipe.data import download
from ffpipe.data.download import Patience, Remote, fetch
from ffpipe.system.errors import UserError

Get = Callable[..., tuple[bytes, list[str], list[str]]]

CONTENT = np.random.default_rng(0).bytes(200_000)
FILE = gzip.compress(CONTENT, 1, mtime=0)
OTHER = gzip.compress(CONTENT[::-1], 1, mtime=0)
REMOTE = Remote("data.gz", hashlib.md5(CONTENT).hexdigest(), len(CONTENT))
PATIENCE = Patience(timeout=2, grace=2, floor=50_000, report=0)
HALF = len(FILE) // 2


class Server(ThreadingHTTPServer):
    """A server that notes requests. asked: paths and ranges, as they came in. over: set when the test is, to let
    those go who stall."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []
        self.over = threading.Event()


class Handler(BaseHTTPRequestHandler):
    """The first folder of the path says how the mirror behaves."""

    protocol_version = "HTTP/1.1"
    timeout = 5
    server: Server

    def do_GET(self) -> None:
        start = self.headers.get("Range", "")
        self.server.asked.append(self.path + (" " + start if start else ""))
        with contextlib.suppress(ConnectionError):  # a client that has had enough
            getattr(self, self.path.split("/")[1])(int(start[6:-1]) if start else 0)

    def log_message(self, *args: Any) -> None:
        pass

    def head(self, status: int, length: int | None, **headers: str) -> None:
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.close_connection = True

    def send(self, data: bytes, start: int = 0) -> None:
        if start >= len(data):
            self.head(416, 0)
        elif start:
            self.head(206, len(data) - start, Content_Range=f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.head(200, len(data))
        self.wfile.write(data[start:])

    def good(self, start: int) -> None:
        self.send(FILE, start)

    def no_range(self, start: int) -> None:
        self.send(FILE)

    def no_length(self, start: int) -> None:
        self.head(200, None)
        self.wfile.write(FILE)

    def unpacked(self, start: int) -> None:
        self.send(CONTENT)

    def other_range(self, start: int) -> None:
        if start:
            self.head(206, len(FILE) - 1, Content_Range=f"bytes 1-{len(FILE) - 1}/{len(FILE)}")
            self.wfile.write(FILE[1:])
        else:
            self.send(FILE)

    def truncate(self, start: int) -> None:
        self.head(200, len(FILE))
        self.wfile.write(FILE[:HALF])

    def cut_without_length(self, start: int) -> None:
        self.head(200, None)
        self.wfile.write(FILE[:HALF])

    def silent(self, start: int) -> None:
        self.server.over.wait()

    def stall(self, start: int) -> None:
        self.head(200, len(FILE))
        self.wfile.write(FILE[:HALF])
        self.server.over.wait()

    def trickle(self, start: int) -> None:
        self.head(200, len(FILE))
        for byte in FILE:
            self.wfile.write(bytes([byte]))
            if self.server.over.wait(0.02):
                break

    def wrong(self, start: int) -> None:
        self.send(OTHER, start)

    def text(self, start: int) -> None:
        self.send(b"<html>please log in</html>")

    def endless(self, start: int) -> None:
        self.head(200, None)
        while True:
            self.wfile.write(bytes(1 << 20))

    def not_found(self, start: int) -> None:
        self.head(404, 0)

    def broken(self, start: int) -> None:
        self.head(500, 0)

    def garbage(self, start: int) -> None:
        self.wfile.write(b"no HTTP at all\r\n\r\n")
        self.close_connection = True


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.over.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def get(server: Server, tmp_path: Path) -> Get:
    """Fetch from mirrors that behave as named; returns the bytes, the requests and the lines of progress."""

    def fetch_from(*behaviours: str) -> tuple[bytes, list[str], list[str]]:
        mirrors = [f"http://127.0.0.1:{server.server_port}/{behaviour}/" for behaviour in behaviours]
        lines: list[str] = []
        path = fetch(REMOTE, tmp_path, mirrors, PATIENCE, lines.append)
        assert path == tmp_path / "data.gz"
        return path.read_bytes(), server.asked, lines

    return fetch_from


@pytest.mark.parametrize("behaviour", ["good", "no_length", "no_range", "other_range"])
def test_a_good_mirror(get: Get, tmp_path: Path, behaviour: str) -> None:
    data, asked, lines = get(behaviour)
    assert data == FILE
    assert asked == [f"/{behaviour}/data.gz"]
    assert lines[0].startswith("downloading http://127.0.0.1")
    assert lines[-1].startswith("data.gz: 0.2 of ")
    assert [path.name for path in tmp_path.iterdir()] == ["data.gz"]


def test_what_is_there_is_not_downloaded(get: Get) -> None:
    get("good")
    assert get("good")[1] == ["/good/data.gz"]


def test_what_is_there_and_wrong_is_downloaded_anew(get: Get, tmp_path: Path) -> None:
    (tmp_path / "data.gz").write_bytes(OTHER)
    assert get("good")[0] == FILE


def test_a_proxy_that_unpacks_does_no_harm(get: Get) -> None:
    assert get("unpacked")[0] == CONTENT


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("truncate", f"cut short after {HALF} of {len(FILE)} bytes"),
        ("cut_without_length", "wrong bytes: .* end-of-stream"),
        ("silent", "timed out"),
        ("stall", "timed out"),
        ("trickle", "too slow: [0-9]+ bytes in [0-9]+ seconds"),
        ("wrong", f"wrong bytes: .* expected {REMOTE.md5}"),
        ("text", "wrong bytes"),
        ("endless", "wrong bytes"),
        ("not_found", "HTTP Error 404: Not Found"),
        ("broken", "HTTP Error 500: Internal Server Error"),
        ("garbage", "no HTTP at all"),
    ],
)
def test_a_bad_mirror_is_named_with_its_reason_and_the_next_is_tried(
    get: Get, tmp_path: Path, behaviour: str, reason: str
) -> None:
    with pytest.raises(UserError, match=rf"cannot download data\.gz .*/{behaviour}/data\.gz: {reason}") as caught:
        get(behaviour)
    assert "--data-dir or FFPIPE_DATA" in str(caught.value)
    assert "\n" not in str(caught.value)
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept == ({"data.gz.part"} if behaviour in ("truncate", "stall", "trickle") else set())
    assert get(behaviour, "good")[0] == FILE
    assert [path.name for path in tmp_path.iterdir()] == ["data.gz"]


def test_every_mirror_is_listed(get: Get) -> None:
    with pytest.raises(UserError, match=r"/not_found/.*404.*; .*/broken/.*500.*; .*/wrong/.*wrong bytes"):
        get("not_found", "broken", "wrong")


def test_addresses_that_are_none(tmp_path: Path) -> None:
    mirrors = ["http://127.0.0.1:9/", "file:///etc/", "nonsense", "http://[/", "http://127.0.0.1:99999999/"]
    with pytest.raises(
        UserError, match=r"Connection refused; file:///etc/data\.gz: not an http or https address; nons"
    ):
        fetch(REMOTE, tmp_path, mirrors, PATIENCE, lambda line: None)


def test_a_download_that_was_cut_off_is_continued(get: Get) -> None:
    data, asked, lines = get("truncate", "good")
    assert data == FILE
    assert asked == ["/truncate/data.gz", f"/good/data.gz bytes={HALF}-"]
    assert any(line.startswith("continuing ") for line in lines)


@pytest.mark.parametrize(
    ("behaviour", "requests"),
    [("good", 1), ("no_range", 1), ("other_range", 2)],
)
def test_continued_or_started_over(get: Get, tmp_path: Path, behaviour: str, requests: int) -> None:
    (tmp_path / "data.gz.part").write_bytes(FILE[:HALF])
    data, asked, _ = get(behaviour)
    assert data == FILE
    assert asked == [f"/{behaviour}/data.gz bytes={HALF}-", f"/{behaviour}/data.gz"][:requests]


def test_a_whole_file_that_was_not_put_in_its_place_is_kept(get: Get, tmp_path: Path) -> None:
    (tmp_path / "data.gz.part").write_bytes(FILE)
    data, asked, _ = get("good")
    assert data == FILE
    assert asked == [f"/good/data.gz bytes={len(FILE)}-"]


@pytest.mark.parametrize("part", [OTHER[:HALF], FILE + b"more", OTHER])
def test_a_file_that_changed_is_started_over(get: Get, tmp_path: Path, part: bytes) -> None:
    (tmp_path / "data.gz.part").write_bytes(part)
    data, asked, _ = get("good")
    assert data == FILE
    assert asked == [f"/good/data.gz bytes={len(part)}-", "/good/data.gz"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*; FFPIPE_CACHE names another folder"):
        fetch(REMOTE, tmp_path / "file", ["http://127.0.0.1:9/"], PATIENCE, lambda line: None)


def test_of_two_at_once_one_downloads(get: Get, server: Server, tmp_path: Path) -> None:
    results: list[bytes] = []
    with download.alone_in(tmp_path):
        threads = [threading.Thread(target=lambda: results.append(get("good")[0])) for _ in range(2)]
        for thread in threads:
            thread.start()
        assert server.asked == []
    for thread in threads:
        thread.join()
    assert results == [FILE] * 2
    assert server.asked == ["/good/data.gz"]
