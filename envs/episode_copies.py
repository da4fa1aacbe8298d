"""Copies and pickles of imagined environments: the episode under way goes on in them."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec

from wm_gym.checkpoints import absolute_checkpoint, absolute_query


@dataclass(frozen=True)
class PackedEngine:
    """What makes an engine anew: its settings and episodes, and a model only if one was given."""

    engine_class: type
    rows: int
    settings: Any
    model: Any
    horizon: int
    episodes: bytes | None

    @classmethod
    def pack(
        cls, engine: Any, model: Any = None, generators: list[np.random.Generator] | None = None
    ) -> PackedEngine:
        """Pack an engine; its episodes only if the rows' generators are given."""
        episodes = engine.snapshot(generators) if generators and engine.begun else None
        return cls(type(engine), engine.rows, engine.settings, model, engine.horizon, episodes)

    def unpack(self, generators: list[np.random.Generator] | None = None) -> Any:
        """Make the engine; the generators receive their states."""
        engine = self.engine_class(self.rows, self.settings, self.model)
        if engine.horizon != self.horizon:
            engine.set_horizon(self.horizon)
        if self.episodes is not None:
            engine.restore(self.episodes, generators)
        return engine


class EpisodeCopies:
    """Mix in: `copy`, `deepcopy` and `pickle` continue the episode, to the bit.

    A copy shares the model, which does not change, and nothing else. A pickle holds the name of the
    checkpoint and not its weights, unless the model was given as `model=`.
    """

    engine: Any
    given_model: Any = None
    _spec: EnvSpec | None = None

    def _row_generators(self) -> list[np.random.Generator]:
        raise NotImplementedError

    @property
    def spec(self) -> EnvSpec | None:
        """Gymnasium's record of how the environment was made, with absolute paths."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        if spec is not None:
            spec = copy.copy(spec)
            spec.kwargs = dict(spec.kwargs)
            if "checkpoint" in spec.kwargs:
                spec.kwargs["checkpoint"] = absolute_checkpoint(spec.kwargs["checkpoint"])
            if isinstance(spec.kwargs.get("reward"), str):
                spec.kwargs["reward"] = absolute_query(spec.kwargs["reward"])
        self._spec = spec

    def __getstate__(self) -> dict[str, Any]:
        packed = PackedEngine.pack(self.engine, self.given_model, self._row_generators())
        return {**self.__dict__, "engine": packed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        packed = state["engine"]
        self.__dict__.update({key: value for key, value in state.items() if key != "engine"})
        self.engine = packed.unpack(self._row_generators())

    def __copy__(self) -> Any:
        return copy.deepcopy(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        model = self.engine.model
        memo[id(model)] = model
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        rest = {key: value for key, value in self.__dict__.items() if key != "engine"}
        twin.__dict__.update(copy.deepcopy(rest, memo))
        packed = PackedEngine.pack(self.engine, model, self._row_generators())
        twin.engine = packed.unpack(twin._row_generators())
        return twin
