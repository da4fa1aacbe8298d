"""The fine-tuning example, end to end at tiny size."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from wm_gym.checkpoints import Checkpoint
from wm_gym.data.episodes import EpisodeDataset


@pytest.fixture(scope="module")
def example():
    path = Path(__file__).parents[2] / "examples" / "finetune_on_own_episodes.py"
    spec = importlib.util.spec_from_file_location("finetune_on_own_episodes", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def langtable_checkpoint(tiny_checkpoint, tmp_path: Path) -> str:
    """The tiny model under the action names of LangTable, whose episodes it goes on with."""
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "tiny")
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    card["action"]["names"] = ["dx", "dy"]
    (folder / "card.json").write_text(json.dumps(card), encoding="utf-8")
    return str(folder)


def test_a_tiny_model_is_fine_tuned_and_measured(example, langtable_checkpoint, tmp_path: Path):
    args = example.Args(
        checkpoint=langtable_checkpoint, out=tmp_path, episodes=6, held_out_episodes=3,
        episode_steps=8, train_steps=3, batch=2, horizons=(1, 4),
    )  # fmt: skip
    report = example.main(args)
    old = Checkpoint.open(Path(langtable_checkpoint))
    new = Checkpoint.open(Path(report["checkpoint"]))
    assert new.spec.name == "tiny-finetuned"
    assert not new.spec.embedded
    for name in ("latent.safetensors", "reward.safetensors"):
        for key, value in new.load(name).items():
            assert torch.equal(value, old.load(name)[key])
    moved = [
        not torch.equal(value, old.load("dynamics.safetensors")[key])
        for key, value in new.load("dynamics.safetensors").items()
    ]
    assert all(moved)
    scale = json.loads((tmp_path / "latents" / "normalisation.json").read_text(encoding="utf-8"))
    assert tuple(scale["mean"]) == pytest.approx(old.spec.latent.mean)
    assert report["before"].keys() == report["after"].keys() == {"horizon_1", "horizon_4"}
    assert report["before"]["horizon_4"]["psnr"] != report["after"]["horizon_4"]["psnr"]
    assert json.loads((tmp_path / "gain.json").read_text(encoding="utf-8"))["seeds"] == 0


@pytest.mark.parametrize(("now", "lost"), [(9.0, ["1"]), (11.0, []), (None, [])])
def test_a_loss_is_told(example, now, lost):
    before = {"horizon_1": {"changed_psnr": 10.0}, "horizon_5": {"changed_psnr": None}}
    after = {"horizon_1": {"changed_psnr": now}, "horizon_5": {"changed_psnr": 3.0}}
    assert example.horizons_lost(before, after) == lost


def test_a_model_that_got_worse_is_warned_of(example, tiny_checkpoint, tmp_path, monkeypatch):
    measured = iter([{"horizon_1": {"changed_psnr": value}} for value in (10.0, 9.0)])
    monkeypatch.setattr(example, "measure", lambda *_: next(measured))
    monkeypatch.setattr(example, "collect_episodes", lambda *_: (tmp_path, tmp_path))
    monkeypatch.setattr(example, "fine_tune", lambda *_: tmp_path)
    monkeypatch.setattr(example, "print_gain", lambda *_: None)
    with pytest.warns(
        UserWarning, match=r"worse than before at horizon 1: .*--train-steps"
    ) as told:
        example.main(example.Args(checkpoint=tiny_checkpoint, out=tmp_path))
    assert sum("worse than before" in str(warning.message) for warning in told) == 1


def test_the_small_setting_of_the_docstring_is_understood(example):
    import re
    import shlex

    import tyro

    lines = example.__doc__.replace("\\\n", " ").splitlines()
    commands = [line for line in lines if line.strip().startswith("python examples/")]
    assert len(commands) == 3
    small = shlex.split(re.sub(r"#.*", "", commands[-1]))[2:]
    args = tyro.cli(example.Args, args=small)
    assert args.train_steps == 20 and args.horizons == (1, 5, 10)


def test_the_table_holds_other_blocks(example):
    from wm_gym.envs.sims.langtable.tasks import OBJECTS

    env, behaviours = example.OwnRobot("ood", 0.5, "32x32", 5)()
    assert not set(env.unwrapped.objects) & set(OBJECTS)
    assert {"expert", "random"} <= behaviours.keys()
    env.close()


def test_own_episodes_need_held_out_ones(example, tiny_checkpoint, tmp_path: Path):
    with pytest.raises(SystemExit, match="belong together"):
        example.main(example.Args(checkpoint=tiny_checkpoint, data=tmp_path))


def test_own_recorded_videos_are_taken_as_they_are(example, tiny_checkpoint, tmp_path: Path):
    pytest.importorskip("av")
    from tests.data.recorded_data import write_mp4_npz

    folder = write_mp4_npz(tmp_path / "own")
    for path in folder.glob("*.npz"):
        arrays = dict(np.load(path))
        np.savez(path, **arrays | {"actions": arrays["actions"] * 1e-4})
    args = example.Args(
        checkpoint=tiny_checkpoint, out=tmp_path / "out", data=folder, held_out=folder,
        train_steps=2, batch=2, horizons=(1,), held_out_episodes=3,
    )  # fmt: skip
    report = example.main(args)
    assert report["after"]["horizon_1"]["clips"] == 3
    with pytest.raises(Exception, match="no finished dataset"):
        EpisodeDataset(folder)
