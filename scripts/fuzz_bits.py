"""Random small networks, each trained in several ways, which must end with the same bits.

    python scripts/fuzz_bits.py [--networks 200] [--seed 0] [--only N ...] [--ray] [--print]

Network N is drawn from the seed and N: images or tokens of some shape, closed-form layers or blocks of any kind, sizes
that are multiples of nothing, any objective, optimiser, precision and schedule. It is trained by the local engine on
one thread, one minibatch at a time; then with other stages, chunks and threads, by the layerwise engine, and in two
parts with another layout; with --ray by actors too, with replicas if there are shards. Weights, rows of metrics and
errors must be the same to the bit. A config that is refused is passed over. Prints what differs with its number, and
last one line of JSON; exit status 1 where anything does.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from arguments import natural, positive

from ffpipe import Config, Interrupt, Result, RunFailed, UserError, override, recipe, resume, train
from ffpipe.config.fields import to_toml
from ffpipe.config.schema import Execution
from ffpipe.engines.local import LocalEngine
from ffpipe.pipeline.job import Engine
from ffpipe.runs.view import View
from ffpipe.system.errors import Interrupted
from ffpipe.telemetry.report import StageReport

Fields = dict[str, Any]
EPOCHS = 2
MAY_BE_REFUSED = re.compile(r"^execution\.(chunk|chapter|window) is \d+,")
SHAPES = ((5,), (13,), (64,), (3, 5), (8, 8), (9, 7), (6, 6, 3), (8, 8, 2))
PAIR_FIELDS: dict[str, tuple[Any, ...]] = {
    "training.goodness": ("sum", "mean"),
    "training.objective": ("hinton", "softplus", "symba"),
    "training.phases": ("together", "together", "apart", "by-epoch"),
    "training.local_steps": (1, 1, 2),
    "training.peer": (0.0, 0.03),
    "training.pair_errors": ("goodness", "logistic"),
    "training.negatives": ("random", "fixed", "shuffled", "hard", "adaptive"),
    "training.negative_lag": (0, 1, 3, 7),
    "training.labels": ("overlay", "append"),
}
ANY_FIELDS: dict[str, tuple[Any, ...]] = {
    "training.precision": ("float32", "float32", "bfloat16", "float64"),
    "training.normalization": ("rms", "l2"),
    "training.normalize_inputs": (True, False),
    "training.initialization": ("normal", "glorot"),
    "training.dropout": (0.0, 0.0, 0.2),
    "training.hand_on": ("before", "before", "after"),
    "training.schedule": ("constant", "hinton", "cosine", "onecycle"),
    "training.jitter": (0, 0, 1),
    "training.standardize": (False, True),
    "training.head": (True, False),
    "training.memory_format": ("contiguous", "channels-last"),
    "training.readout": ("last", "sum"),
    "execution.stages": (1,),
}
OPTIMIZERS: tuple[Fields, ...] = (
    {"kind": "averaging", "learning_rate": 0.02, "weight_decay": 0.001},
    {"kind": "SGD", "learning_rate": 0.05, "options": {"momentum": 0.9, "nesterov": True}},
    {"kind": "Adam", "learning_rate": 0.003},
    {"kind": "Adam", "learning_rate": 0.003, "options": {"fused": True}},
    {"kind": "AdamW", "learning_rate": 0.003, "weight_decay": 0.1},
    {"kind": "RMSprop", "learning_rate": 0.002},
    {"kind": "KerasAdam", "learning_rate": 0.003},
)


def draw(number: int, seed: int, folder: Path) -> Config:
    """Draw a config, and write its data. Raises UserError where what was drawn does not go together."""
    chance = random.Random(f"{seed} {number}")
    kind, depth = chance.choice(("pairs", "pairs", "pairs", "examples", "examples", "tokens")), chance.randint(1, 4)
    shape, classes = chance.choice(SHAPES), chance.choice((2, 3, 7, 10))
    batch, steps = chance.choice((1, 2, 3, 4, 5, 7, 8, 12, 20, 25, 32, 50)), chance.randint(2, 7)
    tests = chance.choice((1, 9, 40))
    if kind == "tokens":
        shape = (chance.randint(2, 9),)
    images = np.random.default_rng(number).integers(
        0, classes if kind == "tokens" else 256, (batch * steps + 2 * tests, *shape), dtype=np.uint8
    )
    np.savez(folder / "data.npz", images=images, labels=np.arange(len(images)) % classes)
    fields: Fields = {
        "training.epochs": EPOCHS,
        "training.seed": number,
        "training.batch_size": batch,
        "training.data.source": "npz",
        "training.data.train": [str(folder / "data.npz")],
        "training.data.test_count": tests,
        "training.data.validation": tests,
        "training.data.classes": classes,
        "execution.log_steps": chance.choice((1, 3, 100)),
        **{name: chance.choice(values) for name, values in ANY_FIELDS.items()},
    }
    fields |= {f"training.{name}": chance.randint(0, min(1, depth - 1)) for name in ("head_from", "goodness_from")}
    fields |= {f"training.optimizer.{name}": value for name, value in chance.choice(OPTIMIZERS).items()}
    parts = chance.choice([each for each in (1, 1, 2, 4) if batch % each == 0])
    if len(shape) < 2:
        fields["training.jitter"] = 0
    if kind == "pairs":
        fields |= _pairs(chance, parts)
    else:
        fields |= {"training.negatives": "none", "training.labels": "none"}
        fields[chance.choice(("training.shards", "training.accumulation"))] = parts
    if kind == "tokens":
        fields |= {"training.inputs": "tokens", "training.head": False, "training.standardize": False}
    if kind == "pairs" and chance.random() < 0.6:
        fields["training.dims"] = [0, *(chance.randint(1, 40) for _ in range(depth))]
    else:
        fields["training.blocks"] = _blocks(chance, kind, len(shape), depth, classes)
    return override(recipe("digits"), fields)


def _pairs(chance: random.Random, parts: int) -> Fields:
    """Draw what learns from pairs. parts: of minibatches, where these may be cut."""
    fields = {name: chance.choice(values) for name, values in PAIR_FIELDS.items()}
    predicted = fields["training.negatives"] in ("hard", "adaptive")
    if predicted:
        fields["training.head"] = True
        fields["training.phases"] = chance.choice(("together", "apart"))
    if fields["training.objective"] == "symba":
        fields["training.phases"] = "together"
    return fields | {"training.shards": 1 if fields["training.phases"] == "by-epoch" else parts}


def _blocks(chance: random.Random, kind: str, dimensions: int, depth: int, symbols: int) -> list[Fields]:
    """Draw blocks: of tokens; or of images first, if rows are images, then of vectors."""
    contrasts, width = kind == "pairs", 4 * chance.randint(1, 9)
    of_images, made, kept = dimensions > 1 and chance.random() < 0.7, list[Fields](), list[str]()
    for index in range(depth):
        of_images = of_images and (index == 0 or chance.random() < 0.6)
        block = _of_images(chance) if of_images else _of_vectors(chance, contrasts)
        if kind == "tokens":
            options = {"width": width, "heads": chance.choice((1, 2, 4)), "dropout": chance.choice((0.0, 0.1))}
            block = {"kind": "transformer", "options": options | ({} if index else {"symbols": symbols})}
        block["hand_on"] = chance.choice(("", "", "after"))
        block["first_epoch"], block["last_epoch"] = chance.choice(((0, 0), (0, 0), (1, 0), (0, 1)))
        if contrasts and block["kind"] != "ff-dense":
            block["objective_options"] = {"peer": chance.choice((0.0, 0.1)), "rectify": chance.random() < 0.5}
        if kind == "examples" and chance.random() < 0.4:
            block["objective_options"] = _head(chance, of_images)
        if chance.random() < 0.3:
            block["optimizer"] = chance.choice(OPTIMIZERS)
        if kept and chance.random() < 0.5:
            block["use"] = [chance.choice(kept)]
        if chance.random() < 0.3:
            block["keep"] = f"of {index}"
            kept.append(block["keep"])
        made.append(block)
    return made


def _of_images(chance: random.Random) -> Fields:
    channels = chance.randint(1, 9)
    norm, pool = chance.random() < 0.5, chance.choice((1, 2))
    kinds: tuple[Fields, ...] = (
        {"kind": "conv", "options": {"channels": channels, "norm": norm, "pool": pool}},
        {"kind": "conv", "options": {"channels": channels, "kernel": 1, "norm": False, "dropout": 0.2}},
        {"kind": "residual", "options": {"channels": channels}},
        {"kind": "vgg", "options": {"plan": f"{channels} {chance.randint(1, 9)}"}},
        {"kind": "receptive-fields", "options": {"channels": channels, "kernel": 2}},
    )
    return chance.choice(kinds)


def _of_vectors(chance: random.Random, contrasts: bool) -> Fields:
    width = chance.randint(1, 40)
    dense: Fields = {"kind": "dense", "options": {"width": width, "norm": chance.random() < 0.3, "dropout": 0.0}}
    others: Fields = {"kind": "ff-dense", "options": {"width": width}} if contrasts else {"kind": "readout"}
    return chance.choice((dense, dense, others))


def _head(chance: random.Random, of_images: bool) -> Fields:
    heads: list[Fields] = [{"bias": False}, {"zero": True}, {"kind": "mlp", "depth": 1}, {"similarity": 0.5}]
    heads += [{"pool": 2}, {"kind": "groups"}] if of_images else []
    return chance.choice(heads)


class Story:
    """One network, and what came of training it in each way."""

    def __init__(self, config: Config, folder: Path, chance: random.Random) -> None:
        self._config, self._folder, self._chance = config, folder, chance
        self._runs = 0

    def whole(self, threads: int = 1, **ways: Any) -> Result:
        """Train it at one go."""
        torch.set_num_threads(threads)
        return train(self._with(**ways), View())

    def parted(self, step: int, begins: Fields, goes_on: Fields) -> Result:
        """Train it up to about a step, and go on with another layout."""
        torch.set_num_threads(1)
        interrupt = Interrupt()
        config = self._with(**begins)
        try:
            return train(config, _StopAt(step, interrupt), interrupt, engine=_reporting)
        except Interrupted:
            changes = {f"execution.{name}": value for name, value in goes_on.items()}
            return resume(config.execution.run_dir, changes, View())

    def _with(self, **ways: Any) -> Config:
        self._runs += 1
        place = {"run_dir": str(self._folder / f"run-{self._runs}")}
        return override(self._config, {f"execution.{name}": value for name, value in (ways | place).items()})

    def ways(self, blocks: int, ray: bool) -> dict[str, Callable[[], Result]]:
        """Return ways to train it, by name."""
        draw, chance = self._chance.randint, self._chance

        def layout(engine: str) -> Fields:
            more = {"chapter": draw(0, 9)} if engine == "layerwise" else {"window": chance.choice((0, 0, 5))}
            return {
                "engine": engine, "stages": draw(1, blocks), "chunk": draw(0, 4), **more,
                "evaluate_every": chance.choice((0, 1)), "snapshot_steps": chance.choice((0, 2, 5)),
            }  # fmt: skip

        one, two, layerwise = layout("local"), layout("local"), layout("layerwise")
        step, other = draw(1, 10), layout(chance.choice(("local", "layerwise")))
        found: dict[str, Callable[[], Result]] = {
            f"{one}": lambda: self.whole(**one),
            f"two threads, {two}": lambda: self.whole(threads=2, **two),
            f"{layerwise}": lambda: self.whole(**layerwise),
            f"local, from about step {step} on {other}": lambda: self.parted(step, {**one, "engine": "local"}, other),
        }
        if ray:
            actors = layout("ray") | {"back_off": 0.05}
            if self._config.training.shards > 1:
                actors["replicas"] = chance.choice((1, 2, self._config.training.shards))
            found[f"{actors}"] = lambda: self.whole(**actors)
        return found


class _StopAt(View):
    """A view that asks for the end at a step."""

    def __init__(self, step: int, interrupt: Interrupt) -> None:
        self._step, self._interrupt = step, interrupt

    def report(self, report: StageReport) -> None:
        if report.step >= self._step and not self._interrupt.wished:
            self._interrupt.request()


def _reporting(_: Execution) -> Engine:
    return LocalEngine(report_seconds=0.0)


def told(result: Result) -> tuple[str, list[Any], list[Any]]:
    """Return what must be the same of a run: weights, rows of metrics, and the errors of its test."""
    # As text, in which NaN is NaN.
    rows = [repr(row) for row in pq.read_table(result.run_dir / "metrics.parquet").to_pylist()]
    tests = [each for each in result.summary["evaluations"] if each["split"] == "test"]
    return result.weights_sha256, rows, tests


def check(number: int, seed: int, ray: bool) -> tuple[str, list[str]]:
    """Train network `number` in all ways. Returns what became of it, and what is wrong."""
    with tempfile.TemporaryDirectory(prefix="ffpipe-fuzz-") as place:
        folder = Path(place)
        try:
            config = draw(number, seed, folder)
            story = Story(config, folder, random.Random(f"ways {seed} {number}"))
            first = story.whole(engine="local", stages=1, chunk=1, evaluate_every=0)
        except UserError as error:
            return f"refused: {error}", []
        except RunFailed as error:
            return ("diverged", []) if "lower learning rate" in str(error) else ("failed", [f"reference: {error}"])
        reference, wrong, seen = told(first), list[str](), 0
        for name, way in story.ways(len(config.training.blocks) or len(config.training.dims) - 1, ray).items():
            try:
                found = told(way())
            except UserError as error:
                # A lag, or a chapter, allows so many minibatches in a message; all else must be possible.
                if not MAY_BE_REFUSED.search(str(error)):
                    wrong.append(f"{name}: {error}")
                continue
            except Exception as error:  # whatever it is, the reference had none
                said = "".join(traceback.format_exception_only(error)).strip()
                wrong.append(f"{name}: {said}")
                continue
            seen += 1
            parts = zip(("weights", "rows of metrics", "test"), reference, found, strict=True)
            wrong += [f"{name}: other {part}" for part, one, other in parts if one != other]
        return "trained" if seen else "refused: every other way", wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=positive, default=200, help="how many")
    parser.add_argument("--seed", type=natural, default=0)
    parser.add_argument("--only", type=natural, nargs="+", metavar="N", help="numbers of networks")
    parser.add_argument("--ray", action="store_true", help="on Ray's actors too, which takes seconds each")
    parser.add_argument("--print", action="store_true", help="print each config")
    options = parser.parse_args()
    ends, failed = Counter[str](), list[int]()
    for number in options.only or range(options.networks):
        if options.print:
            with tempfile.TemporaryDirectory() as place:
                print(to_toml(draw(number, options.seed, Path(place))), flush=True)
        end, wrong = check(number, options.seed, options.ray)
        ends[end] += 1
        if wrong:
            failed.append(number)
            print(f"network {number} of seed {options.seed}:", *wrong, sep="\n    ", flush=True)
    print(json.dumps({"seed": options.seed, **ends, "wrong": failed}))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
