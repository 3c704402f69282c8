"""Places for stages: what each asks of the host that it is on, and whether hosts have that. Plain data, no Ray.

This tells what can never be placed; that something is busy now, only Ray can say.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ffpipe.config.schema import Device, Execution, of_stage
from ffpipe.system.units import format_size, parse_size

# The share that an amount may be short of by rounding.
ROUNDING = 1e-6
MEMORY = "memory"
# Ray's name of each strategy.
STRATEGIES = {"pack": "PACK", "spread": "SPREAD", "one-host-each": "STRICT_SPREAD"}


@dataclass(frozen=True)
class Host:
    """A node of a cluster: its address, all that it has by name (CPU, GPU, memory in bytes, others), its labels."""

    address: str
    has: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        labels = "".join(f", {name}={value}" for name, value in self.labels.items() if not name.startswith("ray.io/"))
        # Without what Ray adds by itself, such as node:ADDRESS.
        named = {name: each for name, each in self.has.items() if ":" not in name and name != "object_store_memory"}
        return f"{self.address} ({format_amounts(named)}{labels})"


@dataclass(frozen=True)
class Bundle:
    """The resources that one stage asks for. asks: amounts by name. labels: what values its host must have, in Ray's
    words."""

    device: Device
    asks: Mapping[str, float]
    labels: Mapping[str, str]

    def __str__(self) -> str:
        return format_amounts(self.asks) + "".join(f" on a host with {n}={v}" for n, v in self.labels.items())

    def fits(self, host: Host) -> bool:
        """Return whether the host would do if nobody else were on it."""
        enough = all(host.has.get(name, 0.0) + ROUNDING >= each for name, each in self.asks.items())
        return enough and all(matches(value, host.labels.get(name)) for name, value in self.labels.items())


def places_of(
    execution: Execution, stages: int, hosts: Sequence[Host], counts: Sequence[int] = ()
) -> tuple[Bundle, ...]:
    """Return the place of every replica of every stage. One that asks for no CPUs has one, or an equal share of fewer.
    counts: replicas of each stage; none given: as the config has them."""
    found = []
    for index in range(stages):
        device: Device = of_stage(execution.device, index)
        memory = of_stage(execution.memory, index)
        asks = {
            "CPU": of_stage(execution.cpus, index),
            "GPU": of_stage(execution.gpus, index) or float(device == "cuda"),
            MEMORY: float(parse_size(memory)) if memory else 0.0,
            **{name: of_stage(each, index) for name, each in execution.resources.items()},
        }
        labels = {name: of_stage(value, index) for name, value in execution.labels.items()}
        asked = {name: each for name, each in asks.items() if each}
        place = Bundle(device, asked, {name: value for name, value in labels.items() if value})
        found += [place] * (counts[index] if counts else of_stage(execution.replicas, index))
    # Hosts that will have none of them have no share to give.
    room = [host.has.get("CPU", 0.0) for host in hosts if any(place.fits(host) for place in found)]
    share = {"CPU": share_of_cpus(len(found), room)}
    return tuple(replace(place, asks=share | dict(place.asks)) for place in found)


def most_places(execution: Execution, most: int, hosts: Sequence[Host]) -> tuple[Bundle, ...]:
    """Return the places for as many stages as these hosts have, but no more than CPUs, nor than `most`; for one at
    least. Each has as many replicas as the config has."""
    cpus = int(sum(host.has.get("CPU", 0.0) for host in hosts)) // of_stage(execution.replicas, 0)
    for stages in range(min(most, cpus), 1, -1):
        places = places_of(execution, stages, hosts)
        # Stages with a part of a CPU each take turns on it, as blocks of fewer stages would.
        whole = all(place.asks["CPU"] >= (of_stage(execution.cpus, 0) or 1.0) for place in places)
        if whole and shortage(places, hosts, execution.placement) is None:
            return places
    return places_of(execution, 1, hosts)


def share_of_cpus(stages: int, cpus: Sequence[float]) -> float:
    """Return the CPUs for each stage where none are given: one, or where hosts have fewer the most that they have room
    for.

    >>> share_of_cpus(4, [1, 1, 1])
    0.5
    """
    shares = {min(1.0, each / of) for each in cpus for of in range(1, stages + 1)}
    for share in sorted(shares, reverse=True):
        if share and sum(int(each / share + ROUNDING) for each in cpus) >= stages:
            # Ray counts in ten-thousandths; rounded up, the last stage would find none.
            return math.floor(share * 1e4) / 1e4
    return 1.0


def threads_of(place: Bundle) -> int:
    """Return the threads of a stage's arithmetic: as many as it has CPUs."""
    return max(1, int(place.asks.get("CPU", 0.0)))


