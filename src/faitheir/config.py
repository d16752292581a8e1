"""Dataclasses from plain mappings (TOML, JSON) and back, strictly: an unknown key is an error."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from faitheir.errors import ConfigError

T = TypeVar("T")


def from_dict(cls: type[T], values: Mapping[str, Any], *, where: str = "the configuration") -> T:
    """Build the dataclass ``cls`` from ``values``, checking every key and type, nested dataclasses included.

    ``where`` names the file in messages. Raises ConfigError for an unknown or missing key or a wrong type;
    range checks are the dataclass's own, in ``__post_init__``.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: expected a table of settings, found {values!r}.")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(str(key), list(fields), n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(fields)}."
            raise ConfigError(f"{where}: unknown key '{key}'; {hint}")
    arguments = {}
    for name, field in fields.items():
        if name in values:
            arguments[name] = _convert(hints[name], values[name], f"{where}: '{name}'")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{where}: the key '{name}' is missing.")
    try:
        return cls(**arguments)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def to_dict(config: Any) -> dict[str, Any]:
    """The plain mapping of a dataclass, lists for tuples, keys that are None left out (TOML has no null)."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            pairs = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value) if f.init)
            return {key: plain(item) for key, item in pairs if item is not None}
        if isinstance(value, Mapping):
            return {key: plain(item) for key, item in value.items() if item is not None}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return value

    result: dict[str, Any] = plain(config)
    return result


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        problems = []
        for option in (a for a in args if a is not type(None)):
            # A tagged union: the tables that name their `kind` are told apart by it, so that a misspelt key
            # is reported against the right one.
            kind = _kind_of(option)
            if kind is not None and isinstance(value, Mapping) and value.get("kind", kind) != kind:
                continue
            try:
                return _convert(option, value, where)
            except ConfigError as error:
                problems.append(str(error))
        raise ConfigError(problems[0] if problems else f"{where}: unknown kind {value.get('kind')!r}.")
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_dict(hint, value, where=where)
    if origin is Literal:
        if value not in args:
            raise ConfigError(f"{where} is {value!r}; choose one of {', '.join(map(repr, args))}.")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where} is {value!r}; it must be a list.")
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(_convert(args[0], item, where) for item in value)
        if len(value) != len(args):
            raise ConfigError(f"{where} has {len(value)} items; it must have {len(args)}.")
        return tuple(_convert(a, item, where) for a, item in zip(args, value, strict=True))
    if origin is dict or hint is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} is {value!r}; it must be a table.")
        return dict(value)
    if hint is Any:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{where} is {value!r}; it must be of type {hint.__name__}.")
    return value


def _kind_of(option: Any) -> str | None:
    if not (dataclasses.is_dataclass(option) and isinstance(option, type)):
        return None
    for field in dataclasses.fields(option):
        if field.name == "kind":
            return str(field.default)
    return None
