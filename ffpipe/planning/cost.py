"""Costs of a block, found out from the block itself: it is made without memory and takes a step.

Every operation of that step has shapes and no numbers, so that a network of any size is judged in a moment on any host:

    closed form (FFDense)       ──► formulas (dense_cost.py)
    bodies trained by autograd  ──► fake tensors, for which torch chooses and casts as it does on the CPU
    own blocks                  ──► torch's meta device
    code that looks at numbers  ──► the CPU itself, with rows of ones

What a kernel takes inside itself, as convolutions in bfloat16 do on some processors, is not seen.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from ffpipe.learn.block import OPTIMIZER, Block, Step
from ffpipe.learn.blueprint import Blueprint, worked_out
from ffpipe.learn.dense import FFDense
from ffpipe.learn.items import CPU, META
from ffpipe.learn.local import LocalBlock
from ffpipe.learn.outline import Outline
from ffpipe.learn.peak_memory import PeakMemory
from ffpipe.learn.state_tensors import refuse_changed
from ffpipe.learn.user_model import of_users
from ffpipe.learn.workspace import Workspace
from ffpipe.pipeline.job import Job
from ffpipe.pipeline.snapshot_schema import contents_bytes
from ffpipe.planning.alike import of_each_block
from ffpipe.planning.calibrate import learning
from ffpipe.planning.dense_cost import StepCost, dense_step
from ffpipe.storage.checkpoint import TensorSpecs
from ffpipe.system.child import in_child
from ffpipe.system.errors import UserError

T = TypeVar("T")
ATEN = torch.ops.aten
# By the shapes of the arguments: operations of blocks on the CPU that torch's own counter does not know.
FLOPS = {
    ATEN.addmm_: lambda total, left, right, **_: 2 * left[0] * left[1] * right[1],
    ATEN._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    ATEN._scaled_dot_product_flash_attention_for_cpu_backward: lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(
        grad, q, k, v
    ),
}


@dataclass(frozen=True)
class BlockCost:
    """Bytes and operations of one block.

    parameters: weights, buffers, and `scratch`, copies of them in another format. optimizer: what it keeps between
    steps. step: what comes and goes within a step at most, beside the rows that come in and go out. flops:
    floating-point operations of a step; after: those of them after its result may leave.
    """

    parameters: int
    scratch: int
    optimizer: int
    step: int
    flops: int
    after: int


# Every cut and every estimate, of each way that a budget tries, asks again for the same network.
_known: WeakKeyDictionary[Blueprint, tuple[BlockCost, ...]] = WeakKeyDictionary()


def costs_of(network: Blueprint) -> tuple[BlockCost, ...]:
    """Return the cost of each block of a network. Raises UserError where one cannot make a step."""
    if network not in _known:
        find = partial(_costs, network)
        _known[network] = (None if network.is_closed_form else _apart(find)) or find()
    return _known[network]


def work_out(bare: Blueprint) -> Blueprint:
    """Return a network with its outlines; where a child process finds them, it finds the costs too. Raises UserError as
    `worked_out` does."""

    def find() -> tuple[tuple[Outline, ...], tuple[BlockCost, ...]]:
        network = worked_out(bare)
        return network.outlines, _costs(network)

    found = _apart(find) if bare.training.by_autograd else None
    if found is None:
        return worked_out(bare)
    network = replace(bare, outlines=found[0])
    _known[network] = found[1]
    return network


def _apart(find: Callable[[], T]) -> T | None:
    """Find something out in a child process, as shapes without numbers load torch's compiler: 90 MB that a process
    which trains has no use for (torch 2.13). Returns None where it is to be found out here."""
    # A GPU that is in use cannot be reached from a fork.
    return None if "torch._dynamo" in sys.modules or torch.cuda.is_initialized() else in_child(find)


def _costs(network: Blueprint) -> tuple[BlockCost, ...]:
    def cost_of(block: Block) -> BlockCost:
        contents = block.contents(1)
        optimizer = optimizer_bytes(contents)
        scratch = sum(tensor.nbytes for tensor in block.scratch())
        step = (
            dense_step(block, network.layout, network.rows_of_example)
            if isinstance(block, FFDense)
            else _found_step(block, network)
        )
        return BlockCost(contents_bytes(contents) - optimizer + scratch, scratch, optimizer, *step)

    return of_each_block(network, META, cost_of)


def optimizer_bytes(contents: TensorSpecs) -> int:
    """Return the bytes of the tensors that an optimiser keeps, among those of a snapshot."""
    return contents_bytes({name: kept for name, kept in contents.items() if name.startswith(OPTIMIZER)})


def largest_block_bytes(job: Job) -> int:
    """Return the bytes of the block that takes most, with its rows of a minibatch."""
    costs = costs_of(job.network)
    return max(cost.parameters + cost.optimizer + cost.step for cost in costs) + 2 * job.minibatch_bytes


def _found_step(block: Block, network: Blueprint) -> StepCost:
    """Do as `_step` does, on tensors without numbers where that is possible."""
    if isinstance(block, LocalBlock):
        with suppress(Exception, SystemExit):  # what fakes cannot do, META or the CPU may
            return _step_of_fakes(block, network)
    try:
        cost = _step(block, network, META)
    except (KeyboardInterrupt, UserError):
        raise
    except BaseException:  # as many as a user's code has that looks at numbers, which are not there
        with of_users(f"{network.outlines[block.index]} cannot make a step"):
            cost = _step(network.make(block.index, Workspace(CPU)), network, CPU)
    return cost


def _step_of_fakes(block: LocalBlock, network: Blueprint) -> StepCost:
    """Do as `_step` does, on tensors that torch takes for some on the CPU."""
    # Loads torch's compiler.
    from torch._subclasses.fake_tensor import FakeTensorMode

    fakes, memo = FakeTensorMode(), dict[int, Any]()
    with fakes:
        for tensor in (*block.parameters(), *block.buffers()):
            # With its strides: in channels-last the results of a convolution have that format too.
            fake = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=CPU)
            memo[id(tensor)] = nn.Parameter(fake, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fake
    # Copies have the fakes in place of these tensors, and one of a parameter that body and objective share.
    body, objective = copy.deepcopy((block.body, block.objective), memo)
    with fakes:
        like = LocalBlock(
            block.index, block.inputs, block.outputs, body, objective, block.config, block.keep, block.use
        )
        return _step(like, network, CPU)


def _step(block: Block, network: Blueprint, device: torch.device) -> StepCost:
    """Count what a step of a block takes."""
    step = learning(block, network, device)
    flops, memory = FlopCounterMode(display=False, custom_mapping=FLOPS), PeakMemory()
    # The first step makes the state of an optimiser; what later ones take is what counts.
    step(0)
    at_leave = list[int]()
    with flops, memory:
        step(1, lambda: at_leave.append(flops.get_total_flops()))
    total = flops.get_total_flops()
    return StepCost(max(memory.peak, _tested(block, network, device)), total, total - at_leave[0] if at_leave else 0)


def _tested(block: Block, network: Blueprint, device: torch.device) -> int:
    """Return the bytes that the rows of one example take in an evaluation, where they are more than those of a
    minibatch: what comes and goes, and what the rows before them made. Raises UserError where the block writes into
    rows that it tests or passes on, or changes its state by them."""
    rows, more = network.rows_of_example, network.rows_of_example > network.layout.rows
    # Its body is watched in every step, and tests by the same one; but a user's may go by its mode.
    if isinstance(block, LocalBlock) and not (more or network.training.model):
        return 0
    outline = network.outlines[block.index]
    specs = (block.inputs, *(network.outlines[network.kept[name]].outputs for name in block.use))

    def ones(count: int) -> list[Tensor]:
        return [torch.ones(count, *spec.shape, dtype=spec.dtype, device=device) for spec in specs]

    passed, tested = ones(network.layout.rows), ones(rows)
    out = torch.empty(len(passed[0]), *block.outputs.shape, dtype=block.outputs.dtype, device=device)
    versions, state = [each._version for each in (*passed, *tested)], block.state()
    before = {name: each._version for name, each in state.items()}
    with torch.no_grad():
        if network.training.contrasts:  # without negatives all rows are learned from
            block.pass_on(passed[0], Step(2), out, passed[1:])
        block.eval()
        with PeakMemory() as memory:
            block.score(*tested)
    refuse_changed((*passed, *tested), versions, str(outline))
    for name, each in block.state().items():
        if each is not state.get(name) or each._version != before[name]:
            raise UserError(
                f"{outline} changes {name!r} by rows that it only tests or passes on, of which a run may have more or "
                "fewer: let it do so in training alone (if self.training:)"
            )
    made: int = rows * outline.outputs.nbytes
    return int(memory.peak) + made if more else 0
