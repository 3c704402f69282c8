"""The parts of a report by themselves: pictures of few and of many series, traces, margins, labels, the page."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from covering import only
from matplotlib.figure import Figure

from ffpipe.config.fields import override
from ffpipe.config.recipes import get_recipe
from ffpipe.config.schema import Training
from ffpipe.pipeline.job import make_job
from ffpipe.planning.estimate import process_as
from ffpipe.reports import curves, figures
from ffpipe.reports.answers import Answers
from ffpipe.reports.compare import MOST_PANELS, flat, letter
from ffpipe.reports.drawing import DARK, colours, drawn, few
from ffpipe.reports.gather import Curve, Summary, block_name, curve
from ffpipe.reports.memory import Memory, memory
from ffpipe.reports.page import html
from ffpipe.reports.parts import Missing, Page, Passage, Section, Shown, Table, Tile, attempt
from ffpipe.reports.rows import as_pictures, labels_in
from ffpipe.reports.spread import Spread, Spreads, margins
from ffpipe.reports.trace import ACTIVITIES, read_trace
from ffpipe.reports.weights import Fields
from ffpipe.system.errors import UserError
from ffpipe.telemetry.spans import Span, TraceFile

BLOCKS = [1, pytest.param(3, marks=pytest.mark.long), 12, 32, 1000]


def many(count: int, points: int = 50) -> list[Curve]:
    steps = tuple(range(1, points + 1))
    return [Curve(block_name(block), steps, tuple((block + 1) / step for step in steps)) for block in range(count)]


@pytest.mark.parametrize("count", BLOCKS)
def test_curves_of_any_number_of_blocks(count: int) -> None:
    """Each has a colour of its own on both pages, and the legend fits below the picture."""
    made = colours(count)
    assert len(made) == count
    assert len(set(made)) >= min(count, 200)  # a scale has no more
    assert set(made) <= DARK.keys()
    assert len(few(count)) <= 8
    assert {0, count - 1} <= few(count)
    if count > 32:
        return
    figure = curves.blocks_against_steps(many(count), "Loss", "loss", 10.0)
    drawn(figure, "loss", "alt")  # now all has its place
    legend, axes = figure.legends[0].get_window_extent(), figure.axes[0].get_window_extent()
    assert legend.y1 < axes.y0
    assert 0 <= legend.x0 < legend.x1 <= figure.bbox.width


@pytest.mark.parametrize("count", [1, 5, pytest.param(12, marks=pytest.mark.long)])
def test_blocks_of_several_runs_have_a_picture_each(count: int) -> None:
    """All runs are in each, their scales are the same, and the legend names each run once, below them."""
    runs = [[curves.OfRun(run, f"{letter(run)}: run", each, 10.0) for each in many(count)] for run in range(5)]
    figure = curves.runs_by_block({found[0].curve.name: found for found in zip(*runs, strict=True)}, 5, "loss", False)
    drawn(figure, "loss", "alt")
    panels = [axes for axes in figure.axes if axes.lines]
    assert [axes.get_title(loc="left") for axes in panels] == [block_name(block) for block in range(count)]
    assert {len(axes.lines) for axes in panels} == {5}
    assert len({axes.get_ylim() for axes in panels}) == 1
    legend = figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == [f"{letter(run)}: run" for run in range(5)]
    assert legend.get_window_extent().y1 < min(axes.get_window_extent().y0 for axes in panels)


def test_some_blocks_of_a_deep_network_are_compared() -> None:
    chosen = sorted(few(64, MOST_PANELS))
    assert len(chosen) <= MOST_PANELS
    assert (chosen[0], chosen[-1]) == (0, 63)


def test_a_long_curve_is_thinned() -> None:
    svg = drawn(curves.blocks_against_steps(many(2, 20_000), "Loss", "loss", 0.0), "loss", "alt").html
    assert len(svg) < 150_000


def test_a_curve_is_in_the_order_of_its_steps() -> None:
    assert curve("a", [(3, 0.5), (1, 0.9), (3, 0.4)]) == Curve("a", (1, 3), (0.9, 0.4))


@pytest.mark.parametrize("count", only((1, 32), (1, 5, 12, 32)))
def test_pictures_of_any_number_of_blocks(count: int) -> None:
    chance = np.random.default_rng(0)
    spread = [Spread(b, "dense", chance.normal(b, 1, 50), chance.normal(0, 1, 50), 0.1, 0.5) for b in range(count)]
    for figure in (
        figures.histograms(Spreads("goodness", ("positive", "negative"), tuple(spread))),
        figures.shares_of_time([{"compute": 0.5, "input": 0.3, "exchange": 0.1}] * count),
        figures.memory_of_stages(Memory((range(1),) * count, ((2**20,) * 8,) * count, (2**23,) * count)),
    ):
        assert drawn(figure, "x", "alt").html.startswith(("<svg", "<img"))


def test_memory_is_foretold_of_the_engine_and_the_replicas_that_a_run_had() -> None:
    """A budget may have chosen another engine than the config names, and a loss have left other replicas."""
    sharded = {"training.shards": 4, "training.batch_size": 40}
    jobs = {
        (engine, replicas): make_job(
            override(
                get_recipe("digits"),
                {**sharded, "execution.engine": engine, "execution.stages": 3, "execution.replicas": replicas},
            )
        )
        for engine in ("ray", "layerwise", "local")
        for replicas in (1, 4)
    }
    cut = [[0], [1], [2]]
    for engine in ("layerwise", "local"):
        process = 100 << 20
        had = Summary(engine=engine, stage_layers=cut, replicas=[1] * 3, chunk=2, peak_rss_bytes=[1, 2, 3])
        own = memory(jobs[engine, 1], had, process_as(engine, process, "ray"))
        assert memory(jobs["ray", 4], had, process) == own
        assert len(own.layers) == (1 if engine == "local" else 3)
    ray = Summary(engine="ray", stage_layers=cut, replicas=[4, 1, 1], chunk=2)
    found, one, four = (
        memory(jobs["ray", replicas], summary, 0)
        for replicas, summary in ((1, ray), (1, replace(ray, replicas=[1] * 3)), (4, replace(ray, replicas=[4] * 3)))
    )
    assert found.predicted == (four.predicted[0], *one.predicted[1:])
    assert four.predicted[0] != one.predicted[0]
    # Without a summary as the draft has it; what a stranger's says is passed over.
    assert memory(jobs["ray", 4], None, 0).predicted[0][4] == four.predicted[0][4]
    for odd in ([], [1], [0, 1, 1], [10**9] * 3):
        strange = replace(ray, engine="another", replicas=odd)
        assert memory(jobs["ray", 1], strange, 0).predicted == one.predicted


@pytest.mark.parametrize("classes", [pytest.param(2, marks=pytest.mark.long), 10, 70])
def test_confusion_of_few_and_many_classes(classes: int) -> None:
    counts = np.random.default_rng(0).integers(0, 9, (classes, classes))
    names = tuple(f"${index}_" for index in range(classes))
    figure = figures.confusion(Answers("test", "last", names, counts, (), 100, 100, False))
    svg = drawn(figure, "x", "alt").html
    assert svg.startswith("<svg")
    assert "$1_" in svg


def test_any_name_may_stand_in_the_text_of_a_picture() -> None:
    figure = Figure(figsize=(4, 3))
    figure.subplots()
    alt = r"run \x1b[2J\g<1>"
    assert f"<title>{alt}</title>" in drawn(figure, "x", alt).html


def test_a_picture_of_too_many_parts_becomes_pixels() -> None:
    figure = Figure(figsize=(4, 3))
    figure.subplots().plot(np.arange(10_000) % 777, np.arange(10_000) % 1013, ".", markersize=1)
    found = drawn(figure, "x", "what it shows")
    assert found.html.startswith('<img class="png" alt="what it shows" src="data:image/png;base64,')


def test_fields_in_colours_and_without() -> None:
    for shape in ((5, 4, 4), (3, 28, 28, 3), (48, 2, 2)):
        assert (
            "<image" in drawn(figures.receptive_fields(Fields("t", "w", np.ones(shape, np.float32), 99)), "x", "a").html
        )


def test_fields_of_long_rows_keep_to_a_page() -> None:
    """As of sounds, whose rows are taken for images of one pixel's width."""
    figure = figures.receptive_fields(Fields("t", "w", np.ones((48, 16_000, 1), np.float32), 99))
    assert figure.get_size_inches()[1] < 100


