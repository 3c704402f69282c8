"""Configs come back from TOML as they were, and a wrong one is refused in one line that says what would be right."""

from __future__ import annotations

import tomllib
from dataclasses import replace

import pytest

from ffpipe.config.fields import checked, from_toml, leaves, override, to_toml
from ffpipe.config.recipes import RECIPES, get_recipe
from ffpipe.config.rules import check
from ffpipe.config.schema import Config, Optimizer, Training
from ffpipe.system.errors import UserError


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_toml_and_says_what_it_is(name: str) -> None:
    config = get_recipe(name)
    assert from_toml(to_toml(config), where="config.toml") == config
    assert config.recipe == name
    assert "Expected" in (RECIPES[name].__doc__ or "")


def test_blocks_of_a_recipe_that_the_users_code_replaces_are_said_not_to_be_used() -> None:
    config = get_recipe("digits-cnn")
    assert "Not used" not in to_toml(config)
    config = replace(config, training=replace(config.training, model="[[training.blocks]]\n.py:blocks"))
    text = to_toml(config)
    assert text.count("\n# Not used: training.model makes the blocks.\n[[training.blocks]]\n") == 1
    assert text.count("Not used") == 1
    assert tomllib.loads(text)["training"]["model"] == config.training.model
    assert len(tomllib.loads(text)["training"]["blocks"]) == len(config.training.blocks)


def test_every_field_is_documented() -> None:
    known = {"epochs", "seed", "learning_rate", "weight_decay"}
    assert not [leaf.name for leaf in leaves() if not leaf.description and leaf.path[-1] not in known]


WRONG = [
    ("training.bach_size", "50", "did you mean 'training.batch_size'"),
    ("training.batch_size", "0", "training.batch_size: expected int >= 1"),
    ("training.batch_size", "many", "training.batch_size: expected int, got str"),
    ("training.epochs", "1.5", "training.epochs: expected int"),
    ("training.dims", ["784"], "training.dims: expected"),
    ("training.dims", ["784", "0"], "training.dims has a layer of width 0"),
    ("training.negatives", "hardest", "'hard'"),
    ("training.threshold", "nan", "finite"),
    ("training.optimizer.learning_rate", "nan", "learning_rate"),
    ("training.optimizer.learning_rate", "inf", "learning_rate"),
    ("training.optimizer.kind", "Adamm", "did you mean 'Adam'"),
    ("training.optimizer.kind", "LBFGS", "training.optimizer.kind is 'LBFGS'"),
    ("training.head_from", "3", "give 0 to 2"),
    ("training.goodness_from", "9", "give 0 to 2"),
    ("training.head", "false", "set training.head true"),
    ("execution.stages", "4", "give 1 to 3"),
    ("execution.chunk", "49", "allow at most 48"),
    ("execution.window", "49", "allow at most 48"),
    ("execution.object_store_bytes", "1000", "give that or more, or 0"),
    ("execution.engine", "spark", "'ray'"),
    ("execution.keep_largest", "33MiB", "at most 32MiB"),
    ("execution.keep_largest", "", "at most 32MiB"),
    ("execution.keep_largest", "much", "size such as 2GiB"),
    ("execution.gpus", "1", "--device cuda"),
    ("execution.evaluate_every", "1", "training.data.validation"),
]


@pytest.mark.parametrize(("field", "value", "says"), WRONG)
def test_what_is_refused(field: str, value: object, says: str) -> None:
    with pytest.raises(UserError) as error:
        override(get_recipe("mnist"), {field: value})
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_chunk_larger_than_the_window() -> None:
    with pytest.raises(UserError, match="at most 4"):
        override(get_recipe("mnist"), {"execution.chunk": 5, "execution.window": 4})


def test_options_of_an_optimiser_are_tried_on_it() -> None:
    with pytest.raises(UserError, match=r"options has 'momentum', which Adam does not have"):
        check(Config(training=Training(optimizer=Optimizer(kind="Adam", options={"momentum": 0.9}))))
    with pytest.raises(UserError, match=r"does not fit torch\.optim\.Adam"):
        check(Config(training=Training(optimizer=Optimizer(kind="Adam", options={"eps": -1.0}))))
    check(Config(training=Training(optimizer=Optimizer(kind="SGD", options={"momentum": 0.9, "nesterov": True}))))


@pytest.mark.parametrize("option", ["lr", "weight_decay"])
def test_what_is_a_field_is_no_option_of_an_optimiser(option: str) -> None:
    with pytest.raises(UserError, match=rf"options has '{option}': give it as training\.head_optimizer\."):
        check(Config(training=Training(head_optimizer=Optimizer(kind="Adam", options={option: 0.1}))))


