"""A report of a run, or of several: gathered, drawn and written, once or again and again while the run is going."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ffpipe.learn.user_model import Consent
from ffpipe.pipeline.job import Job
from ffpipe.reports.gather import Record, Summary, read_run
from ffpipe.reports.memory import memory
from ffpipe.reports.network import EXAMPLES, OF_NETWORK, Asked, Trained, open_job
from ffpipe.reports.parts import Page, Section, Shown, attempt
from ffpipe.reports.style import MARK, PNG_MARK
from ffpipe.reports.trace import read_trace
from ffpipe.runs.controller import process_of_stage
from ffpipe.runs.model import Given
from ffpipe.runs.saved import SavedRun
from ffpipe.system.errors import UserError, one_line, reason, refusing
from ffpipe.system.files import expanded, replacing, size_of

NAME = "report.html"
# Bytes of a file in which the mark of our reports and pictures has to stand.
BEGINNING = 500


def write_report(
    run: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    *,
    png: str | Path | None = None,
    model: Given | None = None,
    allow_code: Iterable[str] = (),
    changes: Mapping[str, Any] | None = None,
    data_dir: str = "",
    examples: int = EXAMPLES,
    refresh: int = 0,
) -> Path:
    """Write a report as one HTML file, and return its path.

    run: a run folder, or several that are laid over each other. out: the file; none: report.html in the run folder, of
    several in the working folder. png: folder for the pictures as PNGs. model, allow_code, changes, data_dir: as for
    `evaluate`; without consent the report does without what needs the code, and a line on stderr says so. examples: of
    the test split that are looked at, at most. refresh: seconds after which a browser reads the file again; 0: never.
    Raises UserError where a folder is not a run, where the file or the folder cannot be written or has a picture of the
    same name that no report wrote, and without matplotlib.
    """
    return _Report(run, out, png, Asked(model, allow_code, changes, data_dir, examples)).write(refresh)


def watch_report(
    run: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    *,
    seconds: int,
    png: str | Path | None = None,
    wait: Callable[[float], object] = lambda seconds: time.sleep(seconds),
    written: Callable[[Path], object] = lambda path: None,
    **asked: Any,
) -> Path:
    """Write a report again and again, as `write_report` does, until the run has ended, or all of several have.

    It is written anew where the run has written something. seconds: between two looks, from 1 on. wait: is called with
    them. written: takes the path once the first report is there. asked: model, allow_code, changes, data_dir, examples,
    as for `write_report`.
    """
    report = _Report(run, out, png, Asked(**asked))
    seen = report.signature()
    path = report.write(seconds if report.going else 0)
    written(path)
    while report.going:
        wait(seconds)
        # Taken before the runs are read, so that what is written meanwhile counts as new the next time.
        now = report.signature()
        report.read()
        if now != seen or not report.going:
            seen = now
            report.write(seconds if report.going else 0)
    return path


def refuse_without_matplotlib() -> None:
    """Raise UserError where pictures cannot be drawn."""
    # Looked for and not imported: the memory of this process is measured without it, as that of a stage.
    if find_spec("matplotlib") is None:
        raise UserError("a report is drawn with matplotlib, which is not installed: pip install 'ffpipe[report]'")


class _Report:
    """One report that can be written again. Raises UserError where it could not be written at all."""

    def __init__(
        self, run: str | Path | Sequence[str | Path], out: str | Path | None, png: str | Path | None, asked: Asked
    ) -> None:
        refuse_without_matplotlib()
        runs = [run] if isinstance(run, (str, Path)) else list(run)
        if not runs:
            raise UserError("no run is named: give the folder of a run, or of several")
        if asked.examples < 1:
            raise UserError(f"--examples is {asked.examples}: give 1 or more")
        self._runs, self._asked = runs, asked
        self.records: list[Record] = []
        self.read()
        # By their real paths, since a run may be named by a link too.
        folders = [os.path.realpath(record.folder.path) for record in self.records]
        for index, named in enumerate(runs):
            if folders[index] in folders[:index]:
                raise UserError(f"run {named} is named twice: name each run once")
        self._out = (
            expanded(out) if out is not None else (Path(NAME) if len(runs) > 1 else self.records[0].folder.path / NAME)
        )
        self._png = expanded(png) if png is not None else None
        refuse_output(self._out)
        if self._png is not None:
            if self._png.exists() and not self._png.is_dir():
                raise UserError(f"--png is {self._png}, which is a file: give a folder")
            with refusing(f"--png: folder {self._png} cannot be made"):
                self._png.mkdir(parents=True, exist_ok=True)
            if not os.access(self._png, os.W_OK):
                raise UserError(f"--png: folder {self._png} is not yours to write to; give another")
        # Several runs are compared without their networks.
        if len(runs) == 1 and (line := _without_code(self.records[0], asked)):
            print(line, file=sys.stderr, flush=True)
        # Before there are data and matplotlib, which take memory of their own.
        self._process = attempt(lambda: process_of_stage(self.records[0].config)) if len(runs) == 1 else Shown[int]()

    @property
    def going(self) -> bool:
        """True while any of the runs is trained."""
        return any(record.going for record in self.records)

    def read(self) -> None:
        self.records = [read_run(run) for run in self._runs]

    def signature(self) -> list[tuple[int, int]]:
        """Return times and sizes of what a run writes now and then."""
        files = (file for record in self.records for file in (record.folder.past, record.folder.summary))
        found = (file.stat() for file in files if file.exists())
        return [(each.st_mtime_ns, each.st_size) for each in found]

    def write(self, refresh: int) -> Path:
        page = self._page(refresh)
        from ffpipe.reports.drawing import png
        from ffpipe.reports.page import html

        # Before the PNGs: it finds the places of all parts, which the figures keep.
        text = html(page).encode("utf-8", "replace")
        folder = self._png
        pictures = {folder / f"{each.name}.png": each for each in page.pictures} if folder is not None else {}
        # All of them first: a report is written whole or not at all.
        for path in pictures:
            _refuse_others(path, PNG_MARK, "a picture of ffpipe report: give another folder with --png")
        for path, picture in pictures.items():
            _write(path, png(picture.figure))
        _write(self._out, text)
        return self._out

    def _page(self, refresh: int) -> Page:
        jobs = [attempt(partial(open_job, each, self._asked), self._asked.user_code(each)) for each in self.records]
        epochs = [
            float(job.value.steps_per_epoch) if job.value else _epoch_of(record)
            for job, record in zip(jobs, self.records, strict=True)
        ]
        if len(self.records) > 1:
            # Here and not above, as everything that imports matplotlib: it may not be there, and takes memory.
            from ffpipe.reports.compare import compared

            return compared(self.records, epochs, refresh)
        return _page_of(self.records[0], jobs[0], self._process, epochs[0], self._asked, refresh)


def _page_of(record: Record, job: Shown[Job], process: Shown[int], epoch: float, asked: Asked, refresh: int) -> Page:
    from ffpipe.reports import results
    from ffpipe.reports.insights import insights

    summary = record.summary.value
    held = job.beside(process).then(lambda both: memory(both[0], summary, both[1]))
    of_run = (record.folder.path, None, asked.model, asked.allow_code, asked.changes)
    saved = attempt(lambda: SavedRun.of(*of_run), asked.user_code(record))
    trained = saved.beside(job).then(lambda both: Trained(*both))
    rates = job.then(lambda found: results.rates_of(found, record.step))
    sections = [
        results.errors(record, epoch),
        results.learning(record, epoch, rates),
        *insights(trained, asked.examples),
        results.where_time_went(record.summary, attempt(lambda: read_trace(record.folder.trace))),
        Section.of("Memory", "memory of stages", held, results.where_memory_went),
        *results.what_happened(record),
        results.what_it_was(record),
    ]
    training = record.config.training
    kind = f"{training.negatives} negatives" if training.contrasts else "no negatives"
    blocks = f"{len(job.value.network)} blocks" if job.value else "blocks not known"
    subtitle = f"{record.config.recipe}: {blocks}, {kind}, seed {training.seed}, {training.epochs} epoch(s)"
    return Page(record.name, subtitle, record.status, results.tiles(record, held), sections, refresh)


def _without_code(record: Record, asked: Asked) -> str:
    """Say what a report leaves out for want of consent to the code that the run names; empty where that is nothing."""
    name, allowed = record.config.training.model, Consent(frozenset(asked.allow_code))
    if not name or asked.model is not None or allowed.allows(name):
        return ""
    left_out = f"warning: {OF_NETWORK} and memory of stages are left out"
    return one_line(f"{left_out}: {allowed.refuse(name, f'run {record.folder.path}')}")


def _epoch_of(record: Record) -> float:
    """Find the steps of an epoch in the summary; 0 where an earlier version wrote it and the run is not finished."""
    summary = record.summary.value or Summary()
    ended = summary.status == "finished" and summary.epochs
    return float(summary.steps_per_epoch or (summary.steps / summary.epochs if ended else 0.0))


def refuse_output(path: Path) -> None:
    """Raise UserError where a report cannot be written, or what is there is not one of ours."""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise UserError(f"{path} cannot be written: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise UserError(f"{path} cannot be written: folder {folder} is not yours to write to; give another with --out")
    _refuse_others(path, MARK, "a report of ffpipe: give another file with --out")


def _refuse_others(path: Path, mark: str, what: str) -> None:
    """Raise UserError where something is there that does not begin with our mark, and so is not WHAT."""
    try:
        size_of(path)  # which refuses what an open would wait for
        with path.open("rb") as file:
            ours = mark.encode() in file.read(BEGINNING)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"{path} cannot be read: {reason(error)}") from None
    if not ours:
        raise UserError(f"{path} exists and is not {what}")


def _write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all. Raises UserError."""
    with refusing(f"{path} cannot be written"), replacing(path) as file:
        file.write(data)
