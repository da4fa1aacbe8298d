"""The recipe scripts: every command they give exists with these options, and they fit together."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import stat
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import gymnasium
import pytest
import tyro

from wm_gym.checkpoints import Checkpoint, assets_folder
from wm_gym.cli import command_name, main, parse_command
from wm_gym.policies.base import load_policy
from wm_gym.policies.idql.policy import IDQLPolicy

RECIPES = Path(__file__).parents[1] / "benchmarks" / "recipes"
RECORDER = """#!/usr/bin/env bash
printf '%s\\0' "$@" $'\\n' >> "$COMMANDS_FILE"  # at once: recipes run commands side by side
"""


def commands_of(
    recipe: str, folder: Path, *arguments: str, trial: bool, start: str = ""
) -> list[list[str]]:
    """The words after `wm-gym` of every command that a script calls, in order.

    Args:
        recipe: the script.
        folder: to work in.
        arguments: of the script.
        trial: its smallest size.
        start: folder of the models that it goes on from, if any.
    """
    folder.mkdir(exist_ok=True)
    recorder = folder / "wm-gym"
    recorder.write_text(RECORDER, encoding="utf-8")
    recorder.chmod(recorder.stat().st_mode | stat.S_IXUSR)
    written = folder / "commands"
    written.unlink(missing_ok=True)
    environment = {
        **os.environ,
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "COMMANDS_FILE": str(written),
        "TRIAL": "1" if trial else "",
        "FROM": start,
        "BAD": "",
        "PYTHON": str(recorder),  # scripts are recorded like commands
        **dict.fromkeys(("LOOK", "EPISODES", "CLONED", "POLICY", "HELD_OUT"), ""),
    }
    command = ["bash", str(RECIPES / recipe), *arguments]
    # nothing is made, so a script that copies results in its last lines ends with an error
    subprocess.run(command, env=environment, capture_output=True, check=False)
    recorded = written.read_text(encoding="utf-8").split("\n\0")[:-1]
    return [words.split("\0")[:-1] for words in recorded]


def parse_script(words: list[str]) -> None:
    """Read the options of an example or a benchmark, as the script itself would."""
    path = Path(words[0])
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their annotations up there
    spec.loader.exec_module(module)
    configs = {"train_in_imagination": "Args", "save_planner": "SavePlannerConfig"}
    config_class = getattr(module, configs.get(path.stem, "ImprovementConfig"))
    assert isinstance(tyro.cli(config_class, args=words[1:]), config_class)


def named_in(text: str) -> set[str]:
    """Commands that a script writes out, without those it names in comments or keeps in arrays."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith(("#", "echo"))]
    words = re.findall(r"wm-gym ([a-z][a-z-]+(?: [a-z][a-z-]+)?)", "\n".join(lines))
    scripts = re.findall(r'"\$python" "\$here/([\w/]+\.py)"', text)
    known = {name for found in words if (name := command_name(found.split())) is not None}
    return known | {Path(path).name for path in scripts}


@pytest.mark.parametrize("trial", [False, True])
@pytest.mark.parametrize("recipe", sorted(path.name for path in RECIPES.glob("*.sh")))
def test_every_command_of_a_recipe_is_reached_and_understood(recipe, trial, tmp_path):
    reached = set()
    for words in commands_of(recipe, tmp_path, str(tmp_path / "run"), trial=trial):
        if words[0].endswith(".py"):
            parse_script(words)
            reached.add(Path(words[0]).name)
        else:
            assert parse_command(words) is not None
            reached.add(command_name(words))
    assert reached >= named_in((RECIPES / recipe).read_text(encoding="utf-8")) != set()


def test_the_policies_that_ship_were_trained_with_the_recipes_settings(tmp_path):
    *_, words = commands_of("langtable-bc.sh", tmp_path, str(tmp_path / "run"), trial=False)
    assert words[:2] == ["train", "behaviour-cloning"]
    asked = json.loads(json.dumps(asdict(parse_command(words)), default=str))
    paths = {"data", "out", "look"}
    shipped = sorted((assets_folder() / "langtable-bc").glob("stage_*/policy.json"))
    assert len(shipped) == len(asked["stages"]) == 4
    for stage, path in zip(asked["stages"], shipped, strict=True):
        training = json.loads(path.read_text(encoding="utf-8"))["training"]
        # the second phase came later; these policies were saved before it began
        known = {k for k in training["settings"] if k not in paths and not k.startswith("head")}
        for key in known - {"loop"}:
            assert training["settings"][key] == asked[key], key
        stored = training["settings"]["loop"]
        assert {k: asked["loop"][k] for k in stored} == stored
        assert training["step"] == round(stage * asked["loop"]["steps"])
        assert training.get("head_step", 0) == asked["head_steps"] == 0


