"""An item that a model's function returns for one block: a module, and how it is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from ffpipe.config.blocks import FF_DENSE
from ffpipe.config.limits import MOST_UNITS
from ffpipe.config.schema import BlockConfig, Optimizer, Training
from ffpipe.learn.batchnorm import over_minibatch
from ffpipe.learn.block import Block
from ffpipe.learn.class_head import ClassHead
from ffpipe.learn.goodness import GoodnessContrast
from ffpipe.learn.kinds import Added, check_counts, kind_of
from ffpipe.learn.model_options import bound
from ffpipe.learn.objectives import Objective
from ffpipe.learn.spec import PAIRS, PLAIN, RowSpec
from ffpipe.learn.user_objective import FunctionObjective
from ffpipe.system.errors import UserError

# A body, or a function that makes one: of no argument, or of the row spec `inputs` of what the body will get.
Body = nn.Module | Callable[..., Any]


@dataclass(frozen=True)
class Local:
    """One block of a user's network: a body, and how it learns. Only `body` must be given.

    body: a module, or a function that makes one on the stage that owns it. objective: an Objective or a function
    `loss(h, labels)` (user_objective.py), or the name "class-head" or "goodness" with `options`; None: class-head where
    there are no negatives, else goodness. score: what rows h say of the answer where the objective is a function:
    logits (n, classes) or goodness (n,); without it the block has no answer of its own. optimizer, schedule: None and
    "": those of the config. epochs: the first epoch in which the block learns, and the one before which it ends (0: the
    end). keep, use: names under which an output is kept for later blocks, and of those that this block gets as further
    arguments. hand_on: "before" or "after" the update; "": as the config says.
    """

    body: Body
    objective: Objective | Callable[..., Any] | str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    optimizer: Optimizer | None = None
    schedule: str = ""
    epochs: tuple[int, int] = (0, 0)
    keep: str = ""
    use: tuple[str, ...] = ()
    hand_on: Literal["", "before", "after"] = ""
    name: str = ""
    score: Callable[..., Any] | None = None

    @property
    def title(self) -> str:
        """The block's name in messages."""
        kind = type(self.body).__name__
        # A module may have any attributes.
        return self.name or (kind if isinstance(self.body, nn.Module) else getattr(self.body, "__name__", kind))


@dataclass(frozen=True)
class Dense:
    """One Forward-Forward layer in closed form (dense.py), which is not a body with an objective beside it. optimizer,
    schedule, epochs: as those of a Local. No user's function gives it."""

    width: int
    optimizer: Optimizer | None = None
    schedule: str = ""
    epochs: tuple[int, int] = (0, 0)


BlockItem = Local | Block | Dense | Callable[..., Any]


def as_item(given: Any, where: str) -> BlockItem:
    """Take what a user's function returned for one block. Raises UserError for anything else."""
    # Modules come first: they can be called too, and would be taken for functions that make one.
    if isinstance(given, nn.Module) and not isinstance(given, Block):
        return Local(given)
    if isinstance(given, (Local, Block)) or callable(given):
        item: BlockItem = given
        return item
    raise UserError(f"{where} is {type(given).__name__}: give a torch module, an ffpipe.Local, or a function")


def of_config(config: BlockConfig) -> Local | Dense:
    """Make the item of a table [[training.blocks]]. Raises UserError for an unknown kind or option."""
    epochs = (config.first_epoch, config.last_epoch)
    if config.kind == FF_DENSE:
        return Dense(_width(config), config.optimizer, config.schedule, epochs)
    kind = kind_of(config.kind)

    def body(inputs: RowSpec) -> nn.Module:
        options = bound(kind, config.options, f"kind {config.kind!r}", given=("inputs",))
        check_counts(config.kind, options)
        made = over_minibatch(kind(inputs, **options))
        return Added(made) if config.use else made

    return Local(
        body, config.objective or None, config.objective_options, config.optimizer, config.schedule, epochs,
        config.keep, config.use, config.hand_on, config.kind,
    )  # fmt: skip


def _width(config: BlockConfig) -> int:
    """Return the width of a layer in closed form. Raises UserError for what such a layer cannot have."""
    given = {"objective": config.objective, "objective_options": config.objective_options, "keep": config.keep,
             "use": config.use, "hand_on": config.hand_on}  # fmt: skip
    if taken := [name for name, value in given.items() if value]:
        raise UserError(f"kind {FF_DENSE!r} has no {taken[0]} of its own: leave it out, or give kind 'dense'")
    width = config.options.get("width")
    # By type(), since a bool is an int too.
    if set(config.options) != {"width"} or type(width) is not int or not 1 <= width <= MOST_UNITS:
        raise UserError(f"kind {FF_DENSE!r} takes options width=N, N from 1 to {MOST_UNITS}, and no others")
    return width


def make_objective(item: Local, training: Training, hidden: RowSpec, classes: int) -> Objective:
    """Make the objective of a block whose body gives rows of `hidden`. Raises UserError where it does not fit."""
    given = item.objective
    if item.score is not None and (given is None or isinstance(given, (Objective, str))):
        raise UserError("score goes with an objective that is a function: leave it out, as this one has its own")
    if isinstance(given, Objective):
        return given
    if given is not None and not isinstance(given, str):
        return FunctionObjective(given, roles=PAIRS if training.contrasts else PLAIN, score=item.score)
    if (given or ("goodness" if training.contrasts else "class-head")) == "goodness":
        options = {
            "goodness": training.goodness, "objective": training.objective, "threshold": training.threshold,
            "temperature": training.temperature, "normalization": training.normalization,
            "normalization_epsilon": training.normalization_epsilon, **item.options,
        }  # fmt: skip
        taken = bound(GoodnessContrast, options, "objective 'goodness'", given=("outputs",))
        return GoodnessContrast(outputs=hidden, **taken)
    if given not in (None, "class-head"):
        raise UserError(f"objective is {given!r}: give 'class-head', 'goodness', or a function")
    taken = bound(ClassHead, item.options, "objective 'class-head'", given=("outputs", "classes"))
    return ClassHead(outputs=hidden, classes=classes, **taken)
