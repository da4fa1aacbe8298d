"""One rule for the length of an episode: `max_episode_steps` is Gymnasium's word for `horizon`."""

from __future__ import annotations

import sys

import gymnasium

from wm_gym.errors import UserError


def one_horizon(horizon: int | None, max_episode_steps: int | None) -> int | None:
    """The number of steps that two arguments ask for; None if neither does.

    Raises:
        ValueError: if they contradict each other.
    """
    if None not in (horizon, max_episode_steps) and horizon != max_episode_steps:
        raise UserError(
            f"horizon={horizon!r} and max_episode_steps={max_episode_steps!r} are two words "
            "for one thing, the steps of an episode; give horizon= alone"
        )
    return max_episode_steps if horizon is None else horizon


def horizon_of_make(env_class: type, horizon: int | None) -> int | None:
    """The horizon of an environment that `gymnasium.make` is making.

    `make` keeps `max_episode_steps` for its TimeLimit and passes it to no constructor; an episode
    that is judged at its end, or tells its agent the time left, has to know it. So it is read from
    the call of `make` that constructs an environment of this class, if there is one.

    Args:
        env_class: class that is being constructed.
        horizon: its argument or default; one that `make` was not given yields to
            `max_episode_steps`.

    Raises:
        ValueError: if both were given and contradict each other.
    """
    frame = sys._getframe(1)
    while frame is not None:
        variables = frame.f_locals if frame.f_code is gymnasium.make.__code__ else {}
        if variables.get("env_creator") is env_class:
            limit = variables.get("max_episode_steps")
            spec = variables.get("env_spec")
            if limit is None and spec is not None:
                limit = spec.max_episode_steps
            given = variables.get("env_spec_kwargs", {}).get("horizon")
            if type(limit) is not int or limit < 1:  # -1 switches off; TimeLimit refuses the rest
                return horizon
            return one_horizon(given, limit)
        frame = frame.f_back
    return horizon
