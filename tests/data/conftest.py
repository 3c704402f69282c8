"""An own cache for every test, no data folder but the one a test sets, and the real data where there are any."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

_CODES = {"uint8": 0x08, "int8": 0x09, "int16": 0x0B, "int32": 0x0C, "float32": 0x0D, "float64": 0x0E}
_REAL = os.environ.get("FFPIPE_DATA", "")


@pytest.fixture(autouse=True)
def cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for variable in ("FFPIPE_DATA", "FFPIPE_MNIST_MIRRORS", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("FFPIPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def idx_bytes() -> Callable[[np.ndarray], bytes]:
    """An array as an IDX file."""

    def encode(array: np.ndarray) -> bytes:
        header = struct.pack(f">HBB{array.ndim}I", 0, _CODES[array.dtype.name], array.ndim, *array.shape)
        return header + array.astype(array.dtype.newbyteorder(">")).tobytes()

    return encode


@pytest.fixture
def served(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[str, list[str]]]:
    """A server of the folder `served`, on loopback: its address, and what it was asked for. Its parameter: a header
    that it does not send."""
    asked: list[str] = []
    withheld = getattr(request, "param", "")

    class Handler(SimpleHTTPRequestHandler):
        def log_request(self, code: object = "", size: object = "") -> None:
            asked.append(f"{self.command} {self.path}")

        def log_message(self, *args: object) -> None:
            pass

        def send_header(self, keyword: str, value: str) -> None:
            if keyword != withheld:
                super().send_header(keyword, value)

    (tmp_path / "served").mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path / "served"))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """A folder of real data by name; skips where there is none."""

    def find(name: str) -> Path:
        if not (_REAL and Path(_REAL, name).is_dir()):
            pytest.skip(f"needs {name}/ in the folder that FFPIPE_DATA names")
        return Path(_REAL, name)

    return find
