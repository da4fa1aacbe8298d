"""No stored start is one whose goal holds already."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import wm_gym  # noqa: F401  registers the ids
from wm_gym.checkpoints import assets_folder
from wm_gym.domains import domain_of
from wm_gym.envs.start_states import FILENAME, StartStateError, StartStates, make_start_states

SHIPPED = sorted(path.parent.name for path in assets_folder().glob(f"*/{FILENAME}"))


@pytest.mark.parametrize("name", SHIPPED)
def test_no_shipped_start_holds_its_goal(name):
    """At reset, by the simulator; nor after an action that does nothing."""
    folder = Path(assets_folder()) / name
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    starts = StartStates.read(folder / FILENAME)
    domain = domain_of(card["twin"])
    keyword = domain.objects_keyword if domain else ""
    chosen = {keyword: ",".join(card["objects"])} if keyword else {}
    env = gymnasium.make(card["twin"], obs="state", **chosen)
    null = np.clip(np.zeros(env.action_space.shape), env.action_space.low, env.action_space.high)
    held = []
    for start, instruction, state in zip(
        starts.names, starts.instructions, starts.states, strict=True
    ):
        options = {"state": state, "instruction": instruction}
        _, info = env.reset(seed=0, options=options)
        if info["is_success"] or env.step(null.astype(np.float32))[4]["is_success"]:
            held.append(start)
    env.close()
    assert held == []


class Counting(gymnasium.Env):
    """Every third seed begins at its goal; from seed 100 on, all do."""

    observation_space = gymnasium.spaces.Box(0, 255, (2, 2, 3), np.uint8)
    action_space = gymnasium.spaces.Discrete(1)

    def __init__(self, task, frame_size):
        self.drawn = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.drawn = seed
        held = seed % 3 == 0 or seed >= 100
        return np.zeros((2, 2, 3), np.uint8), {"instruction": "go", "is_success": held}

    def get_state(self):
        return {"drawn": self.drawn}


@pytest.fixture
def simulator():
    gymnasium.register("Counting-v0", lambda **given: Counting(**given), disable_env_checker=True)
    yield "Counting-v0"
    del gymnasium.registry["Counting-v0"]


def test_a_start_that_is_its_goal_is_drawn_again(simulator):
    made = make_start_states(range(1, 8), ("go",), simulator=simulator, frame_size=(2, 2))
    assert made.names == ("go-1", "go-2", "go-8", "go-4", "go-5", "go-10", "go-7")
    assert [state["drawn"] for state in made.states] == [1, 2, 8, 4, 5, 10, 7]


def test_a_simulator_that_begins_at_its_goals_is_refused(simulator):
    with pytest.raises(StartStateError, match=r"1000 starts of task 'go' in Counting-v0 held"):
        make_start_states(range(100, 102), ("go",), simulator=simulator, frame_size=(2, 2))
