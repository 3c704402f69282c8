from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from ffpipe.data.images import decode, read_image
from ffpipe.system.errors import UserError

Save = Callable[..., Path]
Guard = Callable[[type[Exception]], AbstractContextManager[None]]

GREY = np.arange(28 * 28, dtype=np.uint16).reshape(28, 28).astype(np.uint8)
COLOUR = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)


def encode(pixels: np.ndarray, form: str = "PNG", mode: str | None = None) -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(stream, form)
    return stream.getvalue()


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def write(encoded: bytes, name: str = "image.png") -> Path:
        (tmp_path / name).write_bytes(encoded)
        return tmp_path / name

    return write


@pytest.mark.parametrize("pixels", [GREY, COLOUR, np.dstack([COLOUR, COLOUR[..., :1]])])
def test_decode_png_as_it_is(pixels: NDArray[Any]) -> None:
    np.testing.assert_array_equal(decode(encode(pixels)), pixels)


def test_decode_jpeg() -> None:
    assert decode(encode(COLOUR, "JPEG")).shape == COLOUR.shape


@pytest.mark.parametrize(("mode", "shape"), [("1", (28, 28)), ("P", (28, 28, 3)), ("LA", (28, 28))])
def test_decode_other_modes(mode: str, shape: tuple[int, ...]) -> None:
    assert decode(encode(GREY, mode=mode)).shape == shape


def png_of(width: int, height: int, depth: int = 8, colour: int = 0, rows: bytes = b"") -> bytes:
    """A PNG that claims a size and a kind of pixels, and holds these rows of them: by default none."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        (b"", "no PNG or JPEG"),
        (encode(GREY, "BMP"), "no PNG or JPEG"),
        (encode(COLOUR)[:80], "[Tt]runcated"),
        (encode(GREY.astype(np.uint16)), "its mode is I;16"),
        (png_of(4, 4, 16, 2, (b"\0" + bytes(4 * 6)) * 4), "16 bits a channel"),
        (png_of(4, 4, 16, 6, (b"\0" + bytes(4 * 8)) * 4), "16 bits a channel"),
        (png_of(4, 4, 16, 4, (b"\0" + bytes(4 * 4)) * 4), "16 bits a channel"),
        (png_of(5000, 5000), "5000 x 5000 pixels, more than 16777216"),
        (png_of(60000, 60000), "decompression bomb"),
    ],
    ids=["empty", "bmp", "truncated", "16 bits", "16 bits in colour", "with alpha", "grey with alpha", "large", "bomb"],
)
def test_decode_refuses(encoded: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode(encoded)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), form=st.sampled_from(["PNG", "JPEG"]))
def test_damaged_pictures_give_value_errors_or_are_read(read_or_refused: Guard, data: st.DataObject, form: str) -> None:
    damaged = bytearray(encode(COLOUR, form))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with read_or_refused(ValueError):
        assert decode(bytes(damaged)).dtype == np.uint8


def test_read_image_scales_a_picture(save: Save) -> None:
    read = read_image(save(encode(GREY)), (28, 28))
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, (GREY / np.float32(255)).reshape(-1))


@pytest.mark.parametrize(("shape", "mode"), [((6, 5), "L"), ((6, 5, 1), "L"), ((6, 5, 3), "RGB"), ((6, 5, 4), "RGBA")])
def test_read_image_converts_colours(save: Save, shape: tuple[int, ...], mode: str) -> None:
    expected = np.array(Image.fromarray(COLOUR).convert(mode), np.float32).reshape(-1) / 255
    np.testing.assert_array_equal(read_image(save(encode(COLOUR)), shape), expected)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("order", ["C", "F"])
def test_read_image_takes_floats_as_they_are(tmp_path: Path, flat: bool, order: Literal["C", "F"]) -> None:
    values = np.linspace(-3, 3, 12).reshape(3, 4)
    np.save(tmp_path / "a.npy", values.reshape(-1) if flat else np.asarray(values, order=order))
    np.testing.assert_array_equal(read_image(str(tmp_path / "a.npy"), (3, 4)), values.reshape(-1).astype(np.float32))


def test_read_image_scales_bytes_of_an_array(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", GREY)
    np.testing.assert_array_equal(read_image(tmp_path / "a.npy", (28, 28)), (GREY / np.float32(255)).reshape(-1))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 3)), r"it has shape \(4, 3\); expected \(3, 4\) or \(12,\)"),
        (np.full((3, 4), np.nan), "NaN or infinity"),
        (np.full((3, 4), 1e300), "NaN or infinity"),
        (np.zeros((3, 4), int), "it holds int64; expected uint8"),
        (np.array([[None] * 4] * 3), "cannot be read"),
    ],
)
def test_read_image_refuses_arrays(tmp_path: Path, array: NDArray[Any], message: str) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(UserError, match=message):
        read_image(tmp_path / "a.npy", (3, 4))


def test_read_image_refuses_an_archive_by_another_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros(12))
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    with pytest.raises(UserError, match="an archive of arrays"):
        read_image(tmp_path / "a.npy", (12,))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
@pytest.mark.filterwarnings("ignore::UserWarning")  # NumPy on headers that it takes for those of Python 2
def test_damaged_arrays_give_user_errors_or_are_read(
    read_or_refused: Guard,
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
) -> None:
    path = tmp_path_factory.mktemp("npy") / "a.npy"
    np.save(path, np.zeros((3, 4), np.float32))
    damaged = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, 127))] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged)
    with read_or_refused(UserError):
        assert read_image(path, (3, 4)).shape == (12,)


def test_read_image_refuses_pictures(save: Save, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="it is 28 high and 28 wide; expected 8 and 8"):
        read_image(save(encode(GREY)), (8, 8))
    with pytest.raises(UserError, match=r"give a \.npy file"):
        read_image(save(encode(GREY)), (784,))
    with pytest.raises(UserError, match="cannot be read: it is no PNG or JPEG"):
        read_image(save(b"text"), (8, 8))
    with pytest.raises(UserError, match=r"nowhere\.png: cannot be read: No such file"):
        read_image(tmp_path / "nowhere.png", (8, 8))
