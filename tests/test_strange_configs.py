"""A config from a stranger, alone or in a run folder: what is wrong is said in one line, and no code is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from strangers import refused, set_field

import ffpipe

BAD_TOML: dict[str, tuple[str | bytes, str]] = {
    "a key too deep": ("a." * 100_000 + "a = 1", "a key of more than 8 parts"),
    "a quoted key too deep": ('"\\"".' * 40_000 + "a = 1", "a key of more than 8 parts"),
    "a table too deep": ("[" + "a." * 100_000 + "a]", "a key of more than 8 parts"),
    "an inline table too deep": ("x = {" + "a ." * 80_000 + "a = 1}", "a key of more than 8 parts"),
    "arrays in arrays": ("a = " + "[" * 100_000, "recursion"),
    "tables in tables": ("a = " + "{a=" * 50_000, "recursion"),
    "too large": ("# " + "x" * 1_100_000, "more than 1,048,576 bytes"),
    "many keys": ("".join(f"a{i} = 1\n" for i in range(20_000)), "unknown field 'a0'"),
    "digits without end": ("[training]\nseed = " + "9" * 5000, "not valid TOML"),
    "another base without end": ("[training]\nseed = 0x" + "f" * 100_000, "training.seed is beyond"),
    "no UTF-8": (b"a = '\xff\xfe'", "utf-8"),
    "a NUL byte": ("a = 1\0", "not valid TOML"),
    "control characters": ('"\\u001b[2J" = 1', "unknown field"),
    "a name without end": ("a" * 200_000 + " = 1", "unknown field 'aaaa"),
}


@pytest.mark.parametrize("kind", BAD_TOML)
def test_no_config(kind: str, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, says = BAD_TOML[kind]
    path = copy / "config.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(["train", str(path)], says, capsys)
    for command in ("evaluate", "resume"):
        refused([command, str(copy)], says, capsys)


ABSURD: list[tuple[str, Any, str]] = [
    ("training/dims", [64, 10**12, 20], "training.dims[1]: expected int <= 16777216"),
    ("training/dims", [64, 10**7, 10**7], "GiB, this host has"),
    ("training/dims", [64, *[1] * 5000], "training.dims: expected array of length <= 1001"),
    ("training/epochs", 10**12, "give at most 3571428"),
    ("training/epochs", 10**18, "training.epochs is beyond"),
    ("training/batch_size", 10**12, "but there are 1400 training examples"),
    ("training/negative_lag", 10**9, "training.negative_lag: expected int <= 65536"),
    ("training/seed", 2**60, "training.seed is beyond"),
    ("training/label_strength", 1e300, "training.label_strength is 1e+300"),
    ("training/optimizer/learning_rate", 1e300, "training.optimizer.learning_rate is 1e+300"),
    ("training/data/classes", 10**12, "training.data.classes: expected int <= 16777216"),
    ("training/data/classes", 10**6, "GiB, this host has"),
    ("training/data/train", ["\0"], "training.data.train[0] is '"),
    ("training/optimizer/kind", "__init__", "training.optimizer.kind is '__init__'"),
    ("training/head_optimizer/options", {"capturable": True}, "does not fit torch.optim.Adam"),
    ("training/head_optimizer/options", {"betas": 0.5}, "does not fit torch.optim.Adam"),
    ("execution/run_dir", "\0", "execution.run_dir is '"),
    ("execution/run_dir", "a" * 5000, "cannot be made"),
    ("execution/attempts", 10**9, "execution.attempts: expected int <= 100"),
    ("execution/back_off", 1e9, "execution.back_off: expected float <= 3600"),
    ("execution/stage_timeout", 1e300, "execution.stage_timeout: expected float <= 1000000"),
    ("execution/resources", {"GPU": 1.0}, "execution.resources names 'GPU'"),
    ("execution/resources", {"tpu": -1.0}, "expected float >= 0"),
    ("recipe", "../../elsewhere", "recipe: expected str matching regex"),
]


def blocks(kind: str = "dense", width: object = 20, **first: Any) -> list[dict[str, Any]]:
    """Return three blocks, of which the first has these fields."""
    size = {"dense": "width", "conv": "channels"}.get(kind, "width")
    plain = {"kind": "dense", "options": {"width": 20}}
    return [{"kind": kind, **first, "options": {size: width, **first.get("options", {})}}, plain, plain]


ABSURD_BLOCKS: list[tuple[list[dict[str, Any]], str]] = [
    (blocks("__import__"), "there is no kind of block '__import__'"),
    (blocks(width=10**7)[:1] * 2, "GiB, this host has"),
    (blocks(width=10**12), "width is 1000000000000: give a whole number from 1 to 16777216"),
    (blocks(width=0), "width is 0: give a whole number"),
    (blocks(width=1.5), "the option width is 1.5, expected int"),
    (blocks(width=True), "the option width is True, expected int"),
    (blocks("conv", options={"layers": 10**9}), "layers is 1000000000: give a whole number from 1 to 1000"),
    (blocks("conv", options={"kernel": 10**6}), "GiB, this host has"),
    (
        [{"kind": "vgg", "options": {"plan": "16777216 16777216"}}],
        "GiB, this host has",
    ),
    *(
        ([{"kind": "vgg", "options": {"plan": plan}}], says)
        for plan, says in [
            ("", "plan is '': give channels and M, such as '64 M 128 128 M'"),
            ("M 4", "plan is 'M 4': give channels and M"),
            ("4 " * 1001, "give 1 to 1000 words"),
            ("4 x", "plan has 'x': give channels from 1 to 16777216, or M to pool"),
            ("0", "plan has '0': give channels"),
            ("99999999", "plan has '99999999': give channels"),
            ("6_4", "plan has '6_4': give channels"),
            ("4 M M M M", "leaves no pixel of rows of 1x8x8 float32: give fewer M"),
            (64.5, "plan has '64.5': give channels"),
        ]
    ),
    (blocks(options={"activation": "__class__"}), "activation is '__class__'"),
    (blocks(objective="class-head", objective_options={"kind": "mlp", "depth": 10**9}), "give at most 1000"),
    (blocks(objective="class-head", objective_options={"kind": "mlp", "depth": 1.5}), "depth is 1.5, expected int"),
    (blocks(objective="class-head", objective_options={"kind": "mlp", "hidden": 10**12}), "cannot be made: Runtime"),
    (blocks(optimizer={"kind": "__init__"}), "optimizer.kind is '__init__'"),
    (blocks(optimizer={"kind": "LBFGS"}), "optimizer.kind is 'LBFGS'"),
    (blocks(optimizer={"kind": "Adam", "options": {"capturable": True}}), "optimizer does not fit torch.optim.Adam"),
    (blocks(optimizer={"kind": "averaging", "options": {"momentum": 0.9}}), "'averaging' takes none: give none"),
    (blocks(optimizer={"kind": "SGD", "learning_rate": 1e300}), "training.blocks[0].optimizer.learning_rate is 1e+300"),
    (blocks(first_epoch=10**12), "learns in epochs 1000000000000 to 1"),
    (blocks(keep="a\x1b[2J", use=["\x1b[2J"]), r"uses '\x1b[2J', which no block before it keeps"),
    (blocks(keep="\0"), "training.blocks[0].keep is '"),
    (blocks() * 400, "training.blocks: expected array of length <= 1000"),
]


@pytest.mark.parametrize(("value", "says"), ABSURD_BLOCKS)
def test_blocks_that_cannot_be(
    value: list[dict[str, Any]], says: str, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_field(copy / "config.toml", "training/negatives", "none")
    set_field(copy / "config.toml", "training/head", False)
    set_field(copy / "config.toml", "training/blocks", value)
    refused(["train", str(copy / "config.toml"), "--run-dir", str(copy / "new")], says, capsys)
    assert not (copy / "new").exists()


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ("os:abort", "os:abort, which is imported only if you say so"),
        ("ran.py:blocks", "give --model ran.py:blocks or --allow-code ran.py"),
        ("a\x1b[2J:f", "which is imported only if you say so"),
        ("a; touch ran:f", "give --model 'a; touch ran:f' or --allow-code 'a; touch ran'"),
        ("x" * 5000 + ":f", "names the code xxx"),
    ],
)
def test_code_that_a_run_or_a_config_names_is_not_imported(
    named: str, says: str, copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is asked of it, until the user names it too."""
    monkeypatch.chdir(copy)
    (copy / "ran.py").write_text("open('ran', 'w').close()\n")
    set_field(copy / "config.toml", "training/model", named)
    for command in (
        ["train", str(copy / "config.toml")],
        ["plan", str(copy / "config.toml")],
        ["resume", str(copy)],
        ["evaluate", str(copy)],
        ["predict", str(copy), "a.npy"],
        ["export", str(copy), str(copy / "to.safetensors")],
    ):
        refused(command, says, capsys)
    with pytest.raises(ffpipe.UserError, match="names the code"):
        ffpipe.load(copy)
    assert not (copy / "ran").exists()


@pytest.mark.parametrize(("field", "value", "says"), ABSURD)
def test_a_config_that_asks_for_what_cannot_be(
    field: str, value: Any, says: str, copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copy)
    set_field(copy / "config.toml", field, value)
    refused(["train", str(copy / "config.toml")], says, capsys)


def test_messages_larger_than_the_host(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_field(copy / "config.toml", "training/negatives", "random")
    set_field(copy / "config.toml", "training/epochs", 3_000_000)
    set_field(copy / "config.toml", "execution/chunk", 10**12)
    refused(["train", str(copy / "config.toml")], "GiB, this host has", capsys)