def test_a_trace_is_read_line_by_line(tmp_path: Path) -> None:
    """Also one that is being written, with lines that are none of ours."""
    path = tmp_path / "trace.json"
    with pytest.raises(UserError, match="there is no trace"):
        read_trace(path)
    path.write_text(
        "[\n"
        '{"ph": "M", "name": "process_name", "pid": 0, "args": {"name": "stage 0"}},\n'
        '{"ph": "X", "name": "compute Train(first=0)", "cat": "compute", "pid": 0, "tid": 0, "ts": 1e6, "dur": 3e6},\n'
        '{"ph": "X", "name": "input", "cat": "input", "pid": 1, "tid": 0, "ts": 1e6, "dur": 1e6},\n'
        '{"ph": "X", "name": "publish", "cat": "publish", "pid": 0, "tid": 1, "ts": 1e6, "dur": 1e9},\n'
        '{"ph": "X", "name": "compute Train", "pid": 99999999, "tid": 0, "ts": 1e6, "dur": 1e9},\n'
        '{"ph": "X", "name": "compute Train", "pid": 1, "tid": 0, "ts": -1e300, "dur": 1e9},\n'
        f'{{"ph": "X", "name": "{"x" * 5000}", "pid": 1}},\n'
        '{"ph": "X", "name": "compute Ev'
    )
    found = read_trace(path)
    assert found.seconds == pytest.approx(3.0)
    assert not found.cut
    assert found.shares.shape[:2] == (2, len(ACTIVITIES))
    assert found.shares[0, 0] == pytest.approx(np.ones(300))
    assert found.shares[1, 3, :100] == pytest.approx(np.ones(100))
    assert found.shares[1, 3, 101:].sum() == 0
    assert {span.stage for span in found.spans} == {0, 1}
    path.write_text("[\n")
    with pytest.raises(UserError, match="has no spans yet"):
        read_trace(path)


