"""Options of a function, as a config or a command line has them, held against its signature."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from ffpipe.system.errors import UserError, nearest

_BOOLS = {"true": True, "1": True, "false": False, "0": False}
# Values in a list of which the signature does not say what they are.
_ANY_VALUE: Any = int | float | str
# Annotations that could not be evaluated because another one of the same function names a missing type.
_UNEVALUATED: dict[str, Any] = {"int": int, "float": float, "bool": bool, "tuple[int, ...]": tuple[int, ...]}
_LISTS = (tuple, list, Sequence, Iterable)


def bound(
    function: Callable[..., Any], options: Mapping[str, Any], name: str, given: Sequence[str] = (), how: str = ""
) -> dict[str, Any]:
    """Hold options against a function's signature, and convert words and lists to what it expects.

    name: what messages call the function. given: parameters that the caller gives itself. how: options are typed, in a
    message. Raises UserError for options that it does not take, for required ones that are missing and for values of
    another kind.
    """
    # Before it is called, which would warn that it was never awaited.
    if inspect.iscoroutinefunction(function):
        raise UserError(f"{name} is a coroutine: define it with def, not with async def")
    try:
        parameters = _signature(function).parameters.values()
    except (TypeError, ValueError):
        raise UserError(f"{name} does not say which options it takes: give a function written in Python") from None
    named = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    named = {own: p for own, p in named.items() if own not in given}
    takes = f"it takes {', '.join(named)}" if named else "it takes none"
    for p in parameters:
        if p.kind is p.POSITIONAL_ONLY and p.default is p.empty:
            raise UserError(f"{name} takes {p.name} by position: options are given by name, so remove the / after it")
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for option in options:
            if option not in named:
                near = nearest(option, named)  # which else lists all names, as `takes` does
                meant = f"; {near}" if near.endswith("?") else ""
                raise UserError(f"{name} does not take the option {option!r}: {takes}{meant}")
    if missing := [p.name for p in named.values() if p.default is p.empty and p.name not in options]:
        given_as = " ".join(f"{option}=VALUE" for option in missing)
        raise UserError(f"{name} needs the option {', '.join(missing)}: give {how}{given_as}; {takes}")
    arguments = dict(options)
    for option, p in named.items():
        if option in options:
            value, kind = options[option], _kind(p)
            try:
                arguments[option] = _converted(value, kind)
            except (ValueError, KeyError):
                raise UserError(f"{name}: the option {option} is {value!r}, expected {_expected(kind)}") from None
    return arguments


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    try:
        # With `from __future__ import annotations` in the user's file, annotations are strings.
        return inspect.signature(function, eval_str=True)
    except Exception:  # an annotation that only a type checker can evaluate
        return inspect.signature(function)


def _kind(parameter: inspect.Parameter) -> Any:
    """Return the type that a parameter is meant to have: as annotated, or else as its default."""
    kind, default = parameter.annotation, parameter.default
    if kind is not parameter.empty:
        return _UNEVALUATED.get(kind, kind) if isinstance(kind, str) else kind
    if isinstance(default, (tuple, list)):
        kinds = {type(value) for value in default}
        each = kinds.pop() if len(kinds) == 1 else _ANY_VALUE
        return types.GenericAlias(tuple, (each, ...)) if isinstance(default, tuple) else types.GenericAlias(list, each)
    # A default of 0 may stand for a fraction.
    return {bool: bool, int: int | float, float: float}.get(type(default), Any)


def _converted(given: Any, kind: Any) -> Any:
    """Convert a value of a config, or a word of the command line. Raises ValueError or KeyError; what is not a config's
    value, and what a type not known here is to have, stays as it is."""
    origin, among = typing.get_origin(kind) or kind, typing.get_args(kind)
    if not isinstance(given, (str, int, float, tuple, list)):
        return given
    if kind is bool:
        return _BOOLS[str(given).lower()]
    if kind is int or kind is float:
        if isinstance(given, str):
            return kind(given)
        # A bool is an int too.
        if isinstance(given, bool) or not isinstance(given, (int, kind)):
            raise ValueError(given)
    if kind is types.NoneType:
        return {"none": None}[str(given).lower()]
    if origin is typing.Literal:
        # A word of the command line stands for a number or a bool among the choices too.
        return {str(choice): choice for choice in among}[str(given)]
    if origin in (typing.Union, types.UnionType):
        for alternative in sorted(among, key=lambda one: one is str):  # anything is a str
            with suppress(ValueError, KeyError):
                return _converted(given, alternative)
        raise ValueError(given)
    if origin in _LISTS:
        return _listed(given, origin, among)
    if kind is str:
        if isinstance(given, (tuple, list)):
            raise ValueError(given)
        # A config may have it without quotes, as a number or a bool.
        return str(given).lower() if isinstance(given, bool) else str(given)
    return given


def _listed(given: Any, origin: Any, among: tuple[Any, ...]) -> list[Any] | tuple[Any, ...]:
    """Convert a list, or a word with commas. among: what a list is annotated to have. Raises as `_converted`."""
    if isinstance(given, str):
        given = [word.strip() for word in given.split(",")] if given else []
    if not isinstance(given, (tuple, list)):
        raise ValueError(given)
    of_each = origin is tuple and among and Ellipsis not in among
    kinds = among if of_each else (among or (_ANY_VALUE,))[:1] * len(given)
    # A tuple of a fixed length is held to it by zip: a ValueError, as for other wrong values.
    values = [_converted(value, kind) for value, kind in zip(given, kinds, strict=True)]
    return values if origin is list else tuple(values)


def _expected(kind: Any) -> str:
    example = " (true or false)" if kind is bool else ""
    if (typing.get_origin(kind) or kind) in _LISTS:
        example = " (such as 1,2,3)"
    return inspect.formatannotation(kind) + example
