"""Messages are read from a spool as they were written, or refused."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from ffpipe.engines.layerwise.engine import spool_name
from ffpipe.engines.layerwise.spool import Spool
from ffpipe.pipeline.packet import KEPT, LABELS, SCORE, TAP, Tensors, X, to_arrays, to_tensors
from ffpipe.system.errors import StageLost

CPU = torch.device("cpu")


def message(seed: int, dtype: torch.dtype = torch.float32) -> Tensors:
    chance = torch.Generator().manual_seed(seed)
    rows = torch.randn(3, 6, 40, generator=chance).to(dtype)
    labels, score = torch.arange(6).reshape(3, 2), torch.randn(4, generator=chance)
    return {X: rows, LABELS: labels, SCORE: score, f"{TAP}2": rows[:, 4:]}


def write(spool: Spool, messages: dict[int, Tensors]) -> None:
    with spool.writing():
        for number, tensors in messages.items():
            spool.write(number, to_arrays(tensors))


def same(read: Tensors, written: Tensors) -> bool:
    """Return whether all tensors are there, to the bit and with their dtype."""
    return read.keys() == written.keys() and all(
        tensor.dtype == written[name].dtype and torch.equal(tensor, written[name]) for name, tensor in read.items()
    )


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.int64, torch.bool]
)
def test_messages_come_back_to_the_bit_in_order(dtype: torch.dtype, compression: str | None, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.arrow", compression)
    written = {number: message(number, dtype) for number in (0, 1, 3)}
    write(spool, written)
    with spool.reading() as read:
        for number in range(5):
            assert same(to_tensors(read(number), CPU), written.get(number, {}))


def test_a_message_may_carry_little_or_nothing(tmp_path: Path) -> None:
    written: dict[int, Tensors] = {0: {X: torch.zeros(1, 2, 3)}, 1: {}, 2: {f"{KEPT}a": torch.ones(1, 2)}}
    spool = Spool(tmp_path / "spool")
    write(spool, written)
    with spool.reading() as read:
        for number in range(3):
            assert same(to_tensors(read(number), CPU), written[number])


def is_refused(spool: Spool, written: dict[int, Tensors]) -> bool:
    """Tell whether a file is refused; if not, every array must be what was written, and none may be absent."""
    try:
        with spool.reading() as read:
            for number, tensors in written.items():
                assert same(to_tensors(read(number), CPU), tensors)
    except StageLost:
        return True
    return False


def test_every_flipped_byte_is_seen_or_of_no_consequence(tmp_path: Path) -> None:
    """Padding may differ; what is read is either what was written or refused. Every byte of the footer is tried."""
    spool = Spool(tmp_path / "spool")
    written = {0: message(0), 1: message(1)}
    write(spool, written)
    whole = spool.path.read_bytes()
    footer = len(whole) - 10 - int.from_bytes(whole[-10:-6], "little")
    chance = np.random.default_rng(0)
    refused = 0
    for place in [*chance.choice(footer, size=400, replace=False), *range(footer, len(whole))]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(chance.integers(8))
        spool.path.write_bytes(damaged)
        refused += is_refused(spool, written)
    assert refused > 200


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999, 1.001])
def test_a_file_that_was_cut_or_is_longer_is_refused(share: float, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    write(spool, {0: message(0)})
    os.truncate(spool.path, int(spool.path.stat().st_size * share))
    with pytest.raises(StageLost, match="was altered"), spool.reading():
        pass


def test_a_file_that_is_absent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StageLost, match="cannot be read"), Spool(tmp_path / "none").reading():
        pass


def test_no_room() -> None:
    with pytest.raises(OSError, match="No space left on device"):
        write(Spool(Path("/dev/full")), {number: message(number) for number in range(100)})


def test_files_are_written_over_by_the_next_chapter(tmp_path: Path) -> None:
    """Longer and shorter ones, and those of which two stages take turns."""
    edges = [(0, 1), (1, 2), (2, 3), (0, 3)]
    spools = {edge: Spool(tmp_path / spool_name(*edge)) for edge in edges}
    files = set[int]()
    for chapter in (1, 3, 2):
        write(spools[0, 3], {number: message(100 + number) for number in range(chapter)})
        for edge in edges:
            written = {number: message(10 * chapter + number) for number in range(chapter + edge[0])}
            if edge != (0, 3):
                write(spools[edge], written)
                assert not is_refused(spools[edge], written)
        assert not is_refused(spools[0, 3], {number: message(100 + number) for number in range(chapter)})
        files |= {path.stat().st_ino for path in tmp_path.iterdir()}
    assert len(files) == len(list(tmp_path.iterdir())) == 3
