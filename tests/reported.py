"""Small runs of different kinds, of which tests make reports."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

import ffpipe
from ffpipe.commands.cli import main
from ffpipe.config.schema import BlockConfig, Data, Execution
from ffpipe.reports import write_report
from ffpipe.reports.drawing import Drawn

# Names that would do harm in a page that did not escape them.
HOSTILE_CLASSES = ("<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "$\\frac{1}{0}$ & 名前")
SENTENCE = "the quick brown fox jumps over the lazy dog.\n"
HOSTILE_FOLDER = "<b>run</b> &amp; 'x'"
# The kinds of runs whose pictures are drawn for `make test`: those of the others are of the same kinds.
DRAWN = ("classes", "pairs")


def leave_pictures_out(patch: pytest.MonkeyPatch) -> None:
    """Have reports be written without their pictures, which take most of the time."""
    patch.setattr("ffpipe.reports.page.drawn", lambda figure, name, alt: Drawn(""))


class Elements(HTMLParser):
    """Elements of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def pictures(self) -> list[tuple[str, dict[str, str]]]:
        return [(tag, of) for tag, of in self.found if tag == "svg" or of.get("class") == "png"]


class Reported:
    """A run, its report, and the pictures of that as PNGs, each made when it is first asked for."""

    def __init__(self, kind: str, base: Path) -> None:
        self._kind, self._base = kind, base

    @cached_property
    def run(self) -> Path:
        return MAKERS[self._kind](self._base)

    @cached_property
    def report(self) -> Path:
        return write_report(self.run, self._base / f"{self._kind}.html", png=self._pictures, examples=150)

    @cached_property
    def text(self) -> str:
        """The text of the report."""
        if self._kind in DRAWN:
            return Elements(self.report.read_text()).text
        with pytest.MonkeyPatch.context() as patch:
            leave_pictures_out(patch)
            return Elements(write_report(self.run, self._base / "text.html", examples=150).read_text()).text

    @cached_property
    def pictures(self) -> list[Path]:
        assert self.report.exists()
        return sorted(self._pictures.glob("*.png"))

    @property
    def _pictures(self) -> Path:
        return self._base / f"pictures-{self._kind}"


def make_pairs(base: Path) -> Path:
    """Train dense layers with hard negatives, traced."""
    run = base / "pairs"
    fields = ["--training.dims", "64", "30", "30", "30", "--epochs", "3", "--execution.log-steps", "10"]
    more = ["--execution.evaluate-every", "1", "--execution.trace", "true", "--engine", "local"]
    assert main(["train", "digits", *fields, *more, "--run-dir", str(run)]) == 0
    return run


def make_classes(base: Path) -> Path:
    """Train convolutions with class heads on shifted images of the user's own."""
    chance = np.random.default_rng(1)
    labels = np.array([HOSTILE_CLASSES[index % 3] for index in range(160)])
    images = chance.integers(0, 60, (160, 8, 8), dtype=np.uint8)
    for index in range(160):
        images[index, 2 * (index % 3) : 2 * (index % 3) + 3] += 120
    np.savez(base / "own.npz", x_train=images, y_train=labels)
    config = ffpipe.override(
        ffpipe.recipe("digits-cnn"),
        {
            "training.epochs": 2,
            "training.batch_size": 20,
            "training.augmentation.crop": 1,
            "training.standardize": True,
        },
    )
    data = Data(source="npz", train=(str(base / "own.npz"),), validation=20, test_count=40)
    return _trained(replace(config, training=replace(config.training, data=data)), base / HOSTILE_FOLDER)


def make_hybrid(base: Path) -> Path:
    """Train receptive fields, with negatives that are two images in one."""

    def fields(channels: int, kernel: int) -> BlockConfig:
        options: dict[str, bool | int | float | str] = {"channels": channels, "kernel": kernel, "activation": "none"}
        return BlockConfig(kind="receptive-fields", options=options, objective_options={"rectify": True})

    config = ffpipe.recipe("hinton-lrf")
    data = Data(source="digits", validation=97, test_count=100, train_limit=300)
    training = replace(config.training, blocks=(fields(6, 4), fields(8, 2)), epochs=2, batch_size=50, data=data)
    return _trained(replace(config, training=training), base / "hybrid")


def make_text(base: Path, sentence: str = SENTENCE, symbols: Literal["characters", "bytes"] = "characters") -> Path:
    """Train two transformer blocks on a text of a few words."""
    (base / "words.txt").write_text(sentence * 60)
    count = 256 if symbols == "bytes" else len(set(sentence))
    block = BlockConfig(kind="transformer", options={"width": 16, "heads": 2, "symbols": count})
    config = ffpipe.recipe("char-lm")
    data = Data(
        source="text", train=(str(base / "words.txt"),), symbols=symbols, length=16, split_seed=-1, validation=10,
        test_count=10,
    )  # fmt: skip
    training = replace(config.training, blocks=(block,) * 2, epochs=2, batch_size=16, data=data)
    return _trained(replace(config, training=training), base / "text")


def _trained(config: ffpipe.Config, folder: Path) -> Path:
    execution = Execution(engine="local", stages=1, evaluate_every=1, log_steps=3, run_dir=str(folder))
    return ffpipe.train(replace(config, execution=execution)).run_dir


MAKERS = {"pairs": make_pairs, "classes": make_classes, "hybrid": make_hybrid, "text": make_text}
