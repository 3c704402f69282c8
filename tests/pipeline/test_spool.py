"""What is read from a spool is what was written, or an error."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from ffpipe.engines.layerwise.spool import SCHEMA, SpoolReader, SpoolWriter, features, join, without_features
from ffpipe.engines.layerwise.spoolfiles import InPlace, InTurn
from ffpipe.pipeline.streams import Streams
from ffpipe.system.errors import StageLost

CPU = torch.device("cpu")


def message(seed: int, dtype: torch.dtype = torch.float32) -> Streams:
    chance = torch.Generator().manual_seed(seed)
    rows = torch.randn(3, 6, 40, generator=chance).to(dtype)
    return Streams(rows, torch.arange(6).reshape(3, 2), torch.randn(4, generator=chance), {2: rows[:, 4:].contiguous()})


def write(path: Path, messages: dict[int, Streams], compression: str | None = None) -> None:
    with SpoolWriter(path, compression) as writer:
        for number, streams in messages.items():
            writer.write(number, without_features(streams) | features(streams))


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_messages_come_back_to_the_bit_in_order_and_their_file_goes(
    dtype: torch.dtype, compression: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "spool.arrow"
    written = {number: message(number, dtype) for number in (0, 1, 3)}
    write(path, written, compression)
    with SpoolReader(path) as reader:
        for number in range(5):
            read = join(reader.read(number), CPU)
            if number not in written:
                assert read is None
                continue
            assert read is not None
            for name in ("rows", "labels", "goodness"):
                assert torch.equal(getattr(read, name), getattr(written[number], name))
                assert getattr(read, name).dtype == getattr(written[number], name).dtype
            assert torch.equal(read.features[2], written[number].features[2])
        del read
    assert not path.exists()


def test_what_may_be_absent_is_absent(tmp_path: Path) -> None:
    write(tmp_path / "spool", {0: Streams(torch.zeros(1, 2, 3))})
    with SpoolReader(tmp_path / "spool") as reader:
        read = join(reader.read(0), CPU)
    assert read is not None
    assert read.labels is None
    assert read.goodness is None
    assert not read.features


def is_refused(path: Path, written: dict[int, Streams]) -> bool:
    """Whether a file is refused; if not, every array must be what was written, and none may be absent."""
    try:
        with SpoolReader(path) as reader:
            for number, streams in written.items():
                expected, read = without_features(streams) | features(streams), reader.read(number)
                assert read.keys() == expected.keys()
                for name, array in expected.items():
                    assert read[name].dtype == array.dtype
                    assert np.array_equal(read[name], array)
    except StageLost:
        return True
    return False


def flipped(whole: bytes, place: int, bit: int) -> bytes:
    damaged = bytearray(whole)
    damaged[place] ^= 1 << bit
    return bytes(damaged)


def test_every_flipped_byte_is_seen_or_of_no_consequence(tmp_path: Path) -> None:
    """Padding may differ; what is read is either what was written or refused."""
    path = tmp_path / "spool"
    written = {0: message(0), 1: message(1)}
    write(path, written)
    whole = path.read_bytes()
    refused = 0
    chance = np.random.default_rng(0)
    for place in chance.choice(len(whole), size=400, replace=False):
        path.write_bytes(flipped(whole, place, int(chance.integers(8))))
        refused += is_refused(path, written)
    assert refused > 200


def test_no_byte_of_the_footer_can_hide_an_array(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    written = {0: message(0), 1: message(1)}
    write(path, written)
    whole = path.read_bytes()
    footer = len(whole) - 10 - int.from_bytes(whole[-10:-6], "little")
    chance = np.random.default_rng(0)
    for place in range(footer, len(whole)):
        for bit in {0, int(chance.integers(8))}:
            path.write_bytes(flipped(whole, place, bit))
            is_refused(path, written)


@pytest.mark.parametrize(
    "kept", [range(9), range(8), range(1, 9), [*range(7), 8], [1, 0, *range(2, 9)], [*range(9), 8], [8], []]
)
def test_a_file_with_other_arrays_than_were_written_is_refused(kept: Sequence[int], tmp_path: Path) -> None:
    """Of two messages with four arrays each, and the contents."""
    path = tmp_path / "spool"
    written = {0: message(0), 1: message(1)}
    write(path, written)
    with pa.ipc.open_file(path.read_bytes()) as reader:
        batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
    assert len(batches) == 9
    with pa.ipc.new_file(path, SCHEMA) as writer:
        for number in kept:
            writer.write_batch(batches[number])
    assert is_refused(path, written) == (kept != range(9))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_file_that_was_cut_is_refused(share: float, tmp_path: Path) -> None:
    path = tmp_path / "spool"
    write(path, {0: message(0)})
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(StageLost, match="cannot be read"):
        SpoolReader(path)


def cut(path: Path) -> None:
    os.truncate(path, 100)


def write_again(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data)
    os.utime(path, ns=(0, 0))  # another time than before, however coarse the clock of the file system


@pytest.mark.parametrize("harm", [cut, write_again])
def test_a_file_that_changes_while_it_is_read_is_refused(harm: Callable[[Path], None], tmp_path: Path) -> None:
    """The pages behind the end of a file that was cut would kill this process."""
    path = tmp_path / "spool"
    write(path, {number: message(number) for number in range(20)})
    with SpoolReader(path) as reader:
        assert reader.read(0)
        reader.check()
        harm(path)
        with pytest.raises(StageLost, match=r"altered while it was read"):
            reader.read(1)
        with pytest.raises(StageLost, match=r"altered while it was read"):
            reader.check()


def test_a_file_that_is_absent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StageLost, match="cannot be read"):
        SpoolReader(tmp_path / "none")


def test_no_room() -> None:
    with pytest.raises(OSError, match="No space left on device"):
        write(Path("/dev/full"), {number: message(number) for number in range(100)})


def test_a_file_that_was_read_is_written_over_and_no_other_is(tmp_path: Path) -> None:
    """The same names come again, chapter by chapter, and in each there are files that others still are to read."""
    rows, features, waiting = InTurn(), InPlace(), tmp_path / "straight"
    files = set[int]()
    for chapter in range(4):
        with SpoolWriter(waiting, None, features) as writer:
            for number in range(4 - chapter):
                writer.write(number, without_features(message(100 + chapter + number)))
        for row in range(3):
            path = tmp_path / f"row-{row}"
            with SpoolWriter(path, None, rows) as writer:
                for number in range(1 + row):  # shorter and longer than what is written over
                    writer.write(number, without_features(message(10 * chapter + row + number)))
            with SpoolReader(path, rows) as reader:
                for number in range(1 + row):
                    read = join(reader.read(number), CPU)
                    assert read is not None
                    assert torch.equal(read.rows, message(10 * chapter + row + number).rows)
                del read
        with SpoolReader(waiting, features) as reader:
            for number in range(4 - chapter):
                read = join(reader.read(number), CPU)
                assert read is not None
                assert torch.equal(read.rows, message(100 + chapter + number).rows)
            del read
        files |= {path.stat().st_ino for path in tmp_path.iterdir()}
    assert len(files) == len(list(tmp_path.iterdir())) == 2
