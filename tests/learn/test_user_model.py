"""A user's model function: found by name, executed once for each text, and what is wrong with it said in one line."""

from __future__ import annotations

import hashlib
import inspect
import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from repository import REPOSITORY
from user_code import refused, write

from ffpipe.learn.items import call
from ffpipe.learn.user_model import LARGEST_SOURCE, ModelCode, changed, describe_error, find, load, refuse_stale
from ffpipe.system.errors import UserError

GOOD = """\
import torch

def vgg(width: int = 4) -> list:
    return [torch.nn.Linear(width, 2), torch.nn.ReLU]

def broken():
    return torch.nn.Linear(3, 2)(torch.zeros(1, 4))
"""


pytestmark = pytest.mark.usefixtures("forgotten")

FORM = "package.module:function or path/to/file.py:function"


RAISES = "import neighbour\n\ndef boom():\n    raise ValueError('two\\nlines')\n\nboom()\n"


NOT_FOUND: dict[str, tuple[dict[str, str | bytes], str, tuple[str, ...]]] = {
    "no colon": ({}, "nets.py", ("the model 'nets.py' does not have the form", FORM)),
    "no function": ({}, "my.nets:", ("the model 'my.nets:' does not have the form", FORM)),
    "no module": ({}, ":vgg", ("the model ':vgg' does not have the form", FORM)),
    "nothing": ({}, "", ("the model '' does not have the form",)),
    "no such file": ({"nets.py": GOOD}, "net.py:vgg", ("there is no file HERE/net.py; did you mean 'nets.py'?",)),
    "no such folder": ({}, "models/net.py:vgg", ("there is no file HERE/models/net.py",)),
    "a folder": ({"nets.py/x": ""}, "nets.py:vgg", ("cannot read HERE/nets.py: it is not a regular file",)),
    "no .py": ({"nets.txt": GOOD}, "./nets.txt:vgg", ("the model file HERE/nets.txt does not end in .py",)),
    "no such home": ({}, "~nobody-of-this-name/a.py:f", ("begins with a home folder that is not known",)),
    "NUL": ({}, "a\0b.py:vgg", ("cannot read HERE/a\\x00b.py: embedded null byte",)),
    "a terminal's control": ({}, "\x1b[2J.py:vgg", ("there is no file HERE/\\x1b[2J.py",)),
    "not UTF-8": ({"nets.py": b"a = '\xff'"}, "nets.py:vgg", ("cannot read HERE/nets.py: it is not UTF-8 text",)),
    "too large": (
        {"nets.py": "#" * (LARGEST_SOURCE + 1)},
        "nets.py:vgg",
        ("cannot read HERE/nets.py: it has more than 1,048,576 bytes",),
    ),
    "no name of a module": ({}, "my-nets:vgg", ("'my-nets' cannot be the name of a module", FORM)),
    "a relative module": ({}, ".nets:vgg", ("'.nets' cannot be the name of a module",)),
    "no such module": (
        {"umnets.py": GOOD},
        "umnet:vgg",
        ("the model umnet:vgg: there is no module umnet in this Python environment or in HERE",),
    ),
    "no such submodule": (
        {"umpack/__init__.py": "", "umpack/nets.py": GOOD},
        "umpack.nest:vgg",
        ("there is no module umpack.nest in this",),
    ),
    "no such package within": (
        {"umpack/__init__.py": ""},
        "umpack.a.b:vgg",
        ("there is no module umpack.a.b in this",),
    ),
    "no package": ({"umnets.py": GOOD}, "umnets.vgg:x", ("there is no module umnets.vgg in",)),
    "a missing dependency": (
        {"umnets.py": "\nimport umtimm\n"},
        "umnets:vgg",
        ("the model umnets:vgg cannot be imported: umnets.py:2: ModuleNotFoundError: No module named 'umtimm'",),
    ),
    "a missing dependency of the package": (
        {"umpack/__init__.py": "import umtimm", "umpack/nets.py": GOOD},
        "umpack.nets:vgg",
        ("umpack/__init__.py:1: ModuleNotFoundError: No module named 'umtimm'",),
    ),
    "built in": ({}, "sys:exit", ("the source of sys cannot be read",)),
    "compiled": ({}, "torch._C:Graph", ("the source of torch._C cannot be read",)),
    "another in every process": ({}, "__main__:main", ("the source of __main__ cannot be read",)),
    "a folder without __init__.py": ({"umspace/nets.py": GOOD}, "umspace:vgg", ("source of umspace cannot be read",)),
    "no such function": (
        {"nets.py": GOOD},
        "nets.py:vvg",
        ("HERE/nets.py has no function 'vvg'; did you mean 'vgg'?",),
    ),
    "no such function of a module": ({"umnets.py": GOOD}, "umnets:vvg", ("umnets has no function 'vvg'; did you",)),
    "no function at all": ({"nets.py": "a = 1"}, "nets.py:vgg", ("HERE/nets.py has no function 'vgg'",)),
    "a syntax error": ({"nets.py": "a = 1\nb = = 2\n"}, "nets.py:vgg", ("nets.py:2: SyntaxError: invalid syntax",)),
    "a neighbour's syntax error": (
        {"nets.py": "import neighbour", "neighbour.py": "\n\n("},
        "nets.py:vgg",
        ("HERE/nets.py:vgg cannot be imported: neighbour.py:3: SyntaxError: '(' was never closed",),
    ),
    "NUL in the source": ({"nets.py": "a = '\0'"}, "nets.py:vgg", ("cannot be imported", "null bytes")),
    "an exception": (
        {"nets.py": RAISES, "neighbour.py": ""},
        "nets.py:vgg",
        ("the model HERE/nets.py:vgg cannot be imported: nets.py:4: ValueError: two lines",),
    ),
    "an exception in a module": (
        {"umpack/__init__.py": "", "umpack/nets.py": "\n1 / 0\n"},
        "umpack.nets:vgg",
        ("the model umpack.nets:vgg cannot be imported: umpack/nets.py:2: ZeroDivisionError: division by zero",),
    ),
    "an exception of torch": (
        {"nets.py": "import torch\ntorch.nn.Linear('a', 1)\n"},
        "nets.py:vgg",
        ("cannot be imported: nets.py:2: TypeError: empty()",),
    ),
    "an exit": ({"nets.py": "import sys\nsys.exit(3)"}, "nets.py:vgg", ("nets.py:2: SystemExit: 3",)),
}


