"""The comparison of latent spaces: windows, controls, recovery, and the command as a whole."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from safetensors.torch import save_file

from wm_gym.checkpoints import Checkpoint, save_checkpoint
from wm_gym.data.episodes import Episode, EpisodeDataset
from wm_gym.data.shards import write_index, write_shard
from wm_gym.envs.sims.langtable.env import LangTableEnv
from wm_gym.evaluation.latent_spaces.action_content import (
    ClipLatents,
    ReadActions,
    RecoveryConfig,
    latents_of_clips,
    read_clips,
    recover_actions,
)
from wm_gym.evaluation.latent_spaces.compare import (
    LatentSpacesConfig,
    Measured,
    compare_families,
    evaluate_latent_spaces,
    idms_of,
)
from wm_gym.evaluation.open_loop.clips import sample_clips
from wm_gym.instructions import Goal
from wm_gym.latents.vjepa_mini import VJEPAMini, VJEPAMiniConfig
from wm_gym.metrics.idm import TransformerIDM, TransformerIDMConfig
from wm_gym.metrics.statistics import resampled_interval
from wm_gym.spec import LatentSpec
from wm_gym.world_model import load_world_model

SIDE, STEPS = 32, 9


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> EpisodeDataset:
    """Episodes with LangTable's own states, and noise for frames: no GL platform is needed."""
    folder = tmp_path_factory.mktemp("episodes")
    rng = np.random.default_rng(0)
    env, episodes = LangTableEnv(obs="state"), []
    for seed in range(6):
        _, info = env.reset(seed=seed)
        actions = rng.uniform(-0.03, 0.03, (STEPS, 2)).astype(np.float32)
        states = [env.privileged_state()]
        for action in actions:
            env.step(action)
            states.append(env.privileged_state())
        frames = rng.integers(0, 256, (STEPS + 1, SIDE, SIDE, 3), np.uint8)
        goal = Goal(env.goal.task, tuple(env.goal.objects))
        success = np.zeros(STEPS + 1, bool)
        episodes.append(
            Episode(
                frames,
                actions,
                np.stack(states),
                success,
                info["instruction"],
                goal,
                seed,
                "random",
            )
        )
    write_shard(folder / "shards" / "000000.hdf5", episodes, 0)
    write_index(
        folder,
        observation_space=Box(0, 255, (SIDE, SIDE, 3), np.uint8),
        action_space=Box(-0.03, 0.03, (2,), np.float32),
        image_format="exact",
    )
    return EpisodeDataset(folder)


