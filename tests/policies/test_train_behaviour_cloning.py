from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.policies.numbered_episodes import SIDE, STEPS, write_episodes
from wm_gym.data.episodes import EpisodeDataset
from wm_gym.domains import LANGTABLE
from wm_gym.envs.sims.langtable.tasks import OBJECTS
from wm_gym.envs.sims.teachers import TEACHERS, langtable_places
from wm_gym.instructions import Goal
from wm_gym.policies import train_behaviour_cloning as module
from wm_gym.policies.base import load_policy
from wm_gym.policies.cloning_examples import CloningExamples
from wm_gym.policies.train_behaviour_cloning import (
    TrainBehaviourCloningConfig,
    augment,
    place_loss,
    train_behaviour_cloning,
)
from wm_gym.training.loop import LoopConfig

TEACHER = TEACHERS["LangTable-v0"]


@pytest.fixture
def data(tmp_path):
    return write_episodes(tmp_path / "data")


def config(data, out):
    loop = LoopConfig(steps=20, warmup_steps=1, save_every=2, log_every=5)
    return TrainBehaviourCloningConfig(
        data=(data,),
        out=out,
        look=(data,),
        domain="langtable",
        batch=4,
        look_batch=2,
        loop=loop,
        head_steps=10,
    )


def test_examples_never_slip_by_one(data, tmp_path):
    examples = CloningExamples(
        [EpisodeDataset(data)],
        TEACHER,
        LANGTABLE.action,
        tasks=("reach", "push"),
        behaviours=("expert", "noisy_expert"),
        chunk=4,
        cache=tmp_path / "labels.npz",
    )
    assert len(examples) == 6 * STEPS
    frames, goals, actions, positions = examples.batch(np.arange(len(examples)))
    for k, (number, index, state) in enumerate(examples.where):
        assert (frames[k] == 10 * state).all()
        assert goals[k] == Goal("reach", (OBJECTS[index % 8],))
        truth = EpisodeDataset(data)[index]
        np.testing.assert_allclose(
            positions[k], langtable_places(truth.privileged, truth.goal)[state]
        )
        if truth.behaviour == "expert":
            expected = [0.001 * (state + n + 1) / 0.03 for n in range(4)]
            known = min(4, STEPS - state)
            np.testing.assert_allclose(actions[k, :known, 0], expected[:known], rtol=1e-5)
            assert actions[k, known:].isnan().all()
        assert number == 0


def test_a_noisy_expert_is_relabelled_without_noise(data):
    noisy = EpisodeDataset(data)[0]
    labels = TEACHER.labels(noisy) / 0.03
    peg = noisy.privileged[:-1, :2]
    column = 2 + 3 * OBJECTS.index(noisy.goal.objects[0])
    way = noisy.privileged[:-1, column : column + 2] - peg
    assert labels.shape == (STEPS, 2)
    assert np.abs(labels).max() <= 1
    # whatever the way around other blocks, it does not lead away from the target
    assert ((labels * way).sum(axis=1) > -0.01).all()


def made(folders, cache, **settings):
    return CloningExamples(
        [EpisodeDataset(folder) for folder in folders], TEACHER, LANGTABLE.action, tasks=("reach",),
        behaviours=("expert", "noisy_expert"), chunk=1, cache=cache, **settings,
    )  # fmt: skip


def test_recorded_actions_are_imitated_as_they_are(data, tmp_path):
    examples = made([data], tmp_path / "labels.npz", labels="recorded")
    for (_, index), labels in examples.labels.items():
        np.testing.assert_allclose(labels, EpisodeDataset(data)[index].actions / 0.03, rtol=1e-6)
    clean = made([data], tmp_path / "labels.npz")
    noisy = (0, 0)
    assert not np.allclose(examples.labels[noisy], clean.labels[noisy])


def test_labels_are_kept_by_what_an_episode_holds(tmp_path):
    cache = tmp_path / "labels.npz"
    one, other = tmp_path / "one" / "episodes", tmp_path / "two" / "episodes"
    write_episodes(one)
    write_episodes(other, first=1)  # the same seeds, but another behaviour of each
    both = made([one, other], cache)
    for number, folder in enumerate((one, other)):
        for index, episode in enumerate(EpisodeDataset(folder)):
            np.testing.assert_allclose(
                both.labels[number, index], TEACHER.labels(episode) / 0.03, rtol=1e-5
            )
    asked = []

    class Asked(type(TEACHER)):
        def labels(self, episode):
            asked.append(episode)
            return super().labels(episode)

    again = CloningExamples(
        [EpisodeDataset(one)], Asked(**vars(TEACHER)), LANGTABLE.action, tasks=("reach",),
        behaviours=("expert", "noisy_expert"), chunk=1, cache=cache,
    )  # fmt: skip
    assert not asked
    np.testing.assert_array_equal(again.labels[0, 0], both.labels[0, 0])


def test_place_loss_is_least_at_the_truth():
    positions = torch.tensor([[[0.5, -0.25]]])
    side = 8
    x = (2 * torch.arange(side) + 1) / side - 1
    grid = torch.stack([x.repeat(side), (-x).repeat_interleave(side)], dim=1)

    def loss_at(place):
        logits = -((grid - torch.tensor(place)) ** 2).sum(1) * side**2 / 8
        return place_loss(logits[None, None], positions).item()

    best = loss_at([0.5, -0.25])
    assert best < loss_at([0.5, 0.25])
    assert best < loss_at([0.25, -0.25])


def test_augmentation_is_a_function_of_its_generator():
    frames = torch.randint(0, 256, (4, SIDE, SIDE, 3), dtype=torch.uint8)
    once, again = (augment(frames, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(once, again)
    assert once.min() >= 0
    assert once.max() <= 255


def test_an_interrupted_training_gives_the_same_policies(data, tmp_path, monkeypatch):
    whole = train_behaviour_cloning(config(data, tmp_path / "whole"))
    assert [p.name for p in whole] == [f"stage_{k}" for k in range(1, 7)]
    calls = []

    def killed(*args):
        calls.append(args)
        if len(calls) == 12:
            raise KeyboardInterrupt
        return augment(*args)

    monkeypatch.setattr(module, "augment", killed)
    with pytest.raises(KeyboardInterrupt):
        train_behaviour_cloning(config(data, tmp_path / "part"))
    parts = train_behaviour_cloning(config(data, tmp_path / "part"))
    assert len(calls) < 12 + 20  # it went on where it was
    assert [p.name for p in parts] == [p.name for p in whole]
    for one, other in zip(whole, parts, strict=True):
        first, second = load_policy(one).weights(), load_policy(other).weights()
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_data_without_such_episodes_is_named(data, tmp_path):
    with pytest.raises(ValueError, match=r"hold no episodes of tasks \('push',\)"):
        train_behaviour_cloning(replace(config(data, tmp_path / "out"), tasks=("push",)))