@pytest.mark.parametrize("kind", NOT_FOUND)
def test_not_found(kind: str, here: Path) -> None:
    files, name, says = NOT_FOUND[kind]
    write(here, files)
    message = refused(lambda: find(name))
    for part in says:
        assert part.replace("HERE", str(here)) in message


def test_a_file(here: Path) -> None:
    source = "\ufefffrom neighbour import width\r\n\r\ndef vgg():\r\n    return [str, width]\r\n"
    write(here, {"deep/nets.py": source, "deep/neighbour.py": "width = int"})
    path = list(sys.path)
    code = find("deep/nets.py:vgg")
    assert code == ModelCode(f"{here}/deep/nets.py:vgg", hashlib.sha256(source.encode()).hexdigest(), source, "")
    assert sys.path == path
    function = load(code)
    assert function() == [str, int]
    assert function.__globals__["__file__"] == f"{here}/deep/nets.py"


def test_a_file_is_executed_once_for_each_text(here: Path) -> None:
    count = "from pathlib import Path\nwith Path('count').open('a') as file:\n    file.write('.')\nvgg = list\n"
    write(here, {"nets.py": count})
    load(find("nets.py:vgg"))
    find("nets.py:vgg")
    assert (here / "count").read_text() == "."
    write(here, {"nets.py": count + "# another text\n"})
    find("nets.py:vgg")
    assert (here / "count").read_text() == ".."


def test_files_of_one_name_are_apart(here: Path) -> None:
    write(here, {f"{folder}/nets.py": "from pathlib import Path\nvgg = Path\nhome = __file__" for folder in "ab"})
    homes = [load(find(f"{folder}/nets.py:vgg")) for folder in "ab"]
    assert homes[0] is homes[1]
    assert {m.home for m in sys.modules.values() if m is not None and "home" in vars(m)} >= {
        f"{here}/a/nets.py",
        f"{here}/b/nets.py",
    }