@pytest.fixture(scope="module")
def semantic(tiny_checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny world model with its latent space exchanged for a vjepa-mini of the same grid."""
    from wm_gym.dynamics.dit import DiT, DiTConfig
    from wm_gym.latents.pixel_decoder import PixelDecoder, PixelDecoderConfig

    folder = tmp_path_factory.mktemp("semantic") / "tiny-semantic"
    opened = Checkpoint.open(Path(tiny_checkpoint))
    torch.manual_seed(1)
    sizes = VJEPAMiniConfig(SIDE, SIDE, 8, dim=12, depth=1, heads=1)
    painter = PixelDecoderConfig(12, 4, (1, 1, 1, 1), 1)
    network = {**opened.spec.dynamics.network, "channels": 12}
    spec = replace(
        opened.spec,
        name="tiny-semantic",
        latent=LatentSpec(
            "vjepa-mini", (4, 4), 12, (0.0,) * 12, (1.0,) * 12,
            {**asdict(sizes), "pixel_decoder": asdict(painter)},
        ),
        dynamics=replace(opened.spec.dynamics, network=network),
        reward=None,
        weights_sha256={},
        data_sha256={},
    )  # fmt: skip
    dit = DiT(DiTConfig(**network))
    for parameter in dit.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    weights = {
        "latent.safetensors": VJEPAMini(sizes).state_dict(),
        "pixel_decoder.safetensors": PixelDecoder(painter).state_dict(),
        "dynamics.safetensors": dit.state_dict(),
    }
    save_checkpoint(folder, spec, weights)
    return folder


def write_idm(folder: Path, checkpoint: Path | str, k: int) -> Path:
    """A finished run of an untrained inverse dynamics model for a checkpoint's latents."""
    latent = Checkpoint.open(Path(checkpoint)).spec.latent
    config = TransformerIDMConfig(latent.channels, 4, 4, k, 2, 16, 1, 2)
    torch.manual_seed(k)
    folder.mkdir(parents=True)
    save_file(TransformerIDM(config).state_dict(), folder / "idm.safetensors")
    record = {
        "network": asdict(config),
        "normalisation": {"mean": latent.mean, "std": latent.std},
        "latents": {"space": latent.space},
    }
    (folder / "idm.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


def test_windows_read_the_action_between_their_frames(tiny_model):
    """An inverse dynamics model that knows the answer is right on every window."""

    class Knows(torch.nn.Module):
        cfg = TransformerIDMConfig(4, 4, 4, horizon=2, action_dim=2)

        def forward(self, latents):
            return latents[:, 1:, 0, 0, :2] - latents[:, :-1, 0, 0, :2]

    torch.manual_seed(0)
    actions = torch.rand(3, 6, 2) * 0.06 - 0.03
    moved = torch.cat([torch.zeros(3, 1, 2), (50 * actions).cumsum(1)], dim=1)  # the card's gain
    encoded = torch.zeros(3, 7, 4, 4, 4)
    encoded[..., :2] = moved[:, :, None, None]
    latents = ClipLatents(encoded, encoded, encoded.roll(1, 0), actions)
    read = read_clips(tiny_model, Knows(), latents, seed=0)  # pyright: ignore
    assert read.truth.shape == (3, 5, 2, 2)
    scores = read.scores()
    assert scores["encoder"]["pearson"] == pytest.approx(1.0, abs=1e-4)
    assert scores["generated_over_encoder"] == pytest.approx(1.0)
    for control in ("shuffled_actions", "random_latents"):
        assert abs(scores[control]["pearson"]) < 0.6
    low, high = scores["shuffled_actions"]["interval"]
    assert low <= scores["shuffled_actions"]["pearson"] <= high


def test_imagined_latents_are_those_of_a_rollout(tiny_model, data):
    clips = sample_clips(data, tiny_model.spec, 3, 4, seed=0)
    latents = latents_of_clips(tiny_model, clips, batch=2, seed=5)
    assert latents.encoded.shape == latents.imagined.shape == (3, 5, 4, 4, 4)
    torch.testing.assert_close(latents.imagined[:, 0], latents.encoded[:, 0])
    rollout = tiny_model.begin(
        torch.from_numpy(clips.frames[2:, :2]), torch.from_numpy(clips.actions[2:, :1]),
        seeds=[5 * 1_000_003 + 2],
    )  # fmt: skip
    for step in range(4):
        rollout.step(torch.from_numpy(clips.actions[2:, 1 + step]))
        torch.testing.assert_close(
            latents.imagined[2:, 1 + step], rollout.latents, atol=1e-4, rtol=1e-3
        )
    assert not torch.allclose(latents.imagined, latents.shuffled)


def test_the_search_finds_the_action_that_made_a_frame(tiny_model, data):
    """The target is the model's own next frame, so the recorded action makes it exactly."""
    clips = sample_clips(data, tiny_model.spec, 4, 4, seed=0)
    latents = latents_of_clips(tiny_model, clips, batch=4, seed=0)
    config = RecoveryConfig(candidates=48, elites=6, iterations=6)
    found = recover_actions(tiny_model, clips, range(4), latents.imagined[:, 1], config, seed=0)
    error = (found - latents.actions[:, 0]).abs().mean()
    assert error < 0.25 * latents.actions[:, 0].abs().mean()
    again = recover_actions(tiny_model, clips, range(2, 4), latents.imagined[2:, 1], config, seed=0)
    torch.testing.assert_close(again, found[2:], atol=1e-3, rtol=1e-2)


def test_each_model_gets_the_idms_of_its_own_latents(
    tiny_model, tiny_checkpoint, semantic, tmp_path
):
    folders = (
        write_idm(tmp_path / "a4", tiny_checkpoint, 4),
        write_idm(tmp_path / "a1", tiny_checkpoint, 1),
        write_idm(tmp_path / "b1", semantic, 1),
    )
    assert list(idms_of(tiny_model, folders)) == ["k_1", "k_4"]
    assert list(idms_of(load_world_model(semantic), folders)) == ["k_1"]
    with pytest.raises(
        ValueError,
        match=r"none of .* was trained on latents of the space and the normalisation of tiny",
    ):
        idms_of(tiny_model, folders[2:])
    with pytest.raises(ValueError, match="is the second inverse dynamics model k_1"):
        idms_of(tiny_model, (*folders, write_idm(tmp_path / "again", tiny_checkpoint, 1)))


def measured(family: str, quality: float) -> Measured:
    """Thirty clips whose generated latents keep this much of the action."""
    noise = torch.Generator().manual_seed(round(100 * quality))
    truth = torch.randn(30, 5, 1, 2, generator=torch.Generator().manual_seed(0))
    found = quality * truth + (1 - quality) * torch.randn(truth.shape, generator=noise)
    return Measured({"family": family}, {"k_1": ReadActions(truth, {"generated": found})})


@pytest.mark.parametrize(("quality", "verdict"), [(0.9, "yes"), (0.1, "no"), (0.49, "undecided")])
def test_the_question_is_answered_with_an_interval(quality: float, verdict: str):
    both = {"a": measured("reconstruction", 0.5), "b": measured("semantic", quality)}
    answer = compare_families(both)["k_1"]
    assert answer["semantic_latents_keep_actions_better"] == verdict
    low, high = answer["interval"]
    assert low < answer["semantic_minus_reconstruction"] < high
    assert compare_families({"a": both["a"]}) == {}


def test_resampling_rows_gives_the_spread_of_a_mean():
    values = np.random.default_rng(0).normal(size=400)
    interval = resampled_interval(lambda rows: float(values[rows].mean()), 400)
    assert interval.estimate == pytest.approx(values.mean())
    assert interval.high - interval.low == pytest.approx(2 * 1.96 / 20, rel=0.15)


def test_the_command_measures_both_models_and_writes_their_cards(
    tiny_checkpoint, semantic, data, tmp_path, capsys
):
    import shutil

    painted = tmp_path / "painted"
    shutil.copytree(tiny_checkpoint, painted)
    config = LatentSpacesConfig(
        (painted, semantic),
        (write_idm(tmp_path / "a", painted, 1), write_idm(tmp_path / "b", semantic, 1)),
        data.folder,
        horizons=(1, 4),
        clips=4,
        recovery=RecoveryConfig(transitions=2, candidates=8, elites=2, iterations=1),
        reward_episodes=4,
        out=tmp_path / "out",
        json=tmp_path / "report.json",
        write_card=True,
    )
    report = evaluate_latent_spaces(config)
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["models"].keys() == {
        "tiny",
        "tiny-semantic",
    }
    families = {name: model["family"] for name, model in report["models"].items()}
    assert families == {"tiny": "reconstruction", "tiny-semantic": "semantic"}
    assert set(report["families"]) == {"k_1"}
    assert "reward_model" not in report["models"]["tiny-semantic"]
    for folder in (painted, semantic):
        entry = Checkpoint.open(folder).spec.metrics["latent_space"]
        assert set(entry["idm"]["k_1"]) >= {"encoder", "generated", "random_latents"}
        assert entry["action_recovery"]["transitions"] == 2
        figures = entry["features"]
        assert 1 <= figures["feature_rank"] <= figures["channels"] and figures["feature_std"] > 0
    assert (tmp_path / "out" / "latent_spaces.png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    assert "gap closed @4" in printed and "feature rank" in printed
    assert "do semantic latents keep actions better here?" in printed
