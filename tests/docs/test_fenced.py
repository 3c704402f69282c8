"""The reader of fenced blocks finds each of them, and knows what a page shows from what was printed."""

from __future__ import annotations

import pytest
from fenced import Fence, difference, fences

PAGE = """
Words.

<!-- run: mkdir data -->
<!-- run: touch data/a -->
<!-- status: 2 -->
```console
$ ls data   # what is there
a
$ one \\
    two
```

<!-- a remark -->

- In a list:

  <!-- not run: downloads 11 MB -->
  ```python
  if True:
      pass
  ```

```bash
rm -r data
```
<!-- not run: takes all away -->
"""


def test_blocks_with_what_is_said_of_them() -> None:
    console, python, below = fences(PAGE)
    assert console == Fence(
        7,
        "console",
        "$ ls data   # what is there\na\n$ one \\\n    two\n",
        {"run": ["mkdir data", "touch data/a"], "status": ["2"]},
    )
    assert list(console.commands()) == [("ls data   # what is there", ["a"]), ("one \\\n    two", [])]
    assert console.is_run
    assert python == Fence(19, "python", "if True:\n    pass\n", {"not run": ["downloads 11 MB"]})
    assert not python.is_run
    assert below == Fence(24, "bash", "rm -r data\n", {"not run": ["takes all away"]})
    assert [each.fault for each in (console, python)] == ["", ""]


@pytest.mark.parametrize(
    ("page", "fault"),
    [
        ("```\n$ ls\n```", "language ''"),
        ("```sh\n$ ls\n```", "language 'sh'"),
        ("```console\nls\n```", "no line begins"),
        ("<!-- not run: -->\n```console\n$ ls\n```", "'not run' says nothing"),
        ("<!-- not ran: slow -->\n```console\n$ ls\n```", "unknown word 'not ran'"),
    ],
)
def test_a_block_that_is_neither_run_nor_marked(page: str, fault: str) -> None:
    assert fault in fences(page)[0].fault


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ([], "anything\n"),
        (["a", "...", "d"], "a\nb\nc\nd\n"),
        (["a", "...", "d"], "a\nd\n"),
        (["run folder: .../runs/digits-20261120-171500"], "run folder: /tmp/runs/digits-20271231-000000\n"),
        (["trained in 5.2 s"], "trained in 1,015.1 s\n"),
        (["chunk 6, window 24"], "chunk 3, window 18\n"),
        (["a", "b"], "a\ntested 60 of 1,000 examples\nepoch 1/10  step 0/280  0 examples/s\nb\n"),
        (["two   columns"], "two columns\n"),
        (["error 2.00%, 1 layer"], "error 3.33%, 1 layer\n"),
        (["1.5 GiB, 12 examples/s"], "380 MiB, 3,000 examples/s\n"),
    ],
)
def test_what_a_page_may_leave_out(shown: list[str], printed: str) -> None:
    assert difference(shown, printed) == ""


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        (["a"], ""),
        (["a"], "a\nb\n"),
        (["a", "...", "d"], "a\nb\n"),
        (["error 2.00%, 1 layer"], "error 9.00%, 1 layer\n"),
        (["error 2.00%, 1 layer"], "error 2.00%, 2 layers\n"),
        (["trained in 5.2 s"], "trained in a moment\n"),
    ],
)
def test_what_a_page_must_not_show(shown: list[str], printed: str) -> None:
    assert "the page shows" in difference(shown, printed)