def test_an_optimiser_that_knows_no_weight_decay() -> None:
    check(Config(training=Training(optimizer=Optimizer(kind="Rprop", weight_decay=0.0))))
    with pytest.raises(UserError, match=r"does not fit torch\.optim\.Rprop"):
        check(Config(training=Training(optimizer=Optimizer(kind="Rprop", weight_decay=0.1))))


def test_a_read_out_that_is_not_there_has_no_range() -> None:
    check(Config(training=Training(dims=(64, 8), head=False, negatives="random", goodness_from=0)))
    none = Training(dims=(64, 8), labels="none", negatives="hybrid", head_from=0, goodness_from=1)
    check(Config(training=none))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("training = 3", "training: expected object"),
        ("[training]\nepoch = 3", "did you mean 'epochs'"),
        ("[training]\nepochs = '3'", "training.epochs: expected int, got str"),
        ("[training", "not valid TOML"),
        ("[training.data]\ntrain = ['']", "training.data.train has an empty name"),
        ("[training.optimizer]\nlearnin_rate = 1", "'training.optimizer.learnin_rate'; did you mean 'learning_rate'"),
        ("[training.head_optimizer]\nrate = 1", "unknown field 'training.head_optimizer.rate'"),
        ("[[training.blocks]]\nkind = 'conv'\nobjectiv = 1", "'training.blocks[0].objectiv'; did you mean 'objective'"),
        (
            "[[training.blocks]]\n[[training.blocks]]\n[training.blocks.optimizer]\nknd = 1",
            "'training.blocks[1].optimizer.knd'; did you mean 'kind'",
        ),
        (
            "[[training.blocks]]\nkind = 'conv'\nobjective = 'class-hed'",
            "training.blocks[0].objective: invalid enum value 'class-hed'; give '' or 'goodness' or 'class-head'",
        ),
    ],
)
def test_a_file_is_refused_by_its_name(text: str, says: str) -> None:
    with pytest.raises(UserError) as error:
        from_toml(text, where="some/config.toml")
    assert "some/config.toml" in str(error.value)
    assert says in str(error.value)


def test_a_config_made_in_python_is_held_to_the_same_ranges() -> None:
    with pytest.raises(UserError, match="batch_size: expected int >= 1"):
        checked(Config(training=Training(batch_size=0)))
    with pytest.raises(UserError, match="epochs: expected int, got str"):
        checked(Config(training=Training(epochs="3")))  # type: ignore[arg-type]  # what is tested
    assert checked(get_recipe("mnist")) == get_recipe("mnist")


def test_overrides_convert_strings_and_leave_the_rest() -> None:
    config = get_recipe("digits")
    changed = override(config, {"training.dims": ["64", "30", "20"], "training.optimizer.learning_rate": "0.5"})
    expected = replace(
        config.training, dims=(64, 30, 20), optimizer=replace(config.training.optimizer, learning_rate=0.5)
    )
    assert changed == replace(config, training=expected)


def test_widths_of_layers_of_which_a_network_is_not_made_are_refused() -> None:
    dims, blocks = {"training.dims": [64, 30, 20]}, get_recipe("digits-cnn")
    with pytest.raises(UserError, match=r"training\.dims has .*, but training\.blocks makes the network: leave it out"):
        override(blocks, dims)
    with pytest.raises(UserError, match=r"but training\.model makes the network"):
        override(get_recipe("digits"), dims | {"training.model": "net.py:blocks"})
    # A config has some that it inherits.
    kept = from_toml(to_toml(blocks), where="config.toml")
    assert override(kept, {"training.epochs": 3}).training.dims == blocks.training.dims
    both = override(get_recipe("digits"), dims | {"training.blocks": blocks.training.blocks[:2]})
    assert both.training.blocks == blocks.training.blocks[:2]


def test_a_value_may_be_taken_away_by_the_word_that_help_has_for_it() -> None:
    config = get_recipe("keras-exact")
    assert config.training.threshold is not None
    assert override(config, {"training.threshold": "none"}).training.threshold is None
    assert override(config, {"execution.run_dir": "none"}).execution.run_dir == "none"


@pytest.mark.parametrize(
    ("word", "number"), [(".05", 0.05), ("1.", 1.0), ("5.e-2", 0.05), (".5e-1", 0.05), ("5e-2", 0.05)]
)
def test_numbers_may_begin_or_end_with_a_point(word: str, number: float) -> None:
    fields = {
        "training.optimizer.learning_rate": word,
        "training.optimizer.options": {"eps": word, "betas": (".5", word if number < 1 else "0.")},
        "execution.cpus": [word, word],
    }
    config = override(Config(), {**fields, "training.optimizer.kind": "Adam", "execution.run_dir": ".5"})
    assert config.training.optimizer.learning_rate == number
    assert config.training.optimizer.options == {"eps": number, "betas": (0.5, number if number < 1 else 0.0)}
    assert config.execution.cpus == (number, number)
    assert config.execution.run_dir == ".5"