def test_spans_of_a_trace_are_of_the_stages_that_their_processes_name(tmp_path: Path) -> None:
    """After a recovery a stage may be another process; a stage's replicas are in step."""
    trace = TraceFile(tmp_path / "trace.json")
    replicas = ((0, "stage 0, replica 0: layers 0"), (1, "stage 0, replica 1: layers 0"), (2, "stage 1: layers 1"))
    for number, name in replicas:
        trace.add(number, name, [Span("compute", "Train", 1.0, 0.5), Span("exchange", "block 0", 1.5, 0.5)])
    for number, name in ((0, "stage 0: layers 0, 1"), (2, "stage 1: layers 1")):
        trace.add(number, name, [Span("compute", "Train", 3.0, 1.0)])
    trace.close()
    found = read_trace(tmp_path / "trace.json")
    assert len(found.shares) == 2
    assert found.shares.sum((1, 2)) == pytest.approx([200, 200])
    assert found.shares[0, ACTIVITIES.index("waits for replicas")].sum() == pytest.approx(50)


def test_margins() -> None:
    scores = torch.tensor([[1.0, 3.0, 2.0], [5.0, 1.0, 0.0]])
    assert margins(scores, torch.tensor([1, 2])).tolist() == [1.0, -5.0]
    assert margins(scores[None], torch.tensor([[0, 0]])).tolist() == [-2.0, 4.0]


