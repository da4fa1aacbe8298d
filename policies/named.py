"""A policy by the name a user gives it on the command line: a saved folder, or `module:Class`."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from wm_gym.policies.base import POLICY_FILE, Policy, PolicyError, check_policy, load_policy
from wm_gym.spec import ActionSpec, FrameSpec

_IN_A_MODULE = re.compile(r"(?P<module>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*):(?P<attribute>[A-Za-z_]\w*)")


def open_policy(
    name: str, action_spec: ActionSpec | None, frame_spec: FrameSpec | None = None
) -> Policy:
    """The policy of a name that the user typed; no file's content decides what is imported.

    Args:
        name: folder of a saved policy, an agent's .zip that `save_agent` wrote, or `module:Class`,
            where the module is installed or lies in the current directory, and the class, or a
            function in its place, is called with `(action_spec, frame_spec)` and gives a `Policy`.
        action_spec: the environment's action language; a saved policy brings its own.
        frame_spec: the environment's frames.

    Raises:
        PolicyError: if there is no such folder, module or class, or it gives no policy.
    """
    found = _in_a_module(name)
    if found is None and is_agent_zip(name):
        from wm_gym.policies.sb3.agent_zip import load_agent

        return load_agent(name)
    if found is None:
        return load_policy(name)
    module = _import(found["module"])
    make = _member(module, found["attribute"], name)
    if action_spec is None:
        raise PolicyError(f"{name} needs an action_spec, and the environment states none")
    return check_policy(make(action_spec, frame_spec))


def policy_file(name: str) -> Path:
    """The file that stands for a policy in records: its `policy.json`, or its module's source.

    Raises:
        PolicyError: if there is no such module, or it has no source.
    """
    found = _in_a_module(name)
    if found is None and is_agent_zip(name):
        return Path(name).expanduser()
    if found is None:
        return Path(name).expanduser() / POLICY_FILE
    source = inspect.getsourcefile(_import(found["module"]))
    if source is None:
        raise PolicyError(f"{found['module']} has no source file; put the class into a .py file")
    return Path(source)


def short_name(name: str) -> str:
    """What a policy is called in tables and file names."""
    return Path(name).name if _in_a_module(name) is None else name.replace(":", ".")


def distinct_names(names: Sequence[str]) -> list[str]:
    """Short names; of saved policies that share one, with the folders above that differ.

    Example:
        >>> distinct_names(["runs/dp/stage_4", "runs/bc/stage_4", "runs/bc/stage_3"])
        ['dp.stage_4', 'bc.stage_4', 'stage_3']
    """
    called = [short_name(name) for name in names]
    for k, name in enumerate(names):
        if not is_saved(name):
            continue
        parts = Path(name).expanduser().resolve().parts
        rivals = [
            Path(other).expanduser().resolve().parts
            for other in names
            if is_saved(other) and Path(other).name == parts[-1]
        ]
        for depth in range(1, len(parts)):
            if sum(rival[-depth:] == parts[-depth:] for rival in rivals) == 1:
                called[k] = ".".join(parts[-depth:])
                break
    return called


def is_saved(name: str) -> bool:
    """Whether a name is that of a saved policy, which brings its specs, and no `module:Class`."""
    return _in_a_module(name) is None


def is_agent_zip(name: str) -> bool:
    """Whether a name is that of a .zip of Stable-Baselines3."""
    return Path(name).suffix == ".zip"


def _in_a_module(name: str) -> re.Match[str] | None:
    return None if Path(name).expanduser().exists() else _IN_A_MODULE.fullmatch(name)


def _import(name: str) -> ModuleType:
    here = str(Path.cwd())
    if not {here, ""} & set(sys.path):
        sys.path.append(here)  # at the end: nothing that is installed is hidden by it
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module is there; what it imports is not
        raise PolicyError(
            f"there is no module {name!r} in {here} or among the installed packages; expected "
            "module:Class, e.g. my_policies:MyPolicy for the class MyPolicy in my_policies.py here"
        ) from error


def _member(module: ModuleType, attribute: str, name: str) -> Callable[..., Any]:
    """The class or function, known to be callable with two specs."""
    make = getattr(module, attribute, None)
    if make is None:
        there = [key for key, value in vars(module).items() if _is_own_policy(value, module)]
        raise PolicyError(
            f"{module.__name__} ({getattr(module, '__file__', None)}) has no {attribute!r}; it "
            f"defines {f'the policies {there}' if there else 'no subclass of Policy'}"
        )
    if isinstance(make, type) and not issubclass(make, Policy):
        raise PolicyError(
            f"{name} is no subclass of Policy: subclass wm_gym.policies.base.Policy and define "
            "act(observation); docs/policies.md shows one"
        )
    if inspect.isabstract(make):
        raise PolicyError(f"{name} does not define {', '.join(sorted(make.__abstractmethods__))}")
    try:
        inspect.signature(make).bind(None, None)
    except TypeError as error:
        raise PolicyError(
            f"{name} cannot be called with (action_spec, frame_spec): {error}; name a function "
            "that takes these two and returns the policy"
        ) from error
    return make


def _is_own_policy(value: object, module: ModuleType) -> bool:
    return (
        isinstance(value, type)
        and issubclass(value, Policy)
        and value.__module__ == module.__name__
    )
