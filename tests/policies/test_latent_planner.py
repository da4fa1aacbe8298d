"""A planner over imagined frames as a policy: seeds, equality with the planner, saving."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from wm_gym.instructions import InstructionError
from wm_gym.planning.cem import CEMConfig
from wm_gym.planning.gradient import GradientConfig
from wm_gym.planning.mppi import MPPIConfig
from wm_gym.planning.plan import ActionBox
from wm_gym.planning.planner import plan
from wm_gym.policies.base import Observation, PolicyError, load_policy, save_policy
from wm_gym.policies.latent_planner import LatentPlannerPolicy
from wm_gym.policies.proposals import plan_seed
from wm_gym.policies.random_policy import RandomPolicy
from wm_gym.world_model import load_world_model

CEM = CEMConfig(candidates=4, elites=2, iterations=1)
WORDS = ["reach the red moon", "push the blue cube to the green star"]


@pytest.fixture(scope="module")
def model(embedded_checkpoint: str):
    return load_world_model(embedded_checkpoint, denoising_steps=1)


def see(rows: list[int], step: int = 0) -> Observation:
    frames = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), np.uint8)[rows]
    return Observation(
        frames, tuple(WORDS[r] for r in rows), np.full(len(rows), step), np.array(rows)
    )


def begun(policy: LatentPlannerPolicy) -> LatentPlannerPolicy:
    policy.reset([0, 1], [7, 8], WORDS)
    return policy


def test_a_row_acts_the_same_whatever_its_neighbours_do(model):
    make = lambda: begun(LatentPlannerPolicy(model, CEM, horizon=3, execute=2))  # noqa: E731
    together, alone = make().act(see([0, 1], 4)), make().act(see([1], 4))
    assert together.shape == (2, 2, 2)
    assert together.dtype == np.float32
    assert np.abs(together).max() <= 0.03
    np.testing.assert_allclose(together[1], alone[0], atol=1e-6)
    assert np.abs(make().act(see([1], 5)) - alone).max() > 1e-4


def test_the_plan_is_what_the_reward_model_likes_in_frames_imagined_from_the_newest(model):
    policy = begun(LatentPlannerPolicy(model, CEM, horizon=3, execute=3, reduce="last"))
    observation = see([1], 6)
    seed = plan_seed(8, 6)
    goal = policy._goals[1]

    def by_hand(actions: torch.Tensor) -> torch.Tensor:
        values = []
        for candidate in actions[0]:
            dream = model.begin(torch.from_numpy(observation.frames), seeds=[seed])
            last = dream.step(candidate[None])[:, -1]
            values.append(-policy.reward.distance(last, [goal]))
        return torch.stack(values, 1)

    wanted = plan(by_hand, ActionBox.of(model.spec.action), 3, [seed], CEM)
    np.testing.assert_allclose(policy.act(observation)[0], wanted.actions[0], atol=1e-5)


def test_a_saved_planner_acts_the_same(model, tmp_path):
    policy = LatentPlannerPolicy(
        model, MPPIConfig(candidates=3, iterations=1), horizon=4, execute=2, score="success",
        reduce="last", micro_batch=2, bases=[RandomPolicy(model.spec.action)],
    )  # fmt: skip
    save_policy(policy, tmp_path / "policy")
    again = load_policy(tmp_path / "policy")
    assert isinstance(again, LatentPlannerPolicy)
    assert again.config() == policy.config()
    np.testing.assert_array_equal(begun(again).act(see([0, 1])), begun(policy).act(see([0, 1])))


def test_what_it_cannot_do_is_refused(model):
    with pytest.raises(ValueError, match="execute=9 must be 1 to horizon=8"):
        LatentPlannerPolicy(model, CEM, execute=9)
    with pytest.raises(ValueError, match="score='fun' one of"):
        LatentPlannerPolicy(model, CEM, score="fun")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="reduce='sum' must be one of"):
        LatentPlannerPolicy(model, CEM, reduce="sum")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="GradientConfig needs gradients"):
        LatentPlannerPolicy(model, GradientConfig())  # pyright: ignore[reportArgumentType]
    with pytest.raises(InstructionError, match="not understood"):
        LatentPlannerPolicy(model, CEM).reset([0], [0], ["juggle the red moon"])
    blind = load_world_model(str(model.folder))
    blind.spec = replace(blind.spec, reward=None)
    with pytest.raises(PolicyError, match="has no reward model"):
        LatentPlannerPolicy(blind, CEM)
