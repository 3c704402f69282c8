"""Short runs of every recipe and rule end with the recorded weights: a change of arithmetic shows as another digest."""

from __future__ import annotations

from pathlib import Path

import digests
import pytest

from ffpipe import Config, override
from ffpipe.config.recipes import RECIPES

pytestmark = pytest.mark.usefixtures("threads_put_back")


def check(name: str, config: Config) -> None:
    kind = digests.kind_of_machine()
    recorded = digests.read_record().get(kind)
    if recorded is None:
        pytest.skip(f"no digests are recorded for {kind}: scripts/digests.py --record adds them")
    assert not digests.complaint(digests.measure(config, name in digests.TESTED), recorded.get(name))


@pytest.mark.parametrize("name", digests.digits_cases())
def test_digits(name: str) -> None:
    check(name, digests.digits_cases()[name])


@pytest.mark.parametrize("name", digests.mnist_cases(""))
def test_a_slice_of_mnist(name: str, mnist_folder: str) -> None:
    check(name, digests.mnist_cases(mnist_folder)[name])


def test_another_seed_is_found() -> None:
    config = digests.digits_cases()["digits/random"]
    recorded = digests.measure(config, tested=True)
    assert not digests.complaint(digests.measure(config, tested=True), recorded)
    other = digests.measure(override(config, {"training.seed": config.training.seed + 1}), tested=True)
    assert "weights_sha256" in digests.complaint(other, recorded)
    assert digests.complaint(recorded, None)


def test_every_recipe_has_a_case() -> None:
    assert {*digests.RECIPES, *digests.LOCAL} == set(RECIPES)
    assert not set(digests.RECIPES) & set(digests.LOCAL)
    of_digits = {f"digits/recipe-{name}" for name in digests.RECIPES}
    assert of_digits - set(digests.digits_cases()) == {"digits/recipe-mnist-cnn"}
    assert {f"mnist/recipe-{name}" for name in digests.RECIPES} - set(digests.mnist_cases("")) == {
        "mnist/recipe-digits"
    }
    assert set(digests.TESTED) <= {*digests.digits_cases(), *digests.mnist_cases("")}


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
