"""Agents of Stable-Baselines3 as policies: saved, loaded, and refused where they do not fit."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, DDPG, PPO, SAC, TD3
from stable_baselines3.common.vec_env import VecFrameStack, VecMonitor, VecNormalize

import wm_gym
from tests.conftest import write_tiny_checkpoint
from wm_gym.policies.base import Observation, PolicyError, load_policy, save_policy
from wm_gym.policies.named import open_policy, policy_file
from wm_gym.policies.runner import run_policy
from wm_gym.policies.sb3.agent_zip import description_file, load_agent, save_agent
from wm_gym.policies.sb3.features import LatentGridExtractor
from wm_gym.policies.sb3.policy import SB3Policy
from wm_gym.policies.sb3.positions import ReadPositions
from wm_gym.policies.sb3.vec_env import ImaginedVecEnv

GOAL = {"instruction": "reach the red moon"}
GRID = {
    "features_extractor_class": LatentGridExtractor,
    "features_extractor_kwargs": {"channels": 8},
}
ALGORITHMS = {"PPO": PPO, "A2C": A2C, "SAC": SAC, "TD3": TD3, "DDPG": DDPG}


def bridge(checkpoint: str, obs: str = "latents", rows: int = 2) -> ImaginedVecEnv:
    envs = gym.make_vec(
        "WM-LangTable-VAE-v0", num_envs=rows, checkpoint=checkpoint, obs=obs, reward="distance",
        horizon=5, autoreset_mode="Disabled",
    )  # fmt: skip
    return ImaginedVecEnv(envs, options=GOAL)


def seen(size: int = 32, rows: int = 3) -> Observation:
    frames = np.random.default_rng(0).integers(0, 256, (rows, size, size, 3), np.uint8)
    words = ("reach the red moon", "push the red moon to the blue cube", "reach the blue moon")
    return Observation(frames, words[:rows], np.array([0, 2, 9])[:rows], np.arange(rows))


@pytest.fixture(scope="module")
def ppo(tiny_checkpoint) -> PPO:
    return PPO("MlpPolicy", bridge(tiny_checkpoint), policy_kwargs=dict(GRID), seed=0, device="cpu")


@pytest.mark.parametrize("name", ALGORITHMS)
def test_saved_and_loaded_agents_act_the_same(tiny_checkpoint, tmp_path, name):
    buffer = {"buffer_size": 10} if name in ("SAC", "TD3", "DDPG") else {}
    agent = ALGORITHMS[name](
        "MlpPolicy",
        bridge(tiny_checkpoint),
        policy_kwargs=dict(GRID),
        seed=0,
        device="cpu",
        **buffer,
    )
    policy = SB3Policy.from_agent(agent)
    actions = policy.act(seen())
    assert actions.shape == (3, 1, 2) and np.abs(actions).max() <= 0.03 + 1e-6
    assert len(np.unique(actions[:, 0], axis=0)) == 3
    np.testing.assert_array_equal(
        load_policy(save_policy(policy, tmp_path / "a")).act(seen()), actions
    )
    save_agent(agent, tmp_path / "agent.zip")
    np.testing.assert_array_equal(load_agent(tmp_path / "agent.zip").act(seen()), actions)
    stored = set(policy.weights())
    assert any("actor" in key or "action_net" in key for key in stored)
    assert not any(key.startswith(("critic", "actor_target", "value_net")) for key in stored)


@pytest.mark.parametrize(("name", "obs"), [("PPO", "pixels"), ("PPO", "dict"), ("SAC", "dict")])
def test_agents_that_see_pixels_come_back(embedded_checkpoint, tmp_path, name, obs):
    kind = "MultiInputPolicy" if obs == "dict" else "CnnPolicy"
    buffer = {"buffer_size": 4} if name == "SAC" else {}
    agent = ALGORITHMS[name](kind, bridge("embedded", obs), seed=0, device="cpu", **buffer)
    policy = SB3Policy.from_agent(agent)
    actions = policy.act(seen(96))
    loaded = load_policy(save_policy(policy, tmp_path))
    np.testing.assert_array_equal(loaded.act(seen(96)), actions)
    assert policy.config()["view"]["checkpoint"] == "embedded"
    if obs == "dict":  # goal and time left matter: the same picture with others
        frame, rows = seen(96).frames[:1], np.arange(1)
        one = [
            policy.act(Observation(frame, (words,), np.array([step]), rows))
            for words, step in (
                (GOAL["instruction"], 0),
                (GOAL["instruction"], 4),
                ("reach the blue cube", 0),
            )
        ]
        assert len(np.unique(np.stack(one).reshape(3, 2), axis=0)) == 3


def test_a_policy_sees_in_pictures_what_the_agent_saw(tiny_checkpoint):
    """From a start's picture the policy acts as the agent does on the environment's latents."""
    envs = bridge(tiny_checkpoint)
    agent = PPO("MlpPolicy", envs, policy_kwargs=dict(GRID), seed=0, device="cpu")
    envs.seed(0)
    latents = envs.reset()
    frames = np.stack(envs.get_images())
    observation = Observation(frames, (GOAL["instruction"],) * 2, np.zeros(2), np.arange(2))
    wanted = agent.predict(latents, deterministic=True)[0] * 0.03
    np.testing.assert_allclose(
        SB3Policy.from_agent(agent).act(observation)[:, 0], wanted, atol=1e-6
    )


def test_positions_are_what_the_reward_model_reads(tiny_checkpoint, tmp_path):
    envs = ReadPositions(VecMonitor(bridge(tiny_checkpoint)))
    agent = PPO("MlpPolicy", envs, seed=0, n_steps=4, batch_size=4, n_epochs=1, device="cpu")
    envs.seed(0)
    first = envs.reset()
    assert first.shape == (2, 18)
    engine = envs.unwrapped.imagined.engine
    latents = torch.from_numpy(engine.latents())
    expected = engine.reward.model.network.positions(latents).detach().flatten(1) / 0.1
    np.testing.assert_allclose(first, expected, rtol=1e-5, atol=1e-6)
    for _ in range(5):
        observations, _, dones, infos = envs.step(np.full((2, 2), 0.5))
    assert dones.all() and infos[0]["terminal_observation"].shape == (18,)
    assert not np.allclose(infos[0]["terminal_observation"], observations[0])
    agent.learn(8)
    policy = SB3Policy.from_agent(agent)
    assert policy.view.config.obs == "positions"
    frames = np.stack(envs.unwrapped.get_images())
    observation = Observation(frames, (GOAL["instruction"],) * 2, np.zeros(2), np.arange(2))
    loaded = load_policy(save_policy(policy, tmp_path))
    np.testing.assert_array_equal(loaded.act(observation), policy.act(observation))
    with pytest.raises(ValueError, match="expected 'latents'"):
        ReadPositions(bridge(tiny_checkpoint, "dict"))


def test_a_trained_agent_runs_in_dream_and_twin(ppo, tiny_checkpoint, tmp_path):
    pytest.importorskip("mujoco")
    dream = gym.make_vec(
        "WM-LangTable-VAE-v0", num_envs=2, checkpoint=tiny_checkpoint, autoreset_mode="Disabled"
    )
    policy = load_policy(save_policy(SB3Policy.from_agent(ppo), tmp_path))
    starts = ["reach-0", "reach-1"]
    for env in (dream, wm_gym.make_twin(dream)):
        records = run_policy(env, policy, starts, [0, 1], max_steps=3, progress=False)
        assert [(record.steps, record.error) for record in records] == [(3, None)] * 2


def test_a_nan_ends_only_its_own_episode(ppo, tiny_checkpoint):
    policy = SB3Policy.from_agent(ppo)
    whole = policy.network.predict

    def broken(observation, deterministic):
        actions, state = whole(observation, deterministic=deterministic)
        actions[0] = np.nan
        return actions, state

    dream = gym.make_vec(
        "WM-LangTable-VAE-v0", num_envs=2, checkpoint=tiny_checkpoint, autoreset_mode="Disabled"
    )
    policy.network.predict = broken  # pyright: ignore
    try:
        records = run_policy(dream, policy, ["reach-0", "reach-1"], [0, 1], 1, progress=False)
    finally:
        del policy.network.predict
    assert "NaN" in str(records[0].error) and records[1].error is None


def test_another_world_model_is_refused(ppo, tmp_path):
    folder = save_policy(SB3Policy.from_agent(ppo), tmp_path / "policy")
    write_tiny_checkpoint(tmp_path / "other", seed=1)
    content = json.loads((folder / "policy.json").read_text(encoding="utf-8"))
    content["config"]["view"]["checkpoint"] = str(tmp_path / "other")
    (folder / "policy.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(PolicyError, match="does not show what the agent was trained on"):
        load_policy(folder)
    content["config"]["view"]["checkpoint"] = str(tmp_path / "nowhere")
    (folder / "policy.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(Exception, match="names no folder with a card"):
        load_policy(folder)


def test_other_dynamics_over_the_same_latents_are_the_same_view(tiny_checkpoint):
    from dataclasses import replace

    from wm_gym.checkpoints import Checkpoint
    from wm_gym.policies.sb3.view import fingerprint

    spec = Checkpoint.open(Path(tiny_checkpoint)).spec

    def changed(name: str):
        return replace(spec, weights_sha256=spec.weights_sha256 | {name: "0" * 64})

    for obs, same in (("latents", True), ("positions", False)):
        assert fingerprint(changed("dynamics.safetensors"), obs) == fingerprint(spec, obs)
        assert (fingerprint(changed("reward.safetensors"), obs) == fingerprint(spec, obs)) is same
        assert fingerprint(changed("latent.safetensors"), obs) != fingerprint(spec, obs)


def test_another_action_language_is_refused(ppo, tmp_path):
    folder = save_policy(SB3Policy.from_agent(ppo), tmp_path)
    content = json.loads((folder / "policy.json").read_text(encoding="utf-8"))
    content["action_spec"]["high"] = [0.05, 0.05]
    (folder / "policy.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(PolicyError, match="name the checkpoint that it was trained with"):
        load_policy(folder)


def test_a_zip_alone_is_refused(ppo, tmp_path):
    path = save_agent(ppo, tmp_path / "agent.zip")
    assert policy_file(str(path)) == path
    assert open_policy(str(path), None).kind == "sb3"
    description_file(path).unlink()
    with pytest.raises(
        PolicyError, match=r"pickled form only, which wm_gym never reads.*save_agent"
    ):
        open_policy(str(path), None)


def test_a_zip_of_another_agent_is_refused(ppo, tmp_path):
    path = save_agent(ppo, tmp_path / "agent.zip")
    agent = PPO("MlpPolicy", ppo.get_env(), policy_kwargs=dict(GRID), seed=1, device="cpu")
    agent.save(path)
    with pytest.raises(PolicyError, match=r"is not the agent that agent\.zip\.json describes"):
        load_agent(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(PolicyError, match="cannot be read as an agent"):
        load_agent(path)


class Trap:
    """What its pickle does when it is read."""

    sprung = False

    def __reduce__(self):
        return (setattr, (Trap, "sprung", True))


def test_nothing_is_unpickled(ppo, tmp_path):
    """Neither the pickles in SB3's own `data` nor one in place of the weights ever run."""
    import base64
    import hashlib

    path = save_agent(ppo, tmp_path / "agent.zip")
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    data = json.loads(members["data"])
    trap = base64.b64encode(pickle.dumps(Trap())).decode()
    for value in data.values():
        if isinstance(value, dict) and ":serialized:" in value:
            value[":serialized:"] = trap
    members["data"] = json.dumps(data).encode()

    def write():
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)

    write()
    assert load_agent(path).act(seen()).shape == (3, 1, 2)
    for content in ({"weights": Trap()}, [torch.zeros(1)], {"weights": 1}, {1: torch.zeros(1)}):
        torch.save(content, tmp_path / "other.pth")
        members["policy.pth"] = (tmp_path / "other.pth").read_bytes()
        write()
        described = json.loads(description_file(path).read_text(encoding="utf-8"))
        described["weights_sha256"] = hashlib.sha256(members["policy.pth"]).hexdigest()
        description_file(path).write_text(json.dumps(described), encoding="utf-8")
        with pytest.raises(PolicyError, match="holds something else than tensors"):
            load_agent(path)
    assert not Trap.sprung


