"""Short runs of every recipe and rule end with the recorded weights: a change of arithmetic shows as another digest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import digest_cases
import digests
import pytest
from covering import only

from ffpipe import Config, override
from ffpipe.config.recipes import RECIPES

pytestmark = pytest.mark.usefixtures("threads_put_back")


def check(name: str, make: Callable[[], Config]) -> None:
    kind = digests.kind_of_machine()
    recorded = digests.read_record().get(kind)
    if recorded is None:
        pytest.skip(f"no digests are recorded for {kind}: scripts/digests.py --record adds them")
    assert not digests.complaint(digests.measure(make(), name in digests.TESTED), recorded.get(name))


# These name the defaults, so their weights are those of `digits/recipe-digits`.
DEFAULTS = ("digits/append", "digits/float32", "digits/lag-24")


@pytest.mark.parametrize("name", only({*digest_cases.digits_cases()} - {*DEFAULTS}, digest_cases.digits_cases()))
def test_digits(name: str) -> None:
    check(name, digest_cases.digits_cases()[name])


@pytest.mark.parametrize("name", digest_cases.mnist_cases(""))
def test_a_slice_of_mnist(name: str, mnist_folder: str) -> None:
    check(name, digest_cases.mnist_cases(mnist_folder)[name])


def test_another_seed_is_found() -> None:
    config = digest_cases.digits_cases()["digits/random"]()
    recorded = digests.measure(config, tested=True)
    assert not digests.complaint(digests.measure(config, tested=True), recorded)
    other = digests.measure(override(config, {"training.seed": config.training.seed + 1}), tested=True)
    assert "weights_sha256" in digests.complaint(other, recorded)
    assert digests.complaint(recorded, None)


def test_every_recipe_has_a_case() -> None:
    assert {*digest_cases.RECIPES, *digest_cases.LOCAL} == set(RECIPES)
    assert not set(digest_cases.RECIPES) & set(digest_cases.LOCAL)
    of_digits = {f"digits/recipe-{name}" for name in digest_cases.RECIPES}
    assert of_digits - set(digest_cases.digits_cases()) == {"digits/recipe-mnist-cnn"}
    assert {f"mnist/recipe-{name}" for name in digest_cases.RECIPES} - set(digest_cases.mnist_cases("")) == {
        "mnist/recipe-digits"
    }
    assert set(digests.TESTED) <= {*digest_cases.digits_cases(), *digest_cases.mnist_cases("")}


def test_recording_leaves_other_machines_and_other_cases_alone(tmp_path: Path) -> None:
    before: digests.Record = {"one": {"a": {"weights_sha256": "1"}}, "two": {"a": {"weights_sha256": "2"}, "gone": {}}}
    digests.write_record(before, tmp_path / "digests.json")
    assert digests.read_record(tmp_path / "digests.json") == before
    after = digests.merged(before, "two", {"b": {"weights_sha256": "3"}}, {"a", "b"})
    assert after == {"one": before["one"], "two": {"a": {"weights_sha256": "2"}, "b": {"weights_sha256": "3"}}}
    assert digests.read_record(tmp_path / "none.json") == {}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("vendor_id\t: GenuineIntel\ncpu family\t: 6\n\nvendor_id\t: other\n", "GenuineIntel family 6 "),
        ("CPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: 0xd0c\n", "0x41 family 0xd0c "),
    ],
)
def test_the_kind_of_machine(text: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert digests.kind_of_machine(tmp_path / "cpuinfo").startswith(name)
    assert not digests.kind_of_machine(tmp_path / "none").startswith(name)