@pytest.mark.slow
@pytest.mark.usefixtures("gl")
def test_the_behaviour_cloning_recipe_fits_together(tmp_path):
    run = tmp_path / "run"
    for words in commands_of("langtable-bc.sh", tmp_path, str(run), trial=True):
        assert main(words) == 0, words
    stages = sorted(path.parent for path in (run / "policy").glob("stage_*/policy.json"))
    assert [stage.name for stage in stages] == [f"stage_{k}" for k in (1, 2, 3, 4)]
    assert all(load_policy(stage).kind == "behaviour-cloning" for stage in stages)


@pytest.mark.slow
@pytest.mark.usefixtures("gl")
@pytest.mark.parametrize("domain", ["langtable", "bridge"])
def test_the_diffusion_policy_recipes_fit_together(domain, tmp_path):
    run = tmp_path / "run"
    for words in commands_of(f"{domain}-diffusion-policy.sh", tmp_path, str(run), trial=True):
        assert main(words) == 0, words
    stages = sorted(path.parent for path in (run / "policy").glob("stage_*/policy.json"))
    assert [stage.name for stage in stages] == [f"stage_{k}" for k in (1, 2, 3, 4)]
    assert all(load_policy(stage).kind == "diffusion-policy" for stage in stages)


@pytest.mark.slow
@pytest.mark.usefixtures("gl")
def test_the_idql_recipe_fits_together(tmp_path):
    run = tmp_path / "run"
    for words in commands_of("langtable-idql.sh", tmp_path, str(run), trial=True):
        assert main(words) == 0, words
    policy = load_policy(run / "critics" / "stage_1")
    assert isinstance(policy, IDQLPolicy) and policy.samples == 2
    training = json.loads((run / "critics/stage_1/policy.json").read_text(encoding="utf-8"))[
        "training"
    ]
    folders = [str(run / "look"), str(run / "episodes")]
    assert training["settings"]["data"] == folders  # any quality, and the expert's
    report = json.loads(
        (run / "comparison/imagined_vs_real_langtable.json").read_text(encoding="utf-8")
    )
    assert [entry["name"] for entry in report["policies"]] == ["stage_4", "stage_1"]


@pytest.mark.slow
@pytest.mark.usefixtures("gl")
def test_the_world_model_recipe_fits_together(tmp_path):
    run = tmp_path / "run"
    for words in commands_of("langtable-vae-mini.sh", tmp_path, str(run), trial=True):
        assert main(words) == 0, words
    card = Checkpoint.open(run / "checkpoint").spec
    assert card.dynamics.denoising_steps == 2
    assert set(card.data_sha256) == {"start_states.npz", "demo_clips.npz"}
    assert set(card.metrics) >= {"open_loop", "reward_model"}
    report = json.loads(
        (run / "comparison/imagined_vs_real_langtable.json").read_text(encoding="utf-8")
    )
    bad = report["bad_world_model"]["world_model"]
    assert bad["name"] == "langtable-vae-mini-early"
    weights = [world["weights_sha256"] for world in (report["world_model"], bad)]
    assert {k for k in weights[0] if weights[0][k] != weights[1][k]} == {"dynamics.safetensors"}
    assert len(report["policies"]) == 4
    env = gymnasium.make("WM-LangTable-VAE-v0", checkpoint=str(run / "checkpoint"), horizon=2)
    frame, _ = env.reset(seed=0, options={"start": "push-6501"})
    assert frame.shape == (96, 96, 3)
    env.step(env.action_space.sample())


@pytest.mark.slow
@pytest.mark.usefixtures("gl")
def test_the_recipe_of_whole_blocks_fits_together(tmp_path):
    run = tmp_path / "run"
    for words in commands_of("langtable-whole-blocks.sh", tmp_path, str(run), trial=True):
        assert main(words) == 0, words
    card = Checkpoint.open(run / "checkpoint").spec
    assert card.latent.grid == (12, 12) and card.latent.config["same_everywhere"]
    assert card.dynamics.network["neighbourhood"] == 2
    assert card.dynamics.unchanged_threshold == 0.2
    assert set(card.metrics) >= {"open_loop", "steadiness"}
    whole = card.metrics["open_loop"]["whole_blocks"]["horizon_2"]
    assert whole["touched"]["blocks"] + whole["untouched"]["blocks"] > 0


@pytest.mark.slow
@pytest.mark.usefixtures("gl")
def test_the_recipe_for_a_gpu_fits_together_without_one(tmp_path):
    run = tmp_path / "run"
    for words in commands_of("gpu.sh", tmp_path, str(run), trial=True):
        assert main(words) == 0, words
    cards = {name: Checkpoint.open(run / name).spec for name in ("langtable", "bridge")}
    assert [card.twin for card in cards.values()] == ["LangTable-v0", "BridgeSim-v0"]
    kept = [card.dynamics.unchanged_threshold for card in cards.values()]
    assert kept == [0.12, 0.0]