def test_a_neighbour_of_another_text_is_refused(here: Path) -> None:
    """Python would give the second network the first one's."""
    for folder, text in (("a", "1"), ("b", "2")):
        write(
            here,
            {f"{folder}/nets.py": "from umbeside import vgg", f"{folder}/umbeside.py": f"def vgg(): return {text}"},
        )
    refuse_stale(find("a/nets.py:vgg"))
    refuse_stale(find("a/nets.py:vgg"))
    with pytest.raises(UserError, match="imports umbeside, of which this process has imported another text before"):
        refuse_stale(find("b/nets.py:vgg"))


@pytest.mark.parametrize("in_path", [False, True], ids=["in the current folder", "in a folder of sys.path"])
@pytest.mark.parametrize("module", ["umpack.nets", "umspace.deep.nets", "umnets"])
def test_a_module(module: str, in_path: bool, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = here / "library" if in_path else here
    file = f"{module.replace('.', '/')}.py"
    write(folder, {"umpack/__init__.py": "", file: GOOD})
    if in_path:
        monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    path = list(sys.path)
    code = find(f"{module}:vgg")
    assert code == ModelCode(f"{module}:vgg", hashlib.sha256(GOOD.encode()).hexdigest(), "", str(folder))
    assert sys.path == path
    assert load(code) is sys.modules[module].vgg


# Without torch, which takes seconds to import, and which is not to be imported for a model that does without.
PLAIN = """\
from functools import partial

def vgg(width: int = 4) -> list:
    return [partial(range, width)]
"""


LOAD = """\
import json, sys
from ffpipe.learn.user_model import ModelCode, load
from ffpipe.system.errors import UserError
code = ModelCode(**json.load(sys.stdin))
try:
    print(load(code)(width=7)[0])
except UserError as error:
    print(error)
assert not {"ray", "torch"} & set(sys.modules)
"""


def loaded_elsewhere(code: ModelCode, folder: Path) -> str:
    """Return the output of another process, whose current folder is another."""
    folder.mkdir(exist_ok=True)
    root = str(REPOSITORY)
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[0] = {root!r}\n{LOAD}"],
        input=json.dumps(asdict(code)),
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_a_file_is_shipped_to_where_it_is_not(here: Path) -> None:
    write(here, {"deep/nets.py": PLAIN})
    code = find("deep/nets.py:vgg")
    (here / "deep/nets.py").unlink()
    assert loaded_elsewhere(code, here / "elsewhere") == "functools.partial(<class 'range'>, 7)"
    (here / "deep").rmdir()
    assert inspect.getsource(load(code)).startswith("def vgg(width: int = 4) -> list:")
    assert "differs on this host" in refused(lambda: load(replace(code, source="def vgg(): pass")))


def test_a_module_is_found_by_another_process(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(here, {"library/umpack/__init__.py": "", "library/umpack/nets.py": PLAIN})
    with monkeypatch.context() as patch:
        patch.setattr(sys, "path", [str(here / "library"), *sys.path])
        code = find("umpack.nets:vgg")
    assert loaded_elsewhere(code, here / "elsewhere") == "functools.partial(<class 'range'>, 7)"
    gone = replace(code, path_entry=str(here / "gone"))
    assert loaded_elsewhere(gone, here / "elsewhere").startswith("the model umpack.nets:vgg: there is no module umpack")


def test_a_module_with_another_source_is_not_executed(here: Path) -> None:
    write(here, {"umpack/__init__.py": "", "umpack/nets.py": "open('marker', 'w').close()\ndef vgg(): ...\n"})
    found = hashlib.sha256((here / "umpack/nets.py").read_bytes()).hexdigest()
    code = ModelCode("umpack.nets:vgg", "0" * 64, "", str(here))
    message = refused(lambda: load(code))
    assert message.startswith("the source of umpack.nets:vgg has changed or differs on this host: ")
    assert f"{here}/umpack/nets.py has the SHA-256 {found[:12]} and not {'0' * 12}" in message
    assert not (here / "marker").exists()


def test_a_source_that_changes(here: Path) -> None:
    write(here, {"nets.py": GOOD})
    first = find("nets.py:vgg")
    changed(find("nets.py:vgg"), first.sha256, "run 3")  # the same: no error
    write(here, {"nets.py": GOOD.replace("= 4", "= 5")})
    second = find("nets.py:vgg")
    assert load(second)()[0].in_features == 5
    assert load(first)()[0].in_features == 4
    assert refused(lambda: changed(second, first.sha256, "run 3")) == (
        f"the source of {here}/nets.py:vgg has changed since run 3 was begun (SHA-256 {first.sha256[:12]} then, "
        f"{second.sha256[:12]} now): put it back as it was, or begin a new run"
    )


@pytest.mark.parametrize(
    ("source", "same"),
    [
        (GOOD, True),
        ("# of mine\n" + GOOD.replace("= 4", "=  4").replace("list:", "list:  # more"), True),
        (GOOD.replace("\n", "\r\n"), True),
        (GOOD.replace("\n\n", "\n\n\n\n").replace("(width, 2)", "(\n        width, 2\n    )"), True),
        (GOOD.replace("= 4", "= 5"), False),
        (GOOD.replace("width", "height"), False),
        (GOOD + "more = 1\n", False),
    ],
)
def test_comments_and_white_space_are_no_change(source: str, same: bool, here: Path) -> None:
    write(here, {"nets.py": GOOD, "package/__init__.py": "", "package/nets.py": GOOD})
    begun = find("nets.py:vgg")
    write(here, {"nets.py": source})
    now = find("nets.py:vgg")
    if same:
        changed(now, begun.recorded, "run 3")
        assert begun.recorded == f"{begun.sha256} {now.meaning}"
    else:
        assert f"(SHA-256 {begun.sha256[:12]} then, " in refused(lambda: changed(now, begun.recorded, "run 3"))
    # A run of before has the digest of the whole source alone, and another version of Python another second one.
    for recorded in (now.sha256, f"{now.sha256} {'0' * 64}"):
        changed(now, recorded, "run 3")
    assert find("package.nets:vgg").meaning == begun.meaning


def test_an_exception_in_the_function(here: Path) -> None:
    helper = "def fail(width):\n    raise KeyError(f'no {width}')\n"
    write(
        here,
        {
            "nets.py": GOOD + "\nimport helper\n\ndef fails(width):\n    helper.fail(width)\n",
            "helper.py": helper,
        },
    )
    fails, broken = load(find("nets.py:fails")), load(find("nets.py:broken"))
    assert refused(lambda: call(fails, {"width": 3}, "nets.py:fails")) == (
        "nets.py:fails failed: helper.py:2: KeyError: 'no 3'"
    )
    # Innermost is a line of torch.
    message = refused(lambda: call(broken, {}, "nets.py:broken"))
    assert message.startswith("nets.py:broken failed: nets.py:7: RuntimeError: mat1 and mat2")


def test_a_package_that_is_installed_is_the_users_where_it_is_the_model(here: Path) -> None:
    site = here / "site-packages"
    write(site, {"umpack/__init__.py": "", "umpack/nets.py": "def vgg():\n    raise ValueError('a\\nb')\n"})
    sys.path.insert(0, str(site))
    try:
        code = find("umpack.nets:vgg")
    finally:
        sys.path.remove(str(site))
    function = load(code)
    with pytest.raises(ValueError, match="a\nb") as caught:
        function()
    assert describe_error(caught.value, code.module) == "umpack/nets.py:2: ValueError: a b"
    own = describe_error(caught.value)
    assert "test_user_model.py:" in own
    assert own.endswith(": ValueError: a b")


def test_errors_without_a_place_or_a_message() -> None:
    assert describe_error(ValueError()) == "ValueError"
    assert describe_error(RuntimeError("out of memory")) == "RuntimeError: out of memory"
    assert describe_error(SyntaxError("bad", ("/a/nets.py", 4, 1, "x"))) == "nets.py:4: SyntaxError: bad"