@pytest.mark.parametrize(("labels", "width"), [("overlay", 16), ("append", 20), ("planes", 80)])
def test_labels_that_rows_carry(labels: str, width: int) -> None:
    from ffpipe.learn.labels import LabelCode

    code = LabelCode(labels, 16, 4, 1.0, (4, 4))
    rows = torch.empty(3, width)
    right = torch.tensor([2, 0, 3])
    code.write(rows, torch.rand(3, 16) / 2, right)
    found = labels_in(rows, Training(labels=labels), 16, 4)  # type: ignore[arg-type]  # one of them
    assert found is not None
    assert torch.equal(found, right)
    assert labels_in(rows, Training(labels="none"), 16, 4) is None


def test_pictures_of_examples() -> None:
    rows = np.arange(24, dtype=np.float32).reshape(2, 12)
    assert as_pictures(rows, (3, 4)).shape == (2, 3, 4)
    assert as_pictures(rows, (2, 2, 3)).shape == (2, 2, 2, 3)
    assert as_pictures(rows, (3, 4)).max() == 1.0
    with pytest.raises(UserError, match="are not pictures"):
        as_pictures(rows, (12,))


@pytest.mark.parametrize("size", only([(30, 8)], [(8, 8), (24, 8), (30, 8), (4, 16)]))
def test_captions_of_long_names_do_not_meet(size: tuple[int, int]) -> None:
    names = ("n02099601-golden_retriever", "W" * 40, "i" * 300, "\x1b[2J$_{1}$", "", "cat")
    captions = [[names[at % 6], f"→ {names[(at + 1) % 6]}", "98%", "IMG_20230101_000001.png"] for at in range(24)]
    figure = figures.sheet(np.zeros((24, *size), np.float32), captions)
    drawn(figure, "mistakes", "alt")  # now all has its place
    texts = figure.axes[0].texts
    assert texts[5].get_text().startswith("cat\n→ n0")
    boxes = [text.get_window_extent() for text in texts]
    for line in (boxes[:12], boxes[12:]):
        assert all(left.x1 < right.x0 for left, right in pairwise(line))
    pictures = [image.get_window_extent() for image in figure.axes[0].images]
    assert max(box.y1 for box in boxes[:12]) < pictures[0].y0
    assert max(picture.y1 for picture in pictures[12:]) <= min(box.y0 for box in boxes[:12])
    assert min(box.y0 for box in boxes) >= 0


def test_everything_on_a_page_is_escaped() -> None:
    evil = "<script>\x1b[31m</script>\"'&"
    section = Section(evil, [Table([evil], [[evil]], evil), Passage([(evil, True)], evil), Missing(evil, evil)], evil)
    text = html(Page(evil, evil, evil, [Tile(evil, evil)], [section]))
    assert "<script" not in text
    assert "\x1b" not in text
    assert text.count("&lt;script&gt;\\x1b[31m&lt;/script&gt;&quot;&#x27;&amp;") == 16


def test_a_part_is_a_value_or_a_reason() -> None:
    def fail(error: Exception) -> None:
        raise error

    assert Shown(2).then(lambda two: two + 1) == Shown(3)
    assert Shown[int](missing="gone").then(lambda two: two + 1) == Shown(missing="gone")
    assert attempt(lambda: fail(UserError("not there"))).missing == "not there"
    assert attempt(lambda: fail(FileNotFoundError(2, "No such file"))).missing == "No such file"
    assert "ZeroDivisionError" in attempt(lambda: 1 // 0, user_code=True).missing
    with pytest.raises(ZeroDivisionError):
        attempt(lambda: 1 // 0)
    assert Shown(1).beside(Shown("a")) == Shown((1, "a"))
    assert Shown(1).beside(Shown[str](missing="gone")) == Shown(missing="gone")


def test_letters_and_fields_of_runs() -> None:
    assert [letter(index) for index in (0, 25, 26, 27, 52)] == ["A", "Z", "AA", "AB", "BA"]
    fields = flat(Training(blocks=()))
    assert fields["data.source"] == "digits"
    assert fields["dims"] == "64 500 500"
    assert fields["blocks"] == "none"
