"""Text of a network on tokens: what it writes, and how it reads a passage of the test text."""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ffpipe.config.schema import Config
from ffpipe.data import cache
from ffpipe.data.known import find, given_folder
from ffpipe.data.text import NAMES, encoded
from ffpipe.reports.network import Trained, chosen
from ffpipe.system.errors import UserError
from ffpipe.system.files import expanded
from ffpipe.system.rng import generator

# Symbols that the network writes, those that it is given first at most, and the temperature at which it draws.
WRITTEN = 400
GIVEN = 32
TEMPERATURE = 0.8
# Sequences of the test text that are read.
READ = 3


class Written(NamedTuple):
    """A text of the network's. given: its beginning, from the test text, of so many symbols. text: what the network
    wrote after it."""

    given: str
    text: str
    symbols: int


# A sequence of the test text: each symbol, and whether another was expected in its place.
Reading = list[tuple[str, bool]]


def written(trained: Trained) -> Written:
    """Continue the beginning of a test sequence by what the network predicts. Raises UserError."""
    say, tokens = symbols_of(trained), trained.job.network.inputs.size
    split = trained.job.splits.test if len(trained.job.splits.test) else trained.job.splits.train
    ids = split.raw(chosen(split, 1))[0].astype(np.int64)[: min(GIVEN, tokens)].tolist()
    given = len(ids)
    # A snapshot writes the same text each time.
    chance = generator(trained.training.seed, "report text", trained.saved.manifest.step)
    for _ in range(WRITTEN):
        seen = ids[-tokens:]
        row = torch.zeros(1, tokens, dtype=torch.int64)
        row[0, : len(seen)] = torch.tensor(seen)  # what follows is not seen by positions before it
        scores = trained.scores(row)[0, len(seen) - 1].double()
        ladder = (scores / TEMPERATURE).softmax(0).cumsum(0).numpy()
        # A share of the last rung, which rounding leaves beside one.
        ids.append(int(min(np.searchsorted(ladder, chance.random() * ladder[-1]), len(ladder) - 1)))
    pieces = say(ids)
    return Written("".join(pieces[:given]), "".join(pieces[given:]), given)


def readings(trained: Trained) -> list[Reading]:
    """Predict each symbol of some test sequences. Raises UserError."""
    say, split = symbols_of(trained), trained.job.splits.test
    if not len(split):
        raise UserError("there are no test sequences")
    tokens, labels = trained.saved.examples(split, chosen(split, READ))
    wrong = trained.scores(tokens).argmax(-1) != labels
    return [marked(say(row), misses) for row, misses in zip(labels.tolist(), wrong.tolist(), strict=True)]


def marked(pieces: Sequence[str], marks: Sequence[bool]) -> Reading:
    """Join marks to the pieces of symbols; a letter is marked where any of its bytes is."""
    found, mark = Reading(), False
    for piece, of_symbol in zip(pieces, marks, strict=True):
        mark |= of_symbol
        if piece:
            found.append((piece, mark))
            mark = False
    return found


def symbols_of(trained: Trained) -> Callable[[list[int]], list[str]]:
    """Return what makes text of ids again, a piece for each. Raises UserError where the text is not there."""
    config = trained.job.config
    if config.training.data.source != "text":
        return lambda ids: [f"{each} " for each in ids]
    if config.training.data.symbols == "bytes":
        return letters
    path = _text_of(config)
    encoded(path, "characters")  # which refuses what is not to be read
    alphabet = sorted(set(path.read_bytes().decode("utf-8-sig")))  # in the order of the ids
    if len(alphabet) != trained.job.splits.classes:
        raise UserError(f"{path} has {len(alphabet)} different characters, not {trained.job.splits.classes}")
    return lambda ids: [alphabet[each] for each in ids]


def letters(ids: Sequence[int]) -> list[str]:
    """Read bytes as UTF-8, a piece for each: a letter stands at its last byte, and the others are empty. Bytes that
    make no letter are named by their numbers, as in \\xff."""
    decoder = getincrementaldecoder("utf-8")("backslashreplace")
    pieces = [decoder.decode(bytes([each])) for each in ids]
    return [*pieces[:-1], pieces[-1] + decoder.decode(b"", final=True)] if pieces else []


def _text_of(config: Config) -> Path:
    """Find the file that a run's text came from. Raises UserError."""
    if config.training.data.train:
        return expanded(config.training.data.train[0])
    folders = [cache.folder() / "downloads" / "tinyshakespeare"]
    if given := given_folder(config.execution.data_dir):
        folders += [given[0] / "text", given[0]]
    if (path := find(folders, NAMES)) is None:
        raise UserError("the text itself is not on this machine: name its folder with --data-dir")
    return path
