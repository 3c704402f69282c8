"""A run folder as it lies there, for a look: what is trained in it, in what state it is, and how far it came.

It may be a stranger's, and a run may be at work in it. Small files are read up to a bound, nothing is written, nothing
but the run's lock is asked, and torch is not imported.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

from ffpipe.config.fields import read_tree
from ffpipe.config.limits import LARGEST_INTEGER
from ffpipe.config.schema import Config, Training
from ffpipe.system.errors import Unreachable, UserError, reason, refusing
from ffpipe.system.files import expanded, read_whole
from ffpipe.telemetry.report import Evaluation, History, LayerRow, RecoveryNote, Steps, errors_by_readout

# Far more than a run of a thousand evaluations writes; a summary is read for each run of a list.
LARGEST_SUMMARY = 8 << 20
# Longer pasts are for those who go on; a look leaves them alone.
LARGEST_PAST_SHOWN = 32 << 20
MOST_ENTRIES = 100_000
CONFIG, METRICS, SUMMARY, PAST, LOCK = "config.toml", "metrics.parquet", "summary.json", "past.json", ".lock"
# A folder with one of these is a run, or what is left of one.
FILES = (CONFIG, SUMMARY, PAST, METRICS, "checkpoints")

T = TypeVar("T")

Count = Annotated[int, Meta(ge=0, le=LARGEST_INTEGER)]
Amount = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]


@dataclass(frozen=True)
class Summary:
    """The part of summary.json that a look takes."""

    status: Literal["running", "finished", "interrupted", "failed"] = "running"
    engine: str = ""
    stage_layers: list[list[Count]] = field(default_factory=list)
    replicas: list[Count] = field(default_factory=list)
    chunk: Count = 0
    window: Count = 0
    epochs: Count = 0
    steps: Steps = 0
    steps_per_epoch: Count = 0
    train_seconds: Amount = 0.0
    examples_per_second: Amount | None = None
    test_error_goodness: Share | None = None
    test_error_softmax: Share | None = None
    test_error_last: Share | None = None
    test_error_sum: Share | None = None
    recovery_notes: list[RecoveryNote] = field(default_factory=list)
    peak_rss_bytes: list[Count] = field(default_factory=list)
    peak_device_bytes: list[Count] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)

    @property
    def epochs_done(self) -> float | None:
        """Epochs that are saved; None where an earlier version wrote the summary."""
        return self.steps / self.steps_per_epoch if self.steps_per_epoch else None

    @property
    def test_errors(self) -> dict[str, float]:
        return errors_by_readout(vars(self))


class Look(NamedTuple):
    """One run. config, summary: None where they are absent or damaged. damage: what is, a phrase each. changed: when
    any of its files was written last, in seconds since the epoch."""

    path: Path
    config: Config | None
    summary: Summary | None
    running: bool
    damage: tuple[str, ...]
    changed: float

    @property
    def name(self) -> str:
        return self.path.absolute().name or str(self.path)  # the root has none

    @property
    def state(self) -> str:
        """The state in a word or two."""
        return "damaged" if self.damage and not self.running else state_of(self.running, self.summary, self.config)

    @property
    def errors(self) -> tuple[str, dict[str, float]]:
        """A split, and the error of each read-out on it: on the test split at the end, else the newest validation."""
        if self.summary is None:
            return "", {}
        if (found := self.summary.test_errors) and said_of(self.summary, self.config) == "finished":
            return "test", found
        on_validation = [each for each in self.summary.evaluations if each.split == "validation"]
        return ("validation", on_validation[-1].readouts) if on_validation else ("", {})


def look_at(path: Path) -> Look:
    """Read what a look needs of a run folder. Raises UserError where it is not one."""
    refuse_no_folder(path, path)
    if not is_run(path):
        raise UserError(f"{path} is not a run: it has no config.toml")
    # The lock is asked first: a run that ended between a read of its summary and the question would seem broken off.
    config, summary, damage, running = None, None, [], is_running(path)
    try:
        config = msgspec.convert(config_tree(path / CONFIG), Config)  # without its rules, some of which ask torch
    except (UserError, msgspec.ValidationError) as error:
        if not running or os.path.lexists(path / CONFIG):  # which a run that begins has not written yet
            damage.append(_phrase(error, path / CONFIG))
    try:
        summary = decoded(path / SUMMARY, LARGEST_SUMMARY, Summary)
    except FileNotFoundError:  # it is written with the first snapshot
        pass
    except UserError as error:
        damage.append(_phrase(error, path / SUMMARY))
    return Look(path, config, summary, running, tuple(damage), _changed(path))


def refuse_no_folder(
    path: Path, given: str | Path, instead: str = "the folder of a run, as `ffpipe train` printed it"
) -> None:
    """Refuse what is not a folder and so not a run, and a folder that may not be entered, in which all files seem to be
    absent. given: how the user named it."""
    try:
        os.stat(os.path.join(path, "."))  # which enters it
    except PermissionError as error:
        raise Unreachable(f"{given} cannot be entered: {reason(error)}") from None
    except (OSError, ValueError):  # a name may be too long, or one that no file can have
        raise UserError(f"{given} is not a folder: give {instead}") from None


def runs_in(folder: str | Path) -> list[Look]:
    """List the runs in a folder, the one that was written to last at the end. Raises UserError."""
    root = expanded(folder)
    refuse_no_folder(root, folder, "the one that runs are in")
    if os.path.lexists(root / CONFIG):
        raise UserError(f"{folder} is a run itself: give the folder that it is in, or ask `ffpipe show`")
    found = []
    with refusing(f"cannot read {folder}"), os.scandir(root) as entries:
        for count, entry in enumerate(entries):
            if count == MOST_ENTRIES:
                raise UserError(f"{folder} has more than {MOST_ENTRIES:,} entries: give a folder of runs")
            path = root / entry.name
            try:
                refuse_no_folder(path, path)
            except Unreachable as error:  # it may be a run, as what may not be read may be one's summary
                why = str(error).removeprefix(f"{path} ")
                found.append(Look(path, None, None, False, (why,), _changed(path)))
            except UserError:
                continue
            else:
                found += [look_at(path)] if is_run(path) else []
    return sorted(found, key=lambda look: (look.changed, look.name))


def past_of(path: Path) -> History:
    """Read what a run has behind it. Raises UserError with a phrase that says why that cannot be."""
    try:
        return read_past(path / PAST, LARGEST_PAST_SHOWN)
    except UserError as error:
        raise UserError(_phrase(error, path / PAST)) from None


def read_past(path: Path, most: int) -> History:
    """Read a past.json of at most `most` bytes. Raises UserError: absent or damaged; Unreachable: not to be read."""
    try:
        return decoded(path, most, History)
    except FileNotFoundError as error:
        raise UserError(f"cannot read {path}: {error}") from None


def decoded(path: Path, most: int, kind: type[T]) -> T:
    """Read JSON of at most `most` bytes. Raises UserError: damaged; Unreachable; FileNotFoundError."""
    try:
        return msgspec.json.decode(read_whole(path, most), type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"cannot read {path}: {error}") from None


def encoded(tree: Any, indent: int | None = None) -> str:
    """Return a value as JSON, which has no words for numbers that are not finite: they become null."""
    # By way of a text, in which they are words: another encoder would spell all other numbers anew.
    finite = json.loads(json.dumps(tree), parse_constant=lambda word: None)
    return json.dumps(finite, indent=indent)


def newest_rows(rows: Iterable[LayerRow]) -> list[LayerRow]:
    """Return the newest row of metrics of each block, in their order; that of the head comes last."""
    newest = {row.layer: row for row in sorted(rows, key=lambda row: row.step)}
    return [newest[layer] for layer in sorted(newest, key=lambda layer: (layer < 0, layer))]


def percent(share: float | None) -> str:
    """Say a share in percent; a dash where there is none."""
    return "-" if share is None else f"{share:.2%}"


def say_row_errors(row: LayerRow) -> str:
    """Say the errors of a block over an interval of the log; behind them those by logistic probabilities, if it has
    them."""
    logistic = "" if row.logistic_pair_errors is None else f" (logistic {percent(row.logistic_pair_errors)})"
    return f"{percent(row.pair_errors)}{logistic}"


def say_errors(errors: Mapping[str, float]) -> str:
    """Say errors by read-out."""
    return ", ".join(f"{percent(error)} by {name}" for name, error in errors.items())


def state_of(running: bool, summary: Summary | None, config: Config | None) -> str:
    """Return the state of a run in words. One that says that it is running and holds no lock was broken off."""
    if running:
        return "running"
    said = said_of(summary, config)
    return "broken off" if said == "running" else said


def said_of(summary: Summary | None, config: Config | None) -> str:
    """Return the status that a summary gives a run; "running" where the run has been given more epochs since."""
    if summary is None:
        return "running"
    # A run that goes on writes its config first, and its summary with the next snapshot.
    longer = config is not None and 0 < summary.epochs < config.training.epochs
    return "running" if longer and summary.status == "finished" else summary.status


def is_run(path: Path) -> bool:
    """Return True for a folder that is a run, or what is left of one."""
    return any(os.path.lexists(path / name) for name in FILES)


def is_running(path: Path) -> bool:
    """Return True while a process holds the lock of a run, whatever its files say; False where there are no locks."""
    with suppress(OSError):
        # Nothing that lies there is waited for, nor followed.
        handle = os.open(path / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            # Shared, so that two looks at once do not take each other for a trainer, and given back at once.
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
    return False


def config_tree(path: Path) -> dict[str, Any]:
    """Read the config of a run, whose fields are not checked yet. Raises UserError."""
    if not (tree := read_tree(path)):  # which would be read as a config of defaults alone
        raise UserError(f"{path} is empty: what the run was is lost")
    return tree


def _changed(path: Path) -> float:
    times = [0.0]
    for name in FILES:
        with suppress(OSError):
            found = os.lstat(path / name)
            times += [found.st_mtime] if stat.S_ISREG(found.st_mode) else []
    return max(times)


def _phrase(error: Exception, path: Path) -> str:
    """Say what is wrong with a file, by its name."""
    if isinstance(error, FileNotFoundError):
        return f"{path.name}: absent"
    said = str(error)
    for spelled in (f"cannot read {path}: ", f"{path}: ", f"{path} "):
        said = said.removeprefix(spelled)
    return f"{path.name}: {'absent' if said.startswith('[Errno 2]') else said}"


def resume_command(run: Path, training: Training, *more: str) -> str:
    """Spell the command that goes on with a run, with the consent to the code that it names. more: further options."""
    # The program that ran has a file, whose name the run does not know.
    name = re.sub(r"^__main__:", "FILE.py:", training.model)
    model = ("--model", name) if name else ()
    return shlex.join(["ffpipe", "resume", str(run), *more, *model])
