"""What a world model makes of recorded actions, and a success classifier that learns from it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.data.counter_env import CounterFactory
from tests.envs.test_goal_labels import bridge, write_folder  # noqa: F401 (a fixture)
from wm_gym.data.frames import resize
from wm_gym.data.open_dataset import open_dataset
from wm_gym.envs.collect import CollectConfig, collect
from wm_gym.envs.goal_labels import GoalLabelsConfig, label_goals
from wm_gym.envs.sims.bridge.tasks import TASKS
from wm_gym.judges.success_classifier import SuccessClassifier, SuccessClassifierConfig
from wm_gym.training import imagine_latents as recipe
from wm_gym.training.imagine_latents import ImagineLatentsConfig, imagine_latents
from wm_gym.training.labelled_latents import (
    LabelledLatents,
    measure_classifier,
    shared_thresholds,
)
from wm_gym.training.loop import LoopConfig
from wm_gym.training.reward import RewardConfig, train_reward


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("own") / "episodes"
    config = CollectConfig(
        out=out, env_id="counter", episodes=5, behaviours={"random": 1.0}, tasks=("count",),
        steps=6, shard_episodes=3, workers=1,
    )  # fmt: skip
    collect(config, CounterFactory(), progress=False)
    return out


def test_every_episode_is_imagined_from_its_first_frame_under_its_actions(
    episodes: Path, tiny_checkpoint: str, tiny_model, tmp_path: Path
):
    config = ImagineLatentsConfig(episodes, tiny_checkpoint, tmp_path / "out", episodes=4, rows=3)
    out = imagine_latents(config)
    numbers = json.loads((out / "source.json").read_text(encoding="utf-8"))["numbers"]
    assert len(numbers) == 4 and numbers == sorted(set(numbers))
    data = open_dataset(episodes)
    latents, bounds = np.load(out / "latents.npy"), np.load(out / "bounds.npy")
    scale = json.loads((out / "normalisation.json").read_text(encoding="utf-8"))
    normalised = (latents.astype(np.float32) - scale["mean"]) / scale["std"]
    privileged, actions = np.load(out / "privileged.npy"), np.load(out / "actions.npy")
    for k, e in enumerate(numbers):
        rows = slice(bounds[k], bounds[k + 1])
        assert bounds[k + 1] - bounds[k] == data.lengths[e] + 1
        frame = torch.from_numpy(resize(np.array(data.frames(e, slice(0, 1))), 32, 32).copy())
        expected = [tiny_model.encode(frame)]
        rollout = tiny_model.begin(frame, seeds=[e])  # seed 0 · 1 000 003 + e
        expected += [rollout.step(torch.from_numpy(a)[None]) for a in data.actions(e)]
        np.testing.assert_allclose(normalised[rows], torch.cat(expected).numpy(), atol=5e-3)
        np.testing.assert_array_equal(privileged[rows], data.labels(e)[0].astype(np.float32))
        np.testing.assert_array_equal(actions[rows][:-1], data.actions(e).astype(np.float32))
    facts = json.loads((out / "episodes.json").read_text(encoding="utf-8"))
    assert len(facts["goals"]) == 4


def test_what_is_there_is_kept_and_never_replaced(
    episodes: Path, tiny_checkpoint: str, tmp_path: Path, monkeypatch
):
    config = ImagineLatentsConfig(episodes, tiny_checkpoint, tmp_path / "out", episodes=2)
    imagine_latents(config)
    monkeypatch.setattr(recipe, "_imagine", lambda *a: pytest.fail("imagined again"))
    imagine_latents(config)
    with pytest.raises(ValueError, match="seed: 0 there, 1 now"):
        imagine_latents(replace(config, seed=1))
    with pytest.raises(ValueError, match="episodes=0, rows=32; expected at least 1"):
        replace(config, episodes=0)


def test_a_robot_with_other_actions_is_refused(
    episodes: Path, tiny_checkpoint: str, tiny_model, tmp_path: Path, monkeypatch
):
    class Wider(recipe.EpisodeDataset):
        def actions(self, index: int) -> np.ndarray:
            return np.zeros((6, 7), np.float32)

    monkeypatch.setattr(recipe, "EpisodeDataset", Wider)
    config = ImagineLatentsConfig(episodes, tiny_checkpoint, tmp_path / "out")
    with pytest.raises(ValueError, match="actions of 7 components, tiny takes 2"):
        imagine_latents(config)
    monkeypatch.undo()
    spec = tiny_model.spec
    skipping = replace(spec, action=replace(spec.action, frame_skip=2))
    loaded = SimpleNamespace(spec=skipping)
    monkeypatch.setattr(recipe, "load_world_model", lambda *args, **kwargs: loaded)
    with pytest.raises(ValueError, match="frame_skip=2"):
        imagine_latents(config)
    assert not (tmp_path / "out").exists()


def test_a_classifier_learns_that_what_dissolves_is_no_success(bridge, tmp_path: Path):  # noqa: F811
    states, tasks = bridge
    folder = write_folder(tmp_path / "latents", states, tasks)
    dream = write_folder(tmp_path / "dream", states, tasks)
    latents = np.load(dream / "latents.npy")
    latents[..., 1] = 3.0  # as no encoded frame is
    latents[..., 0] = 0.0  # and yet where success is
    np.save(dream / "latents.npy", latents)
    for one in (folder, dream):
        label_goals(GoalLabelsConfig(one))
    labels = dict(np.load(dream / "goal_labels.npz"))
    np.savez(dream / "goal_labels.npz", **labels | {"success": np.zeros_like(labels["success"])})
    loop = LoopConfig(steps=40, warmup_steps=1, ema=0.0, learning_rate=3e-3, log_every=1)
    config = RewardConfig(
        folder, folder, tmp_path / "alone", dim=16, depth=1, trunk_dim=24, trunk_depth=1,
        trunk_heads=2, batch=24, noise=0.0, position_weight=0.1, foreign_share=0.0, loop=loop,
    )  # fmt: skip
    both = replace(
        config, out=tmp_path / "both", imagined=dream, imagined_held_out=dream, imagined_share=0.25
    )
    found = {}
    imagined = LabelledLatents.read(dream, 0.02)
    rows = np.arange(len(states))
    columns = np.array([imagined.columns[task][0] for task in tasks])
    x, goals, _, _ = imagined.batch(rows, columns)
    for name, one in (("alone", config), ("both", both)):
        weights = train_reward(one)
        record = json.loads((one.out / "reward.json").read_text(encoding="utf-8"))
        network = SuccessClassifier(SuccessClassifierConfig(**record["network"])).eval()
        network.load_state_dict(load_file(weights))
        with torch.inference_mode():
            found[name] = network(x, goals)[0].sigmoid().mean().item()
    assert found["both"] < 0.15 < found["alone"]
    lines = (both.out / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert all(np.isfinite(json.loads(line)["position_error_mm_median"]) for line in lines)
    record = json.loads((both.out / "reward.json").read_text(encoding="utf-8"))
    assert record["imagined_held_out"] == {}  # no success there, so nothing to balance
    # what has both outcomes in one world only is decided there
    real = LabelledLatents.read(folder, 0.02)
    shared = shared_thresholds(network, [real, imagined], per_kind=50)
    assert shared == shared_thresholds(network, [real], per_kind=50) and set(shared) == set(
        TASKS[:3]
    )
    chosen = measure_classifier(network, real, 50, thresholds=shared)
    assert {task: row["threshold"] for task, row in chosen.items()} == shared
    assert {
        task: row["threshold"] for task, row in record["held_out"].items()
    }.keys() == shared.keys()
    further = replace(both, out=tmp_path / "further", init=weights, dim=32)
    with pytest.raises(ValueError, match=r"--init .* does not fit the classifier"):
        train_reward(further)


def test_imagined_latents_of_another_world_are_refused(bridge, tmp_path: Path):  # noqa: F811
    states, tasks = bridge
    folder, dream = (write_folder(tmp_path / name, states, tasks) for name in ("real", "dream"))
    for one in (folder, dream):
        label_goals(GoalLabelsConfig(one))
    (dream / "normalisation.json").write_text(
        '{"mean": [0.0, 0.0, 0.0], "std": [1, 1, 2.0]}', encoding="utf-8"
    )
    config = RewardConfig(folder, folder, tmp_path / "out", imagined=dream, foreign_share=0.0)
    with pytest.raises(ValueError, match=r"standard deviation of \[1\.0, 1\.0, 2\.0\], expected"):
        train_reward(config)
    with pytest.raises(ValueError, match=r"dream is normalised otherwise than .*real; encode it"):
        train_reward(replace(config, imagined=None, held_out=dream))
    with pytest.raises(ValueError, match=r"imagined_share=1\.0; expected a share between"):
        replace(config, imagined_share=1.0)
    with pytest.raises(ValueError, match="without imagined"):
        replace(config, imagined=None, imagined_held_out=dream)