def test_the_recipe_for_a_gpu_watches_the_clock(tmp_path):
    commands = commands_of("gpu.sh", tmp_path, str(tmp_path / "run"), trial=False)
    trained = [words for words in commands if "--loop.steps" in words]
    minutes = [float(words[words.index("--loop.max-minutes") + 1]) for words in trained]
    assert len(minutes) == 8 and min(minutes) > 0 and max(minutes) < 540 / 60
    assert sum(words[1] == "assemble" for words in commands) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("gl")
@pytest.mark.parametrize("start", ["", str(assets_folder())])
def test_the_recipe_of_two_latent_spaces_fits_together(start, tmp_path):
    run = tmp_path / "run"
    commands = commands_of("bridge-mini.sh", tmp_path, str(run), trial=True, start=start)
    trained = {words[1] for words in commands if words[0] == "train"}
    assert {"latent-dynamics", "reward", "idm"} <= trained
    # what goes on from models that ship learns neither spaces nor policies
    assert trained.isdisjoint({"autoencoder", "vjepa", "behaviour-cloning"}) == bool(start)
    for words in commands:
        assert main(words) == 0, words
    cards = {
        space: Checkpoint.open(run / f"bridge-{space}-mini").spec for space in ("vae", "vjepa")
    }
    for space, card in cards.items():
        assert (card.twin, card.latent.space) == ("BridgeSim-v0", f"{space}-mini")
        assert set(card.metrics) >= {"open_loop", "reward_model", "latent_space"}
        assert "effector_error_px_median" in card.metrics["open_loop"]["horizon_4"]
        assert set(card.metrics["latent_space"]["idm"]) == {"k_1", "k_4"}
        assert card.reward is not None and set(card.reward.network["tasks"]) == set(card.tasks)
        assert set(card.reward.threshold) == set(card.tasks)
    # one network size, whatever the latents
    sizes = [dict(card.dynamics.network, channels=0) for card in cards.values()]
    assert sizes[0] == sizes[1]
    report = json.loads((run / "latent_spaces.json").read_text(encoding="utf-8"))
    assert set(report["families"]) == {"k_1", "k_4"}
    assert (run / "latent_spaces" / "latent_spaces.png").exists()
    for space in ("VAE", "VJEPA"):
        report = json.loads(
            (run / f"comparison-{space}/imagined_vs_real_bridge.json").read_text(encoding="utf-8")
        )
        assert len(report["policies"]) == 5
        env = gymnasium.make(
            f"WM-Bridge-{space}-v0", checkpoint=str(run / f"bridge-{space.lower()}-mini"), horizon=2
        )
        frame, info = env.reset(seed=0, options={"start": "carrot_on_plate-6501"})
        assert frame.shape == (64, 64, 3)
        assert info["instruction"] == "put the carrot on the plate"
        env.step(env.action_space.sample())


@pytest.mark.slow
@pytest.mark.usefixtures("gl")
def test_the_semantic_recipe_fits_together(tmp_path):
    run = tmp_path / "run"
    for words in commands_of("langtable-swm.sh", tmp_path, str(run), trial=True):
        assert main(words) == 0, words
    card = Checkpoint.open_semantic(run / "langtable-swm").spec
    assert card.embedded and "not one of the published models" in card.description
    assert card.recipe["steps"] == [2, 2, 2]
    assert set(card.metrics) == {"answer_threshold", "future_qa"}
    assert card.answer_threshold == card.metrics["answer_threshold"]["threshold"] != 0.9
    assert set(card.metrics["future_qa"]) >= {"in_distribution", "out_of_distribution", "controls"}
    assert set(card.data_sha256) == {"tokenizer.json", "start_states.npz"}
    env = gymnasium.make("WM-LangTable-SWM-v0", checkpoint=str(run / "langtable-swm"), horizon=2)
    observation, info = env.reset(seed=0, options={"start": "push-6500"})
    assert observation["frame"].shape == (96, 96, 3)
    assert info["instruction"].startswith("push the ")
    env.step(env.action_space.sample())


@pytest.mark.slow
@pytest.mark.usefixtures("gl")
def test_the_semantic_recipe_of_cubes_fits_together(tmp_path):
    pytest.importorskip("ogbench")
    run = tmp_path / "run"
    for words in commands_of("cube-swm.sh", tmp_path, str(run), trial=True):
        assert main(words) == 0, words
    card = Checkpoint.open_semantic(run / "cube-swm").spec
    assert card.twin == "Cube-v0" and card.action.width == 5
    assert set(card.metrics) == {"answer_threshold", "future_qa"}
    env = gymnasium.make("WM-Cube-SWM-v0", checkpoint=str(run / "cube-swm"), horizon=2)
    _, info = env.reset(seed=0, options={"start": "stack-6500"})
    assert info["instruction"].startswith("stack the ")
    env.step(env.action_space.sample())
