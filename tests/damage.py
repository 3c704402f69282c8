"""Seeded damage: to bytes, to trees of TOML and JSON, to the tensors of a file."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import safetensors.torch
import torch

NUMBERS = (
    b"-1",
    b"0",
    b"1",
    b"1e400",
    b"-1e-400",
    b"nan",
    b"1.5",
    b"99999999",
    b"9223372036854775808",
    b"1" + b"0" * 15,
)


def by_bytes(data: bytes, chance: random.Random) -> bytes:
    """Make one to four small changes: flip, cut, splice, insert, repeat, another number."""
    for _ in range(chance.randint(1, 4)):
        a, b = sorted(chance.randrange(len(data) + 1) for _ in range(2))
        b = min(b, a + chance.choice((1, 4, 30, 300)))
        digits = [i for i in range(len(data[:4096])) if data[i : i + 1].isdigit()]
        match chance.choice(("flip", "cut", "end", "splice", "insert", "repeat", "number", "number")):
            case "flip" if data:
                place = chance.choice((chance.randrange(len(data)), chance.randrange(min(len(data), 1000))))
                data = data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :]
            case "cut":
                data = data[:a] + data[b:]
            case "end":
                data = data[:a]
            case "splice":
                place = chance.randrange(len(data) + 1)
                data = data[:place] + data[a:b] + data[place:]
            case "insert":
                data = (
                    data[:a] + chance.choice((chance.randbytes(8), b"\0", b"\n", b"[", b'"', b"{", b"\xff")) + data[a:]
                )
            case "repeat":
                data = data[:a] + data[a:b] * chance.choice((2, 10, 1000)) + data[b:]
            case "number" if digits:
                first = last = chance.choice(digits)
                while data[last : last + 1].isdigit():
                    last += 1
                data = data[:first] + chance.choice(NUMBERS) + data[last:]
    return data


VALUES: tuple[Any, ...] = (
    -1, 0, 1, 2, 3, 7, 50, 1000, 10**6, 10**9, 10**12, 10**18, 2**53, 2**53 + 1, 2**63, -(2**63), 10**30,
    0.0, -1.0, 0.5, 1e-300, 1e30, 1e38, 1e300, float("inf"), float("nan"), True, False,
    "", "x", "0", "nan", "\0", "a" * 5000, "../../x", "/dev/zero", "[/b]", "file:///nowhere", "s3:", "://", "\x1b[2J",
    "Adam", "SGD", "NAdam", "Adafactor", "Rprop", "append", "overlay", "hard", "random", "fixed", "bfloat16", "float64",
    "none", "class-head", "os:abort", [{"kind": "dense", "options": {"width": 9}}] * 3, [{"kind": "conv"}],
    [{"kind": "dense", "options": {"width": 9}, "keep": "a"}, {"kind": "dense", "options": {"width": 9}, "use": ["a"]}],
    [], [1], [0] * 2000, [10**9, 10**9], [64, 10**7, 10**7], [[[]]], {}, {"a": 1}, {"foreach": True}, {"momentum": 0.9},
)  # fmt: skip


def by_structure(tree: Any, chance: random.Random) -> Any:
    """Give one to three places of a tree another value, name or copy, or drop them."""
    for _ in range(chance.randint(1, 3)):
        places = [place for place in walk(tree) if place]
        if not places:
            return tree
        *path, last = chance.choice(places)
        branch = tree
        for part in path:
            branch = branch[part]
        match chance.choice(("value", "value", "value", "without", "name", "copy")):
            case "value":
                branch[last] = json.loads(json.dumps(chance.choice(VALUES)))
            case "without":
                del branch[last]
            case "name" if isinstance(branch, dict):
                branch[chance.choice((f"{last}x", "", "a.b", "é\n", "layer-001.safetensors"))] = branch.pop(last)
            case "copy" if isinstance(branch, list):
                branch += branch[:] * chance.choice((1, 50))
            case _:
                pass
    return tree


def walk(tree: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield here
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in inner:
        yield from walk(value, (*here, key))


def by_tensors(data: bytes, chance: random.Random) -> bytes:
    """Make a safetensors file whose tensors are others: absent, of another name, shape, dtype or value."""
    state = safetensors.torch.load(data)
    dtypes = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.bool, torch.complex64)
    for _ in range(chance.randint(1, 2)):
        name = chance.choice(sorted(state))
        tensor = state[name]
        match chance.choice(("absent", "name", "more", "shape", "dtype", "value")):
            case "absent" if len(state) > 1:
                del state[name]
            case "name":
                state[chance.choice(("prediction.x", "prediction.99999999999", "", "a" * 3000, f"{name}.0"))] = (
                    state.pop(name)
                )
            case "more":
                extra = ("prediction.-5", "prediction.28", "weight.9", "optimizer.9.weight.step", "optimizer.bias.step")
                state[chance.choice(extra)] = tensor.clone()
            case "shape":
                shapes = ((0,), (), (1,), tensor.shape[::-1], (1, *tensor.shape), (0, 10**9))
                state[name] = torch.zeros(chance.choice(shapes), dtype=tensor.dtype)
            case "dtype":
                state[name] = (tensor.real if tensor.is_complex() else tensor).to(chance.choice(dtypes))
            case "value":
                numbers = (-1, 0, 1, 2**40, -(2**62)) if tensor.dtype == torch.int64 else (0, 1)
                floats = (float("nan"), float("inf"), -1.0, 6e4)
                state[name] = torch.full_like(tensor, chance.choice(floats if tensor.is_floating_point() else numbers))
            case _:
                pass
    return safetensors.torch.save({name: tensor.contiguous() for name, tensor in state.items()})
