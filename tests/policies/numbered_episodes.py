"""Short LangTable episodes whose frames and actions are numbered, so that a slip by one shows."""

import gymnasium
import numpy as np

from wm_gym.data.episodes import Episode
from wm_gym.data.shards import write_index, write_shard
from wm_gym.envs.sims.langtable.layout import sample_start
from wm_gym.envs.sims.langtable.tasks import OBJECTS
from wm_gym.envs.sims.langtable.tasks import Goal as SimulatorGoal
from wm_gym.instructions import Goal

SIDE, STEPS = 32, 5


def episode(seed, behaviour):
    rng = np.random.default_rng(seed)
    goal = SimulatorGoal("reach", OBJECTS[seed % 8])
    start = sample_start(goal, OBJECTS, rng)
    states = np.tile(start, (STEPS + 1, 1))
    states[:, 0] += 0.001 * np.arange(STEPS + 1)
    frames = np.zeros((STEPS + 1, SIDE, SIDE, 3), np.uint8)
    frames += (10 * np.arange(STEPS + 1, dtype=np.uint8))[:, None, None, None]
    return Episode(
        frames=frames,
        actions=np.stack([np.full(2, 0.001 * (k + 1), np.float32) for k in range(STEPS)]),
        privileged=states,
        success=np.array([False] * STEPS + [True]),
        instruction=goal.instruction,
        goal=Goal("reach", (goal.first,)),
        seed=seed,
        behaviour=behaviour,
    )


def write_episodes(folder, first=0):
    """A dataset of six episodes to reach a block, every other one by a noisy expert."""
    episodes = [episode(k, "expert" if (k + first) % 2 else "noisy_expert") for k in range(6)]
    write_shard(folder / "shards" / "000000.hdf5", episodes, 0)
    write_index(
        folder,
        observation_space=gymnasium.spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8),
        action_space=gymnasium.spaces.Box(-0.03, 0.03, (2,), np.float32),
        image_format="exact",
        env_spec=None,
        description="numbered",
    )
    return folder
