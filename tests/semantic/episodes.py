"""LangTable episodes without rendering: the first pixels of a frame say which one it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gymnasium.spaces import Box

from wm_gym.data.episodes import Episode, EpisodeDataset
from wm_gym.data.shards import write_index, write_shard
from wm_gym.envs.sims.behaviours import langtable_behaviours
from wm_gym.envs.sims.langtable.env import LangTableEnv
from wm_gym.instructions import Goal

SIZE = 24


def write_episodes(
    folder: Path, behaviours: list[str], *, steps: int = 24, blocks: str = "standard", seed: int = 0
) -> EpisodeDataset:
    """One push episode per behaviour; frame t of episode e has the value (e, t, 0) everywhere."""
    env = LangTableEnv(task="push", blocks=blocks, obs="state", horizon=steps + 1,
                       terminate_on_success=False)  # fmt: skip
    made = langtable_behaviours(None)
    episodes = []
    for number, name in enumerate(behaviours):
        rng = np.random.default_rng([seed, number])
        state, info = env.reset(seed=seed + number)
        actor = made[name](rng)
        actor.reset(env.goal, rng, env.objects)
        start, states, actions = env.get_state(), [state], []
        for _ in range(steps):
            actions.append(np.clip(np.asarray(actor.act(env), np.float32), -0.03, 0.03))
            states.append(env.step(actions[-1])[0])
        frames = np.zeros((steps + 1, SIZE, SIZE, 3), np.uint8)
        frames[..., 0], frames[..., 1] = number, np.arange(steps + 1)[:, None, None]
        episodes.append(
            Episode(
                frames=frames,
                actions=np.stack(actions),
                privileged=np.stack(states),
                success=np.zeros(steps + 1, bool),
                instruction=info["instruction"],
                goal=Goal(env.goal.task, env.goal.objects),
                seed=seed + number,
                behaviour=name,
                start_state=start,
            )
        )
    write_shard(folder / "shards" / "000000.hdf5", episodes, 0)
    write_index(
        folder,
        observation_space=Box(0, 255, (SIZE, SIZE, 3), np.uint8),
        action_space=Box(-0.03, 0.03, (2,), np.float32),
        image_format="exact",
    )
    return EpisodeDataset(folder)
