"""Messages are read from a spool as they were written, or refused."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from ffpipe.engines.layerwise.spool import SCHEMA, SpoolReader, SpoolWriter
from ffpipe.engines.layerwise.spoolfiles import InPlace, InTurn
from ffpipe.pipeline.packet import KEPT, LABELS, SCORE, TAP, Tensors, X, to_arrays, to_tensors
from ffpipe.system.errors import StageLost

CPU = torch.device("cpu")


def message(seed: int, dtype: torch.dtype = torch.float32) -> Tensors:
    chance = torch.Generator().manual_seed(seed)
    rows = torch.randn(3, 6, 40, generator=chance).to(dtype)
    labels, score = torch.arange(6).reshape(3, 2), torch.randn(4, generator=chance)
    return {X: rows, LABELS: labels, SCORE: score, f"{TAP}2": rows[:, 4:]}


def write(path: Path, messages: dict[int, Tensors], compression: str | None = None) -> None:
    with SpoolWriter(path, compression) as writer:
        for number, tensors in messages.items():
            writer.write(number, to_arrays(tensors))


def same(read: Tensors, written: Tensors) -> bool:
    """Whether all tensors are there, to the bit and with their dtype."""
    return read.keys() == written.keys() and all(
        tensor.dtype == written[name].dtype and torch.equal(tensor, written[name]) for name, tensor in read.items()
    )


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.int64, torch.bool]
)
def test_messages_come_back_to_the_bit_in_order_and_their_file_goes(
    dtype: torch.dtype, compression: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "spool.arrow"
    written = {number: message(number, dtype) for number in (0, 1, 3)}
    write(path, written, compression)
    with SpoolReader(path) as reader:
        for number in range(5):
            assert same(to_tensors(reader.read(number), CPU), written.get(number, {}))
    assert not path.exists()


def test_a_message_may_carry_little_or_nothing(tmp_path: Path) -> None:
    written: dict[int, Tensors] = {0: {X: torch.zeros(1, 2, 3)}, 1: {}, 2: {f"{KEPT}a": torch.ones(1, 2)}}
    write(tmp_path / "spool", written)
    with SpoolReader(tmp_path / "spool") as reader:
        for number in range(3):
            assert same(to_tensors(reader.read(number), CPU), written[number])


def is_refused(path: Path, written: dict[int, Tensors]) -> bool:
    """Tell whether a file is refused; if not, every array must be what was written, and none may be absent."""
    try:
        with SpoolReader(path) as reader:
            for number, tensors in written.items():
                expected, read = to_arrays(tensors), reader.read(number)
                assert read.keys() == expected.keys()
                for name, array in expected.items():
                    assert read[name].dtype == array.dtype
                    assert read[name].data.dtype == array.data.dtype
                    assert np.array_equal(read[name].data, array.data)
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
    """The file has two messages with four arrays each, and the contents."""
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
    rows, straight, waiting = InTurn(), InPlace(), tmp_path / "straight"
    files = set[int]()
    for chapter in range(4):
        with SpoolWriter(waiting, None, straight) as writer:
            for number in range(4 - chapter):
                writer.write(number, to_arrays(message(100 + chapter + number)))
        for row in range(3):
            path = tmp_path / f"row-{row}"
            with SpoolWriter(path, None, rows) as writer:
                for number in range(1 + row):  # shorter and longer than what is written over
                    writer.write(number, to_arrays(message(10 * chapter + row + number)))
            with SpoolReader(path, rows) as reader:
                for number in range(1 + row):
                    assert same(to_tensors(reader.read(number), CPU), message(10 * chapter + row + number))
        with SpoolReader(waiting, straight) as reader:
            for number in range(4 - chapter):
                assert same(to_tensors(reader.read(number), CPU), message(100 + chapter + number))
        files |= {path.stat().st_ino for path in tmp_path.iterdir()}
    assert len(files) == len(list(tmp_path.iterdir())) == 2
