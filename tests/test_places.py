"""Places that a run folder or a config from elsewhere names outside itself are left alone, unless the user names it
too; and a run goes on with its own files wherever they are now."""

from __future__ import annotations

import shutil
from pathlib import Path
from unittest import mock

import pytest
from covering import only
from disturbed import QUICK, config, files_in, own_data
from pyarrow import fs
from strangers import bounded, fresh, refused, set_field

import ffpipe
from ffpipe.commands.cli import main


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> mock.Mock:
    """Counts what would ask a store on a network."""
    asked = mock.Mock(side_effect=OSError("asked"))
    monkeypatch.setattr(fs, "FileSystem", mock.Mock(from_uri=asked))
    return asked


@pytest.fixture
def mine(strangers_run: Path, tmp_path: Path) -> Path:
    """The user's own run, beside that of a stranger."""
    return fresh(strangers_run, tmp_path / "mine")


DIGITS = Path(ffpipe.__file__).parent / "data" / "digits.parquet"
CHECKPOINTS, SPOOL, TRAIN = "execution/checkpoints", "execution/spool", "training/data/train"
URIS = ("s3://bucket/run", "gs://bucket/run", "hdfs://host/run", "s3:/bucket", "carrier-pigeon://coop")


def test_a_link_in_the_place_of_snapshots_is_not_followed(
    mine: Path, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Least of all where the stranger's run has no name, and could take any."""
    before = files_in(mine)
    shutil.rmtree(copy / "checkpoints")
    (copy / "checkpoints").symlink_to(mine / "checkpoints")
    for past in (True, False):
        if not past:
            (copy / "past.json").unlink()
        refused(["resume", str(copy), "--epochs", "2"], f"leads to {mine / 'checkpoints'} by its execution", capsys)
        assert main(["evaluate", str(copy)]) == 0, "which only reads"
        assert files_in(mine) == before


STEP = "checkpoints/step-00000028"
FILES = ["past.json", "summary.json", "metrics.parquet", "trace.json", ".lock", "checkpoints/run", "checkpoints", STEP]
FILES += [f"{STEP}/{name}" for name in ("manifest.json", "layer-001.safetensors", "head.safetensors")]
FILES += ["ffpipe-spool-1-a", ".past.json.tmp", ".config.toml.tmp", "checkpoints/step-00000056"]


@pytest.mark.parametrize("name", only(FILES[::2], FILES))
def test_nothing_is_written_through_any_link(name: str, mine: Path, copy: Path) -> None:
    """Whatever of a run folder is a link to a file or a folder of another run, that run stays as it is."""
    (mine / "trace.json").write_text("[]")
    before = files_in(mine)
    there = mine / name if (mine / name).exists() else mine
    link = copy / name
    if link.is_dir():
        shutil.rmtree(link)
    link.unlink(missing_ok=True)
    link.symlink_to(there)
    with bounded():
        for engine in ("local", "layerwise"):
            main(["resume", str(copy), "--epochs", "2", "--engine", engine, "--execution.trace", "true"])
    assert files_in(mine) == before


@pytest.mark.parametrize("field", [CHECKPOINTS, SPOOL])
def test_places_outside_a_run_folder(
    field: str, mine: Path, copy: Path, capsys: pytest.CaptureFixture[str], no_network: mock.Mock
) -> None:
    """However they are written, they are left alone and nothing is asked."""
    (copy.parent / "link").symlink_to(mine)
    (copy / "inner").symlink_to(mine)
    paths = [mine / "checkpoints", copy.parent / "link", copy / "inner" / "new", copy / ".." / "mine", Path("~/x")]
    before, kept = files_in(mine), (copy / "config.toml").read_bytes()
    (copy / "past.json").unlink()
    for place in (*map(str, paths), *(URIS if field == CHECKPOINTS else ())):
        set_field(copy / "config.toml", field, place)
        refused(["resume", str(copy), "--engine", "layerwise"], f"by its {field.replace('/', '.')}, which is", capsys)
        if place in URIS:
            for command in (
                ["evaluate", str(copy)],
                ["predict", str(copy), "a.npy"],
                ["export", str(copy), "a.safetensors"],
            ):
                refused(command, f"give --execution.checkpoints {place}", capsys)
        (copy / "config.toml").write_bytes(kept)
    assert files_in(mine) == before
    no_network.assert_not_called()


@pytest.mark.parametrize("field", [CHECKPOINTS, SPOOL, "execution/run_dir"])
@pytest.mark.parametrize("command", ["train", "plan"])
def test_places_that_a_config_names(
    field: str,
    command: str,
    mine: Path,
    copy: Path,
    capsys: pytest.CaptureFixture[str],
    no_network: mock.Mock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(copy)
    before = files_in(copy.parent)
    for place in (str(mine / "new"), "../mine/new", *(URIS if field == CHECKPOINTS else ())):
        set_field(copy / "config.toml", field, place)
        for data in ([], ["--data", str(DIGITS)]):
            says = f"for {field.replace('/', '.')}, which is outside of"
            refused([command, str(copy / "config.toml"), *data], says, capsys)
    assert files_in(mine) == {name.removeprefix("mine/"): b for name, b in before.items() if name.startswith("mine/")}
    no_network.assert_not_called()


def test_a_config_may_name_what_lies_below_it(copy: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    set_field(copy / "config.toml", CHECKPOINTS, str(copy / "new"))
    assert main(["train", str(copy / "config.toml"), "--run-dir", "run"]) == 0
    assert list(copy.glob("new/*/manifest.json"))


PLACES = ["/dev/zero", "/proc/self/mem", "/dev/stdin", "..", "/", "~", "~nobody-at-all/x", "\x1b[2J", "%s{0}", *URIS]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("field", [CHECKPOINTS, SPOOL, TRAIN])
def test_strange_places_end_in_one_line(
    place: str, field: str, copy: Path, capsys: pytest.CaptureFixture[str], no_network: mock.Mock
) -> None:
    set_field(copy / "config.toml", field, [place] if field == TRAIN else place)
    set_field(copy / "config.toml", "training/data/source", "npz")
    before = files_in(copy)
    for command in (["resume", str(copy)], ["evaluate", str(copy)]):
        refused(command, "", capsys)
    assert files_in(copy) == before
    no_network.assert_not_called()


def test_what_the_user_named_once_is_the_run_s_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In this folder, on this host; a copy or a folder that was moved has to be told again."""
    place, run = str(tmp_path / "place"), tmp_path / "run"
    first = ffpipe.train(config(run, **QUICK, **{"execution.checkpoints": place}))
    assert ffpipe.resume(run).weights_sha256 == first.weights_sha256
    shutil.copytree(run, tmp_path / "copy")
    before = files_in(tmp_path / "place")
    refused(["resume", str(tmp_path / "copy")], f"give --execution.checkpoints {place} if that", capsys)
    assert files_in(tmp_path / "place") == before
    for _ in range(2):
        assert main(["evaluate", str(tmp_path / "copy")]) == 0
    again = ffpipe.resume(tmp_path / "copy", {"execution.checkpoints": place})
    assert again.weights_sha256 == ffpipe.resume(tmp_path / "copy").weights_sha256 == first.weights_sha256


def test_a_reader_is_given_places_alone(copy: Path) -> None:
    with pytest.raises(ffpipe.UserError, match=r"training\.seed is not to be changed for a run that is read"):
        ffpipe.load(copy, changes={"training.seed": 3})


@pytest.fixture
def moved(here: Path) -> Path:
    """A run on the user's own files, in a folder with them, which has been moved."""
    (here / "a").mkdir()
    ffpipe.train(config(here / "a" / "run", **QUICK, **own_data(Path("a/d.npz"), 1)))
    return Path(shutil.move(here / "a", here / "b")) / "run"


def test_data_that_moved_with_their_run_are_found(moved: Path) -> None:
    first = ffpipe.evaluate(moved)
    assert ffpipe.resume(moved).test_error_goodness == first.goodness
    shutil.move(moved.parent, moved.parent.parent / "c")
    assert main(["evaluate", "c/run"]) == 0
    assert main(["resume", "c/run"]) == 0


@pytest.mark.parametrize("command", ["evaluate", "resume"])
def test_data_that_moved_alone_can_be_named(command: str, moved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.move(moved.parent / "d.npz", "e.npz")
    own_data(Path("other.npz"), 2)
    named = "--training.data.train"
    refused([command, str(moved)], f"d.npz is not there any more: give its new place with {named}", capsys)
    refused([command, str(moved), named, "other.npz"], "what npz gives now is not what the run began with", capsys)
    assert main([command, str(moved), named, "e.npz"]) == 0
    assert main([command, str(moved)]) == (0 if command == "resume" else 2)


def test_a_run_goes_on_with_the_same_data_alone(moved: Path) -> None:
    with pytest.raises(ffpipe.UserError, match=r"of training only training\.epochs can be changed, and where its data"):
        ffpipe.resume(moved, {"training.data.test_count": 40})
