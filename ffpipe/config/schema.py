"""The fields of a run: `training` says what is computed, `execution` says how.

Nothing under `execution` changes one bit of the final weights on the same kind of device. Both halves are plain frozen
dataclasses: a recipe is a function that returns a `Config`, a run folder keeps one as `config.toml`, and the command
line overrides fields by their dotted names. Types and ranges stand in the annotations. Each component has a module of
its own, with the checks that it can make by itself; rules between components are in rules.py, and what comes from
outside is read in fields.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from msgspec import Meta

# By their own names, or mypy takes what is merely imported for private.
from ffpipe.config.blocks import Augmentation as Augmentation
from ffpipe.config.blocks import BlockConfig as BlockConfig
from ffpipe.config.blocks import Options as Options
from ffpipe.config.data import Data as Data
from ffpipe.config.execution import Device as Device
from ffpipe.config.execution import Execution as Execution
from ffpipe.config.execution import of_stage as of_stage
from ffpipe.config.optimizer import Optimizer as Optimizer
from ffpipe.config.training import Training as Training


@dataclass(frozen=True, kw_only=True)
class Config:
    """All that is needed to run again."""

    # Part of a run folder's name: no slash, no point at the start, and \Z, since $ would let a line break pass.
    recipe: Annotated[
        str, Meta(pattern=r"^[A-Za-z0-9][\w.-]{0,63}\Z", description="name of the recipe that it started from")
    ] = "custom"
    training: Training = field(default_factory=Training)
    execution: Execution = field(default_factory=Execution)