def test_a_damaged_description_or_archive_is_refused(ppo, tmp_path):
    path = save_agent(ppo, tmp_path / "agent.zip")
    described = json.loads(description_file(path).read_text(encoding="utf-8"))
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for content, message in (
        ([described], "no readable agent.zip.json"),
        (described | {"config": {}}, "names no known algorithm"),
        (described | {"config": {"network": {"algorithm": "DQN"}}}, "names no known algorithm"),
    ):
        description_file(path).write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(PolicyError, match=message):
            load_agent(path)
    description_file(path).write_text(json.dumps(described), encoding="utf-8")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        at = archive.getinfo("policy.pth").header_offset + 100
    damaged = bytearray(path.read_bytes())
    damaged[at : at + 200] = b"\xff" * 200
    path.write_bytes(damaged)
    with pytest.raises(PolicyError, match="cannot be read as an agent"):
        load_agent(path)


def test_what_could_not_be_loaded_again_is_refused(tiny_checkpoint, tmp_path):
    def agent(envs, **kwargs):
        return PPO("MlpPolicy", envs, seed=0, device="cpu", **kwargs)

    class OwnExtractor(LatentGridExtractor):
        pass

    envs = bridge(tiny_checkpoint)
    cases = [
        (agent(VecNormalize(envs)), "through VecNormalize, which changes"),
        (agent(VecFrameStack(envs, 2)), "through VecFrameStack, which changes"),
        (agent(envs, use_sde=True), "use_sde=True are not supported"),
        (agent(gym.make("Pendulum-v1")), "expected an ImaginedVecEnv"),
        (agent(envs, policy_kwargs={"features_extractor_class": OwnExtractor}), "OwnExtractor is"),
        (agent(envs, policy_kwargs={"activation_fn": torch.nn.Softplus}), "Softplus is not known"),
    ]
    for made, message in cases:
        with pytest.raises(PolicyError, match=message):
            save_agent(made, tmp_path / "agent.zip")
    assert not list(tmp_path.iterdir())
    save_agent(agent(VecNormalize(envs, norm_obs=False)), tmp_path / "agent.zip")


def test_the_extractor_finds_where_a_channel_is_strong():
    space = gym.spaces.Box(-np.inf, np.inf, (4, 6, 2), np.float32)
    extractor = LatentGridExtractor(space, features_dim=5, channels=3)
    latents = torch.zeros(1, 4, 6, 2)
    assert extractor(latents).shape == (1, 5)
    with torch.no_grad():
        for layer in (extractor.first, extractor.second):
            layer.weight.zero_()
            layer.bias.zero_()
        extractor.first.weight[0, 1, 1, 1] = extractor.second.weight[2, 0, 1, 1] = 1.0
        extractor.sharpness.fill_(5.0)
        latents[0, 3, 0, 1] = 3.0  # lower left
        kept = []
        extractor.out.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
        extractor(latents)
    torch.testing.assert_close(kept[0][0, 4:6], torch.tensor([-5 / 6, -3 / 4]))
    torch.testing.assert_close(kept[0][0, :4], torch.zeros(4))
    with pytest.raises(ValueError, match="obs='latents'"):
        LatentGridExtractor(gym.spaces.Box(0, 255, (4, 6, 3), np.uint8))
