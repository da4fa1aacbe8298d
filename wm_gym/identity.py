"""Objects as JSON that is equal for objects that behave alike: what stored results depend on.

Numbers, texts and containers stand for themselves; arrays, weights and code by their SHA-256; other
objects by their class, and those of a user's own class by what they were made with, too.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

_DEEPEST = 8


def describe_value(value: Any) -> Any:
    """A value as JSON.

    Args:
        value: anything; a cycle, or what is nested more than eight deep, is named by its class.

    Example:
        >>> describe_value((1, "a", {"b": None}))
        [1, 'a', {'b': None}]
    """
    return _describe(value, ())


def _describe(value: Any, above: tuple[int, ...]) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.generic):
        return value.item() if value.dtype.kind in "biufU" else repr(value)
    if isinstance(value, np.ndarray):
        return hash_of_array(value)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return hash_of_tensors({"": value})
    if id(value) in above or len(above) >= _DEEPEST:
        return class_name(type(value))
    above = (*above, id(value))
    if torch is not None and isinstance(value, torch.nn.Module):
        weights = hash_of_tensors(value.state_dict())
        return {"class": describe_class(type(value), above), "weights": weights}
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, Mapping):
        return {str(key): _describe(item, above) for key, item in value.items()}
    if isinstance(value, list | tuple | range):
        return [_describe(item, above) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((_describe(item, above) for item in value), key=repr)
    if isinstance(value, functools.partial):
        return [_describe(part, above) for part in (value.func, value.args, value.keywords)]
    if isinstance(value, MethodType):
        return [_describe(part, above) for part in (value.__func__, value.__self__)]
    if isinstance(value, FunctionType):
        return describe_function(value, above)
    if isinstance(value, type):
        return describe_class(value, above)
    if isinstance(value, ModuleType):
        return value.__name__
    own = getattr(value, "identity", None)
    if callable(own):
        return _describe(own(), above)
    names = [field.name for field in fields(value)] if is_dataclass(value) else _given(value)
    content = {name: _describe(getattr(value, name), above) for name in names}
    return {"class": describe_class(type(value), above), **content}


def given_attributes(value: object) -> dict[str, Any]:
    """Attributes that are named after constructor arguments of a user's own class, as JSON.

    Others, such as counters and what an object keeps of an episode, are its state.
    """
    return {name: describe_value(getattr(value, name)) for name in _given(value)}


def _given(value: object) -> list[str]:
    held = getattr(value, "__dict__", {})
    found = []
    for kind in type(value).__mro__:
        if is_own(kind.__module__) and "__init__" in vars(kind):
            for argument in inspect.signature(kind.__init__).parameters:
                found += [name for name in (argument, f"_{argument}") if name in held]
    return sorted(set(found))


def class_name(kind: type) -> str:
    """Module and name of a class."""
    return f"{kind.__module__}:{kind.__qualname__}"


def is_own(module: str) -> bool:
    """Whether a module is a user's own; the code of packages is known by their versions."""
    package = module.partition(".")[0]
    if package in sys.stdlib_module_names or package == "wm_gym":
        return package == "__main__"
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is None or "site-packages" not in Path(file).parts


def describe_class(kind: type, above: tuple[int, ...] = ()) -> Any:
    """The name of a class; of a user's own one with a hash of its code and what the code holds."""
    own = [part for part in kind.__mro__ if is_own(part.__module__)]
    if not own:
        return class_name(kind)
    code = json.dumps([_members(part, above) for part in own], sort_keys=True)
    return {"name": class_name(kind), "code_sha256": hashlib.sha256(code.encode()).hexdigest()}


def _members(kind: type, above: tuple[int, ...]) -> Any:
    held: dict[str, Any] = {}
    for name, member in vars(kind).items():
        if name.startswith("__") and name not in ("__init__", "__call__"):
            continue
        if name.startswith("_abc_"):
            continue
        if isinstance(member, property | functools.cached_property):
            member = member.fget if isinstance(member, property) else member.func
        if isinstance(member, staticmethod | classmethod):
            member = member.__func__
        if isinstance(member, FunctionType | bool | int | float | str | np.ndarray | tuple | list):
            held[name] = _describe(member, (*above, id(kind)))
    return held


def describe_function(function: FunctionType, above: tuple[int, ...] = ()) -> Any:
    """The name of a function; of a user's own one also its code, defaults and closure."""
    name = f"{function.__module__}:{function.__qualname__}"
    if not is_own(function.__module__ or ""):
        return name
    try:
        code = hashlib.sha256(inspect.getsource(function).encode()).hexdigest()
    except (OSError, TypeError):  # typed at a prompt or made by exec
        code = _hash_of_code(function.__code__)
    above = (*above, id(function))
    held: dict[str, Any] = {}
    for free, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            content = cell.cell_contents
        except ValueError:  # not bound yet
            continue
        if free != "__class__":
            held[free] = _describe(content, above)
    defaults = _describe((function.__defaults__, function.__kwdefaults__), above)
    return {"name": name, "code": code, "defaults": defaults, "holds": held}


def _hash_of_code(code: CodeType) -> str:
    digest = hashlib.sha256(code.co_code)
    for constant in code.co_consts:
        part = _hash_of_code(constant) if isinstance(constant, CodeType) else repr(constant)
        digest.update(part.encode())
    digest.update(repr(code.co_names).encode())
    return digest.hexdigest()


def hash_of_array(array: np.ndarray) -> str:
    """SHA-256 of an array's type, shape and content."""
    digest = hashlib.sha256(f"{array.dtype} {array.shape}".encode())
    plain = array.dtype.kind not in "OV"
    digest.update(np.ascontiguousarray(array).tobytes() if plain else repr(array.tolist()).encode())
    return digest.hexdigest()


def hash_of_tensors(tensors: Mapping[str, Any]) -> str:
    """SHA-256 of torch tensors by name: types, shapes and content."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