def fewer(places: Sequence[Bundle], count: int, hosts: Iterable[Host]) -> tuple[Bundle, ...]:
    """Keep so many of these places: those that no host fits any more go first, then the last ones."""
    hosts = list(hosts)
    hopeless = [index for index, place in enumerate(places) if not any(place.fits(host) for host in hosts)]
    others = [index for index in reversed(range(len(places))) if index not in hopeless]
    left_out = set([*hopeless, *others][: len(places) - count])
    return tuple(place for index, place in enumerate(places) if index not in left_out)


def shortage(places: Sequence[Bundle], hosts: Sequence[Host], strategy: str, counts: Sequence[int] = ()) -> str | None:
    """Explain why these hosts can never take these stages; None where they may. counts: replicas of each."""
    replicated = len(counts) < len(places) and bool(counts)
    what = f"{len(counts)} stage(s) with {len(places)} replicas" if replicated else f"{len(places)} stage(s)"
    unit = "replica" if replicated else "stage"
    for name in {name: None for place in places for name in place.asks}:
        need = sum(place.asks.get(name, 0.0) for place in places)
        have = sum(host.has.get(name, 0.0) for host in hosts)
        if need > have + ROUNDING:
            field = {"CPU": "cpus", "GPU": "gpus", MEMORY: "memory"}.get(name, "resources")
            return (
                f"{what} need {_say(name, need)} {name}, the cluster has {_say(name, have)}: ask for "
                f"fewer {unit}s or less for each (--execution.{field}), or join a larger cluster with RAY_ADDRESS"
            )
    there = "; ".join(map(str, hosts))
    for index, place in enumerate(places):
        if not any(place.fits(host) for host in hosts):
            stage = next(n for n in range(len(counts)) if index < sum(counts[: n + 1])) if counts else index
            return f"stage {stage} asks for {place}, but no host has that: there are {there}"
    if strategy == "one-host-each" and sum(any(place.fits(host) for place in places) for host in hosts) < len(places):
        needed = f"needs {len(places)} hosts that fit, one for each {unit}"
        return f"execution.placement 'one-host-each' {needed}: there are {there}"
    return None


def crowding(execution: Execution, counts: Sequence[int], hosts: Iterable[Host]) -> str | None:
    """Explain why the replicas of a stage find too few CPUs on these hosts; None where they may be there.

    Stages share CPUs where there are fewer, but to take turns on them makes replicas of one no faster. Those that ask
    for a part of a CPU each (`execution.cpus`), or compute on a GPU, may. counts: replicas of each stage.
    """
    have = sum(host.has.get("CPU", 0.0) for host in hosts)
    for stage, count in enumerate(counts):
        on_cpus = of_stage(execution.device, stage) == "cpu" and not of_stage(execution.cpus, stage)
        if on_cpus and count > max(1, have):
            return (
                f"stage {stage} has {count} replicas ({sum(counts)} processes in all), the cluster has {have:g} CPU: "
                "ask for fewer (--execution.replicas), join a larger cluster with RAY_ADDRESS, or give each a part of "
                "a CPU (--execution.cpus)"
            )
    return None


def neighbours_together(places: Sequence[Bundle], nodes: Sequence[str]) -> list[int]:
    """Return an order of what was placed in which stages next to each other are on one node where that can be. nodes:
    of each. Only what asked for the same can change places."""
    if any(place != places[0] for place in places):
        return list(range(len(places)))
    first = {node: index for index, node in reversed(list(enumerate(nodes)))}
    return sorted(range(len(places)), key=lambda index: (first[nodes[index]], index))


def matches(selector: str, value: str | None) -> bool:
    """Return whether a host whose label has this value (None: it has none) is meant by a selector of Ray's."""
    wanted = selector.removeprefix("!")
    values = re.split(", ?", wanted[3:-1]) if wanted.startswith("in(") else [wanted]
    return (value in values) != selector.startswith("!")


def format_amounts(amounts: Mapping[str, float]) -> str:
    """Spell amounts: 2 CPU, 0.5 GPU, 4.00 GiB memory."""
    return ", ".join(f"{_say(name, each)} {name}" for name, each in amounts.items())


def _say(name: str, amount: float) -> str:
    return format_size(int(amount)) if name == MEMORY else f"{amount:g}"
