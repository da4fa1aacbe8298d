"""Cube's states made by hand, and episodes of them; nothing is simulated or rendered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from gymnasium.spaces import Box

from wm_gym.data.episodes import Episode, EpisodeDataset
from wm_gym.data.shards import write_index, write_shard
from wm_gym.envs.sims.cube.state import CubeState
from wm_gym.instructions import Goal

CUBES = ("red cube", "blue cube", "green cube")
STILL = np.array([1.0, 0.0, 0.0, 0.0])


def scene(
    hand=(0.4, 0.0, 0.3), red=(0.4, 0.0, 0.02), blue=(0.5, 0.1, 0.02), green=(0.4, -0.2, 0.02),
    red_pads=(0.1, 0.1), red_blue=0.1, red_turn_rad=0.0,
):  # fmt: skip
    """A flat privileged state of three cubes that touch nothing unless a gap says so."""
    turn = np.array([np.cos(red_turn_rad / 2), 0.0, 0.0, np.sin(red_turn_rad / 2)])
    gaps = np.full((3, 3), 0.1)
    gaps[0, 1] = gaps[1, 0] = red_blue
    pads = np.full((3, 2), 0.1)
    pads[0] = red_pads
    return CubeState(
        hand_m=np.array(hand), hand_yaw_rad=np.array(0.0), closed=np.array(0.5),
        force=np.array(0.0), cubes_m=np.array([red, blue, green]),
        cubes_quaternion=np.stack([turn, STILL, STILL]), pad_gaps_m=pads, cube_gaps_m=gaps,
    ).to_array()  # fmt: skip


def write_cube_episodes(
    folder: Path, count: int, *, key: str = "cubes", steps: int = 12
) -> EpisodeDataset:
    """Episodes of states that drift, grasp and stack now and then."""
    rng, episodes = np.random.default_rng(count), []
    for number in range(count):
        states = []
        for t in range(steps + 1):
            held, on = (t // 3) % 2, (t // 4) % 2
            places = rng.uniform(0.3, 0.5, (4, 3))
            red = places[2] + [0.0, 0.0, 0.04] if on else places[1]
            hand = red if held else places[0]
            pads = (0.0, 0.0) if held else (0.05, 0.05)
            made = scene(hand=hand, red=red, blue=places[2], green=places[3], red_pads=pads,
                         red_blue=0.0 if on else 0.05)  # fmt: skip
            named = CubeState.from_array(made)
            if (t + number) % 2:  # each of the others is grasped, touched and stacked, too
                named = replace(named, pad_gaps_m=named.pad_gaps_m[::-1])
            states.append(named.to_array())
        episodes.append(
            Episode(
                frames=np.full((steps + 1, 16, 16, 3), number, np.uint8),
                actions=np.full((steps, 5), 0.01, np.float32),
                privileged=np.stack(states),
                success=np.zeros(steps + 1, bool),
                goal=Goal("reach", CUBES[:1]),
                seed=number,
                behaviour=("expert", "random")[number % 2],
                start_state={key: ", ".join(CUBES), "physics": np.zeros(3)},
            )
        )
    write_shard(folder / "shards" / "000000.hdf5", episodes, 0)
    write_index(
        folder,
        observation_space=Box(0, 255, (16, 16, 3), np.uint8),
        action_space=Box(-1, 1, (5,), np.float32),
        image_format="exact",
    )
    return EpisodeDataset(folder)
