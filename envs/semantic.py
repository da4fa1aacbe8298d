"""Semantic world models behind `gymnasium.Env` and `gymnasium.vector.VectorEnv`."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, cast

from gymnasium.vector import AutoresetMode

from wm_gym.envs.engine import Engine
from wm_gym.envs.horizon import horizon_of_make, one_horizon
from wm_gym.envs.imagined import WorldModelEnv
from wm_gym.envs.imagined_vector import WorldModelVectorEnv
from wm_gym.envs.semantic_engine import SemanticEngine, SemanticSettings
from wm_gym.envs.settings import check_names, check_render_mode

if TYPE_CHECKING:
    from wm_gym.semantic.world_model import SemanticWorldModel


class SemanticEnv(WorldModelEnv):
    """An open-loop planning problem: choose actions for a picture, be told how it will turn out.

    Action: float32 (A,), physical units of the card. Observation: a dict of `frame`, the start
    picture, uint8 (H, W, 3); `actions`, those chosen so far, float32 (horizon, A), zeros after
    them; `step`, their number. Reward: by how much the action raised the value of the task (Eq. 1
    of arXiv:2510.19818), so that the return is V_end - V_0. An episode terminates when the answers
    that end the task are likelier than the threshold, and at its horizon.

    `info` carries `instruction`, `is_success` (whether those answers hold), `action_clipped`,
    `value`, `answers` (probability of every desired answer), after a reset `start`, and in the last
    step `judge`: a dict of `score`, `rationale` and `name`.

    Example:
        >>> import gymnasium, wm_gym
        >>> env = gymnasium.make("WM-LangTable-SWM-v0", checkpoint=folder)     # doctest: +SKIP
        >>> options = {"frames": picture, "instruction": "reach the red moon"} # doctest: +SKIP
        >>> observation, info = env.reset(seed=0, options=options)             # doctest: +SKIP

    Args:
        env_id: registered id, which says what "embedded" means.
        render_mode: "rgb_array" shows the start picture.
        model: an already loaded model, used as it is instead of `checkpoint`.
        **settings: fields of `SemanticSettings`.

    Raises:
        CheckpointError: if the checkpoint is not there, naming the ways to get one.
        ValueError: if an argument does not fit the card.
        TypeError: if there is no such argument.
    """

    def __init__(
        self,
        env_id: str = "WM-LangTable-SWM-v0",
        render_mode: str | None = "rgb_array",
        model: SemanticWorldModel | None = None,
        **settings: Any,
    ) -> None:
        horizon = horizon_of_make(type(self), settings.get("horizon"))
        chosen = _settings(env_id, {**settings, "horizon": horizon})
        check_render_mode(render_mode)
        # the shell asks an engine for episodes only, and there the two engines are alike
        self._assemble(cast(Engine, SemanticEngine(1, chosen, model)), render_mode, model)


class SemanticVectorEnv(WorldModelVectorEnv):
    """B rows of a semantic world model, judged in one batch; see `SemanticEnv`.

    Args:
        num_envs: rows B.
        env_id: registered id.
        autoreset_mode: as for `WorldModelVectorEnv`.
        render_mode: "rgb_array".
        model: an already loaded model instead of `checkpoint`.
        max_episode_steps: Gymnasium's word for `horizon`; give one of them.
        **settings: fields of `SemanticSettings`.
    """

    def __init__(
        self,
        num_envs: int = 1,
        env_id: str = "WM-LangTable-SWM-v0",
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        render_mode: str | None = "rgb_array",
        model: SemanticWorldModel | None = None,
        max_episode_steps: int | None = None,
        **settings: Any,
    ) -> None:
        horizon = one_horizon(settings.get("horizon"), max_episode_steps)
        chosen = _settings(env_id, {**settings, "horizon": horizon})
        self._assemble(
            num_envs,
            lambda rows: cast(Engine, SemanticEngine(rows, chosen, model)),
            autoreset_mode,
            render_mode,
            model,
        )


def _settings(env_id: str, settings: dict[str, Any]) -> SemanticSettings:
    known = [entry.name for entry in fields(SemanticSettings)]
    check_names(settings, [*known, "render_mode", "model"])
    return SemanticSettings(env_id, **settings)
