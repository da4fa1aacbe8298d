"""Every example runs at the small setting that its docstring gives."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import imageio.v3 as imageio
import numpy as np
import pytest
import tyro

EXAMPLES = Path(__file__).parents[2] / "examples"
HERE = (
    "compare_real_and_imagined",
    "evaluate_policy",
    "improve_base_policy",
    "openvla_in_the_loop",
    "plan_with_mppi",
    "record_rollout",
)


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def commands(module: ModuleType) -> list[list[str]]:
    lines = (module.__doc__ or "").replace("\\\n", " ").splitlines()
    lines = [line for line in lines if line.strip().startswith("python examples/")]
    return [shlex.split(re.sub(r"#.*", "", line))[2:] for line in lines]


@pytest.mark.parametrize("name", HERE)
def test_the_commands_of_the_docstring_are_understood(name):
    module = load(name)
    found = commands(module)
    assert len(found) >= 3
    assert all(isinstance(tyro.cli(module.Args, args=words), module.Args) for words in found)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("evaluate_policy", "starts"),
        ("evaluate_policy", "shown"),
        ("compare_real_and_imagined", "shown"),
        ("improve_base_policy", "starts"),
        ("plan_with_mppi", "starts"),
    ],
)
def test_nothing_to_show_is_refused_before_anything_runs(name, field):
    with pytest.raises(ValueError, match=f"{field}=0.*expected at least 1"):
        load(name).Args(**{field: 0})


def test_every_small_setting_has_a_folder_of_its_own():
    sources = [path.read_text(encoding="utf-8") for path in EXAMPLES.glob("*.py")]
    folders = [re.findall(r"--out (outputs/\w+_small)", source) for source in sources]
    assert [len(found) for found in folders] == [1] * len(sources)
    assert len({found[0] for found in folders}) == len(sources), "one refuses another's folder"


@pytest.mark.parametrize("name", HERE)
def test_it_runs_and_ends_in_a_video_and_a_picture(name, embedded_checkpoint, tmp_path):
    module = load(name)
    words = commands(module)[-1]
    words[words.index("--out") + 1] = str(tmp_path)
    args = tyro.cli(module.Args, args=words)
    module.main(args)
    if name != "record_rollout":  # which keeps no records
        longer = dataclasses.replace(args, max_steps=args.max_steps + 1)
        with pytest.raises(ValueError, match=r"holds a run with other settings .*max_steps"):
            module.main(longer)
    picture = imageio.imread(tmp_path / f"{name}.png")
    assert picture.ndim == 3 and picture.std() > 10
    frames = imageio.imread(tmp_path / f"{name}.mp4")
    assert len(frames) >= 4 and frames[0].std() > 10
    assert list(tmp_path.glob("events.out.tfevents.*"))
    if name == "openvla_in_the_loop":
        labels = {"in_distribution", "distractors"}  # a task of Bridge brings its own things
        assert {path.stem for path in tmp_path.glob("*.jsonl")} == labels


def test_an_evaluation_goes_on_where_it_stopped(embedded_checkpoint, tmp_path):
    module = load("evaluate_policy")
    args = module.Args(starts=2, max_steps=3, rows=2, shown=1, out=tmp_path)
    first = module.main(args)
    before = {p.name: p.read_text(encoding="utf-8") for p in tmp_path.glob("*.jsonl")}
    assert set(before) == {"imagined.jsonl", "simulator.jsonl"}
    assert module.main(args) == first
    assert {p.name: p.read_text(encoding="utf-8") for p in tmp_path.glob("*.jsonl")} == before
    rows = [json.loads(line) for line in before["imagined.jsonl"].splitlines()]
    assert [row["start"] for row in rows] == ["reach-6500", "reach-6501"]
    other = dataclasses.replace(args, policy="wm_gym.policies.random_policy:RandomPolicy")
    with pytest.raises(ValueError, match=r"holds a run with other settings .*policy: "):
        module.main(other)
    assert {p.name: p.read_text(encoding="utf-8") for p in tmp_path.glob("*.jsonl")} == before


def test_own_frames_and_actions(embedded_checkpoint, tmp_path):
    module = load("record_rollout")
    picture = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    imageio.imwrite(tmp_path / "table.png", picture)
    np.save(tmp_path / "actions.npy", np.zeros((3, 2)))
    args = module.Args(
        frame=tmp_path / "table.png", actions=tmp_path / "actions.npy", seeds=1,
        denoising_steps=1, out=tmp_path,
    )  # fmt: skip
    video, _ = module.main(args)
    assert len(imageio.imread(video)) == 4
    np.save(tmp_path / "actions.npy", np.zeros((3, 7)))
    with pytest.raises(SystemExit, match=r"has shape \(3, 7\), expected \(T, 2\): dx, dy in m, m"):
        module.main(args)


def test_a_base_policy_that_remembers_frames_gets_them_in_every_copy():
    from wm_gym.domains import LANGTABLE
    from wm_gym.policies.random_policy import RandomPolicy

    base = RandomPolicy(LANGTABLE.action)
    base.frame_history = 2
    assert load("improve_base_policy").OtherSeed(base, 3).frame_history == 2


def test_distractors_are_added_to_the_picture_and_change_nothing_else(embedded_checkpoint):
    from wm_gym.checkpoints import Checkpoint, assets_folder
    from wm_gym.envs.start_states import StartStates

    folder = assets_folder() / "bridge-vjepa-mini"
    card, module = Checkpoint.open(folder).spec, load("openvla_in_the_loop")
    stored, start = StartStates.read(folder / "start_states.npz"), "carrot_on_plate-6500"
    usual, crowded = (
        module.with_distractors(module.Args(distractors=which), card, start)
        for which in ("none", "all")
    )
    np.testing.assert_array_equal(usual["frames"], stored.frames[stored.index(start)])
    assert crowded["instruction"] == usual["instruction"] == "put the carrot on the plate"
    changed = np.abs(crowded["frames"].astype(int) - usual["frames"]).max(-1) > 20
    assert 0.02 < changed.mean() < 0.3
