from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from broken import damaged, read_or_refused
from forms import encode
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, features

from ffpipe.data.images import decode

GREY = np.arange(28 * 28, dtype=np.uint16).reshape(28, 28).astype(np.uint8)
COLOUR = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)


@pytest.mark.parametrize("pixels", [GREY, COLOUR, np.dstack([COLOUR, COLOUR[..., :1]])])
def test_decode_png_as_it_is(pixels: NDArray[Any]) -> None:
    np.testing.assert_array_equal(decode(encode(pixels)), pixels)


COLOURS, REFUSED = (28, 28, 3), "expected 8 bits a channel"
# Pillow's modes, by formats that hold them: the shape that is stored, or what is wrong.
MODES: list[tuple[str, str, tuple[int, ...] | str]] = [
    ("1", "PNG BMP GIF", (28, 28)),
    ("L", "PNG JPEG BMP GIF", (28, 28)),
    ("LA", "PNG", (28, 28)),
    ("P", "PNG", COLOURS),
    ("P", "BMP", (28, 28)),  # which Pillow finds to be greys
    ("RGB", "PNG JPEG BMP WEBP", COLOURS),
    ("RGB", "GIF", COLOURS),
    ("RGBA", "PNG", (28, 28, 4)),
    ("RGBA", "BMP WEBP", COLOURS),  # nothing of it is transparent
    ("CMYK", "JPEG", COLOURS),
    ("YCbCr", "JPEG", COLOURS),
    ("I", "TIFF", "not PNG, JPEG, BMP, GIF or WebP"),
    ("I;16", "PNG", REFUSED),
    ("RGB", "PPM", "not PNG, JPEG, BMP, GIF or WebP"),
]


@pytest.mark.parametrize(("mode", "form", "right"), [(m, f, right) for m, forms, right in MODES for f in forms.split()])
def test_every_mode_and_format_is_read_or_refused(mode: str, form: str, right: tuple[int, ...] | str) -> None:
    """The colours that networks take come from each, too."""
    if form == "WEBP" and not features.check("webp"):
        pytest.skip("this Pillow has no WebP")
    stream, grey = io.BytesIO(), Image.fromarray(GREY)
    (Image.new(mode, (28, 28), 9) if mode == "I;16" else grey.convert(mode)).save(stream, form)
    encoded = stream.getvalue()
    if isinstance(right, str):
        with pytest.raises(ValueError, match=right):
            decode(encoded)
        return
    assert decode(encoded).shape == right
    for wanted, channels in (("L", 0), ("RGB", 3), ("RGBA", 4)):
        shape = (28, 28, channels) if channels else (28, 28)
        pixels = decode(encoded, wanted)
        assert pixels.shape == shape
        if mode == "L" and form != "JPEG":
            np.testing.assert_array_equal(pixels if not channels else pixels[..., 0], GREY)


@pytest.mark.parametrize("transparency", [7, bytes(range(256))])
def test_transparent_palettes_are_read_in_silence(transparency: int | bytes) -> None:
    stream = io.BytesIO()
    Image.fromarray(GREY).convert("P").save(stream, "PNG", transparency=transparency)
    assert decode(stream.getvalue()).shape == (28, 28, 3)
    np.testing.assert_array_equal(decode(stream.getvalue(), "L"), decode(encode(GREY, mode="P"), "L"))


def test_greys_of_a_palette_are_those_greys() -> None:
    palette = Image.fromarray(GREY)
    palette.putpalette(bytes(value for grey in range(256) for value in (grey, grey, grey)))
    stream = io.BytesIO()
    palette.save(stream, "PNG")
    np.testing.assert_array_equal(decode(stream.getvalue(), "L"), GREY)


def test_the_first_frame_of_an_animation_is_read() -> None:
    stream = io.BytesIO()
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode(stream.getvalue(), "L"), GREY)


def png_of(width: int, height: int, depth: int = 8, colour: int = 0, rows: bytes = b"") -> bytes:
    """Return a PNG that claims a size and a kind of pixels, and holds these rows of them: by default none."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        (b"", "not PNG, JPEG, BMP, GIF or WebP"),
        (encode(COLOUR)[:80], "[Tt]runcated"),
        (encode(GREY.astype(np.uint16)), "its mode is I;16"),
        (png_of(4, 4, 16, 2, (b"\0" + bytes(4 * 6)) * 4), "16 bits a channel"),
        (png_of(4, 4, 16, 6, (b"\0" + bytes(4 * 8)) * 4), "16 bits a channel"),
        (png_of(4, 4, 16, 4, (b"\0" + bytes(4 * 4)) * 4), "16 bits a channel"),
        (png_of(5000, 5000), "5000 x 5000 pixels, more than 16777216"),
        (png_of(10000, 10000), "10000 x 10000 pixels, more than 16777216"),
        (png_of(60000, 60000), "decompression bomb"),
    ],
    ids=["empty", "truncated", "16_grey", "16_colour", "with_alpha", "grey_with_alpha", "large", "warned_of", "bomb"],
)
def test_decode_refuses(encoded: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode(encoded)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), form=st.sampled_from(["PNG", "JPEG", "BMP", "GIF", "WEBP"]))
def test_damaged_pictures_give_value_errors_or_are_read(data: st.DataObject, form: str) -> None:
    with read_or_refused(ValueError):
        assert decode(damaged(data, encode(COLOUR, form))).dtype == np.uint8


@pytest.mark.parametrize(("size", "shape"), [((3, 5), (3, 5)), ((4,), (4, 4)), ((), (6, 8))])
def test_pictures_are_resized_to_two_numbers_or_one(size: tuple[int, ...], shape: tuple[int, ...]) -> None:
    stream = io.BytesIO()
    Image.new("L", (8, 6)).save(stream, "PNG")
    assert decode(stream.getvalue(), size=size).shape == shape


def test_a_large_picture_that_is_made_smaller_is_read() -> None:
    stream = io.BytesIO()
    Image.new("L", (5000, 3400), 7).save(stream, "PNG")
    assert (decode(stream.getvalue(), "RGB", (4, 6)) == np.full((4, 6, 3), 7)).all()
    with pytest.raises(ValueError, match="5000 x 3400 pixels, more than 16777216 values"):
        decode(stream.getvalue())
    with pytest.raises(ValueError, match="10000 x 10000 pixels, more than 134217728 values"):
        decode(png_of(10000, 10000), "RGB", (4, 6))
