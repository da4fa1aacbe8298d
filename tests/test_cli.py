"""The command line: help of every command, exit codes and messages."""

import subprocess
import sys
import warnings
from importlib import import_module
from pathlib import Path

import gymnasium
import imageio.v3 as imageio
import numpy as np
import pytest

from tests.said import said
from wm_gym.checkpoints import Checkpoint, save_data_file
from wm_gym.cli import main
from wm_gym.commands.info import metric_lines
from wm_gym.commands.table import COMMANDS
from wm_gym.domains import DOMAINS
from wm_gym.envs.registration import EMBEDDED_MODELS, SEMANTIC_MODELS, SIMULATORS
from wm_gym.envs.settings import EmbeddedModelWarning
from wm_gym.evaluation.demo.clips import FILENAME


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_exists_and_explains_itself(name, capsys):
    command = COMMANDS[name]
    module = import_module(command.module)
    assert callable(getattr(module, command.function))
    assert getattr(module, command.config).__doc__
    with pytest.raises(SystemExit) as ended:
        main([*name.split(), "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert f"usage: wm-gym {name}" in shown
    assert "--help" in shown


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_the_overview_names_every_command(words, capsys):
    assert main(words) == 0
    shown = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert name in shown
        assert command.summary in shown


def test_a_group_lists_its_commands(capsys):
    assert main(["train", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "train latent-dynamics" in shown
    assert "compare-real" not in shown
    assert main(["train"]) == 2


@pytest.mark.parametrize(
    ("words", "near"), [(["dmo"], "`wm-gym demo`"), (["train", "rewards"], "`wm-gym train reward`")]
)
def test_a_mistyped_command_exits_2_and_names_the_nearest(words, near, capsys):
    assert main(words) == 2
    message = capsys.readouterr().err
    assert message.startswith("wm-gym: ")
    assert near in message


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["demo", "--checkpoint", "/nowhere"], "names no folder with a card.json"),
        (["demo", "--id", "WM-Bridge-Cosmos-v0"], "no embedded checkpoint"),
        (["demo", "--id", "WM-LangTable-VEA-v0"], "the nearest are WM-LangTable-VAE-v0"),
        (["info", "--checkpoint", "/nowhere"], "names no folder with a card.json"),
        (["record", "NoSuchEnv-v0"], "'NoSuchEnv-v0' is not registered; those of wm_gym are WM-"),
        (["record", "LangTable-v9"], "'LangTable-v9' is not registered"),
        (["compare-real", "--id", "LangTable-v0", "--out", "/nowhere"], "is a simulator, no world"),
        (["demo", "--id", "WM-LangTable-SWM-v0"], "a semantic world model, which makes no frames"),
        (["check-parity", "/nowhere"], "/nowhere holds no *.safetensors"),
    ],
)
def test_input_it_refuses_gives_one_line_and_exit_2(words, expected, capsys):
    assert main(words) == 2
    message = capsys.readouterr().err
    assert message.startswith("wm-gym: ")
    assert expected in message
    assert message.count("\n") == 1
    assert "Traceback" not in message


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["demo", "--steps", "0"], "clips=3 and steps=0 must be at least 1"),
        (["collect", "--env-id", "WM-LangTable-VAE-v0", "--out", "/nowhere"], "is no simulator"),
        (
            ["info", "LangTable-v0", "--checkpoint", "/x"],
            "is a simulator: it takes no checkpoint='/x'",
        ),
        (["evaluate", "open-loop", "--data", "/nowhere", "--clips", "1"], "at least 2 clips"),
        (["demo", "--steps", "many"], "many"),
        (["compare-real", "--rows", "0"], "rows=0"),
        (["collect", "--out", "x", "--episodes", "0"], "episodes=0"),
    ],
)
def test_options_that_a_config_refuses_are_shown_by_tyro(words, expected, capsys):
    assert main(words) == 2
    shown = said(capsys)
    assert expected in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize("policy", ["/nowhere/policy", "no_such_module_here:Policy"])
def test_record_looks_for_the_policy_before_it_loads_a_model(policy, monkeypatch, capsys):
    import gymnasium

    def make(*_, **__):
        raise AssertionError("an environment was made before its policy was looked for")

    monkeypatch.setattr(gymnasium, "make", make)
    assert main(["record", "--policy", policy]) == 2
    message = capsys.readouterr().err
    assert policy.partition(":")[0] in message and "module:Class" in message


def test_a_simulator_shows_a_saved_policy_its_frames_and_gives_the_instruction(
    tmp_path, monkeypatch
):
    from wm_gym.domains import LANGTABLE
    from wm_gym.policies.base import save_policy
    from wm_gym.policies.random_policy import RandomPolicy

    seen = []

    def act(self, observation):
        seen.append((observation.frames.shape, *observation.instructions))
        return np.zeros((1, 1, 2))

    save_policy(RandomPolicy(LANGTABLE.action, LANGTABLE.frame), tmp_path / "saved")
    monkeypatch.setattr(RandomPolicy, "act", act)
    words = ["--policy", str(tmp_path / "saved"), "--instruction", "reach the red moon"]
    video = ["--steps", "2", "--out", str(tmp_path / "a.mp4")]
    assert main(["record", "LangTable-v0", *words, *video]) == 0
    size = (LANGTABLE.frame.height, LANGTABLE.frame.width)
    assert seen == [((1, *size, 3), "reach the red moon")] * 2


def test_a_bug_keeps_its_traceback(monkeypatch):
    import wm_gym.commands.list_ids as list_ids

    monkeypatch.setattr(list_ids, "describe_ids", lambda: max([]))
    with pytest.raises(ValueError, match="empty"):
        main(["list"])


def test_list_shows_models_and_simulators(tmp_path, capsys):
    import json

    assert main(["list", "--json", str(tmp_path / "ids.json")]) == 0
    shown = capsys.readouterr().out
    ids = [
        entry["id"]
        for entry in json.loads((tmp_path / "ids.json").read_text(encoding="utf-8"))["ids"]
    ]
    assert {"WM-LangTable-VAE-v0", "WM-Bridge-VJEPA-v0", "LangTable-v0"} <= set(ids)
    assert all(env_id in shown for env_id in ids)


def test_info_shows_what_a_card_promises(tiny_checkpoint, capsys):
    assert main(["info", "--checkpoint", tiny_checkpoint]) == 0
    shown = capsys.readouterr().out
    for fact in ("tiny", "32x32", "x [-0.03, 0.03] m", "banded of 4", "LangTable-v0", "Apache-2.0"):
        assert fact in shown


@pytest.mark.parametrize("env_id", [*SIMULATORS, *EMBEDDED_MODELS, *SEMANTIC_MODELS])
def test_info_knows_every_id_that_list_shows(env_id, tmp_path, capsys):
    import json

    assert main(["info", env_id, "--json", str(tmp_path / "info.json")]) == 0
    shown = capsys.readouterr().out
    report = json.loads((tmp_path / "info.json").read_text(encoding="utf-8"))
    if env_id in SIMULATORS:
        domain = next(d for d in DOMAINS.values() if d.twin == env_id)
        assert all(name in shown for name in (*domain.tasks, *domain.objects, *domain.action.names))
        of_it = {"LangTable-v0": "WM-LangTable-VAE-v0", "BridgeSim-v0": "WM-Bridge-VJEPA-v0"}
        assert of_it.get(env_id, "WM-Cube-SWM-v0") in shown
        assert report["simulator"]["twin"] == env_id
    elif "card" in report:
        assert f"{report['card']['name']} (embedded)" in shown
    else:
        assert "no checkpoint ships" in shown and "wm-gym train" in shown
        assert "hf://org/repo@revision" in shown
        assert report["model"]["domain"] in shown


def test_published_spaces_without_a_checkpoint_are_described(capsys):
    assert main(["info", "WM-Bridge-SigLIP296-v0"]) == 0
    assert "SigLIP296, 16x16x96 of 256x256 frames, compressed by" in capsys.readouterr().out


def test_a_metric_is_told_by_its_numbers():
    scores = {"reach": {"balanced_accuracy": 0.914, "threshold": 0.33}, "push": {"kept": True}}
    report = {"horizon": 20, "real": scores, "command": "wm-gym …", "duration_s": 80.1}
    assert metric_lines("reward_model", report) == [
        "reward_model: horizon 20",
        "reward_model, real: reach balanced accuracy 0.914, threshold 0.33",
    ]
    horizons = {"horizon_1": {"gap_closed": 0.75, "psnr": 29.7}, "duration_s": 2.0}
    assert metric_lines("open_loop", horizons) == ["open_loop: horizon_1 gap closed 0.75"]
    assert metric_lines("accuracy", 0.5) == ["accuracy: 0.5"]


def test_demo_writes_a_video_and_a_strip(tiny_checkpoint, tmp_path, capsys):
    import shutil
    from dataclasses import replace

    import imageio.v3 as imageio
    import numpy as np

    from wm_gym.evaluation.demo.clips import DemoClips

    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, checkpoint)
    random = np.random.default_rng(0)
    clips = DemoClips(
        random.integers(0, 256, (2, 6, 32, 32, 3), dtype=np.uint8),
        random.uniform(-0.03, 0.03, (2, 5, 2)).astype(np.float32),
        ("reach the red moon", "push the red moon to the green cube"),
    )
    save_data_file(checkpoint, FILENAME, clips.to_bytes())
    read = DemoClips.read(Checkpoint.open(checkpoint))
    np.testing.assert_array_equal(read.frames, clips.frames)
    np.testing.assert_array_equal(read.actions, clips.actions)
    assert read.instructions == read.labels == clips.instructions
    with pytest.raises(ValueError, match="1 behaviours are no demo clips"):
        replace(clips, behaviours=("expert",))
    who = replace(clips, behaviours=("expert", "random"))
    save_data_file(checkpoint, FILENAME, who.to_bytes())
    read = DemoClips.read(Checkpoint.open(checkpoint))
    assert read.labels[0] == "reach the red moon (expert)"
    assert read.behaviours == ("expert", "random")

    out = tmp_path / "outputs"
    assert main(["demo", "--checkpoint", str(checkpoint), "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    video, picture = out / "demo_WM-LangTable-VAE-v0.mp4", out / "demo_WM-LangTable-VAE-v0.png"
    assert str(video) in shown
    assert str(picture) in shown
    assert len(imageio.imread(video)) == 5  # the start and four steps after a history of two
    assert imageio.imread(picture).shape[-1] == 3


@pytest.mark.parametrize("env_id", [name for name, folder in EMBEDDED_MODELS.items() if folder])
def test_the_demo_of_a_model_that_ships_needs_no_simulator(env_id, tmp_path):
    words = ["demo", "--id", env_id, "--clips", "1", "--steps", "2", "--out", str(tmp_path)]
    code = (
        f"import sys; from wm_gym.cli import main; assert main({words!r}) == 0; "
        "assert 'mujoco' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert imageio.imread(tmp_path / f"demo_{env_id}.png").shape[-1] == 3
    assert len(imageio.imread(tmp_path / f"demo_{env_id}.mp4")) == 3


def test_damaged_demo_clips_say_how_to_make_them(tiny_checkpoint, tmp_path, capsys):
    import shutil

    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, checkpoint)
    save_data_file(checkpoint, FILENAME, b"PK\x03\x04 no archive")
    assert main(["demo", "--checkpoint", str(checkpoint)]) == 2
    message = capsys.readouterr().err
    assert "cannot be read as demo clips" in message and "wm-gym make-demo-clips" in message
    (checkpoint / FILENAME).write_bytes(b"PK\x03\x04 cut off")
    assert main(["demo", "--checkpoint", str(checkpoint)]) == 2
    message = capsys.readouterr().err
    assert "its card says" in message and "wm-gym make-demo-clips" in message


def test_flops_of_a_cached_step_are_a_small_part_of_a_recomputed_one():
    from wm_gym.commands.flops import step_cost
    from wm_gym.dynamics.dit import DiTConfig

    cost = step_cost(DiTConfig(channels=16, dim=64, depth=2, heads=2), (8, 8), denoising_steps=10)
    assert cost.window_pass == pytest.approx(10 * cost.frame_pass, rel=0.05)
    assert 8 < cost.step_off / cost.step_rolling < 10
    assert 5 < cost.step_off / cost.step_exact < 6


def test_counted_operations_are_those_of_all_blocks():
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from wm_gym.commands.flops import step_cost
    from wm_gym.dynamics.dit import DiT, DiTConfig

    config = DiTConfig(channels=4, dim=32, depth=4, heads=2, head="wide", band=3, action_width=7)
    cost = step_cost(config, (4, 6), denoising_steps=3, context=5)
    with torch.device("meta"):
        network = DiT(config)
        inputs = torch.zeros(1, 5, 4, 6, 4), torch.zeros(1, 5), torch.zeros(1, 5, 7)
    assert cost.parameters == sum(p.numel() for p in network.parameters())
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(*inputs)
    assert cost.window_pass == pytest.approx(counter.get_total_flops() / 1e9)
    assert cost.step_off == pytest.approx(3 * cost.window_pass)


def test_help_is_fast_because_it_imports_no_torch():
    code = (
        "import sys; from wm_gym.cli import main; main(['--help']); "
        "assert not {'torch', 'tyro', 'mujoco'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def compute_table(folder, monkeypatch, capsys, sizes):
    """What `wm-gym info --flops --json FILE` writes for some sizes, and what it prints."""
    import json

    from wm_gym.commands import flops

    monkeypatch.setattr(flops, "DIT_SIZES", {name: flops.DIT_SIZES[name] for name in sizes})
    assert main(["info", "--flops", "--json", str(folder / "flops.json")]) == 0
    return json.loads((folder / "flops.json").read_text(encoding="utf-8")), capsys.readouterr().out


def check_compute_table(report, printed, sizes):
    """Every variant stands there in every size, and those of one size cost about the same."""
    from wm_gym.commands.flops import VARIANTS
    from wm_gym.dynamics.dit import DIT_SIZES

    assert {"command", "versions"} <= set(report)
    rows = {(row["model"], row["size"]): row for row in report["rows"]}
    for size in sizes:
        for variant in VARIANTS:
            row = rows[variant.env_id, size]
            (line,) = [x for x in printed.splitlines() if x.split()[:2] == [variant.env_id, size]]
            assert line.split()[-1] == f"{row['step_rolling']:.1f}"
            assert row["step_off"] > row["step_exact"] > row["step_rolling"] > 0
        costs = [rows[variant.env_id, size]["window_pass"] for variant in VARIANTS]
        assert max(costs) / min(costs) < 1.25
        # by hand: two blocks a pair, each 4 D² of attention and 8 D² of SwiGLU, per token
        width, pairs = DIT_SIZES[size]["dim"], DIT_SIZES[size]["depth"]
        linear = 2 * 2560 * pairs * 2 * (4 + 8) * width**2 / 1e9
        assert linear < min(costs) < 1.5 * linear


def test_the_compute_table_shows_every_variant(tmp_path, monkeypatch, capsys):
    table = compute_table(tmp_path, monkeypatch, capsys, ["S"])
    check_compute_table(*table, ["S"])
    assert {row["size"] for row in table[0]["rows"] if row["size"] in ("S", "B", "L")} == {"S"}


@pytest.mark.slow
def test_the_compute_table_has_every_variant_in_every_size(tmp_path, monkeypatch, capsys):
    table = compute_table(tmp_path, monkeypatch, capsys, ["S", "B", "L"])
    check_compute_table(*table, ["S", "B", "L"])
    assert len(table[0]["rows"]) in (27, 28)  # and the embedded model, if it is there


@pytest.mark.parametrize("made", [Path("runs/a"), [Path("runs/stage_1"), Path("runs/stage_2")]])
def test_training_says_what_it_wrote(made, monkeypatch, capsys):
    from wm_gym.training import svae

    monkeypatch.setattr(svae, "train_svae", lambda config: made)
    assert main(["train", "svae", "--latents", "latents", "--out", "runs/a"]) == 0
    expected = [f"wrote {path}" for path in (made if isinstance(made, list) else [made])]
    assert capsys.readouterr().out.splitlines() == expected


def test_record_takes_the_number_of_denoising_steps_and_the_device(
    tiny_checkpoint, tmp_path, monkeypatch
):
    made, original = [], gymnasium.make

    def make(*args, **kwargs):
        made.append(original(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(gymnasium, "make", make)
    out = tmp_path / "video.mp4"
    words = ["--checkpoint", tiny_checkpoint, "--denoising-steps", "1", "--device", "cpu"]
    words += ["--reward", "none", "--steps", "2", "--out", str(out)]
    assert main(["record", *words]) == 0
    engine = made[0].unwrapped.engine
    assert engine.model.denoising_steps == 1 and engine.reward.name == "none"
    assert len(imageio.imread(out)) == 3


def test_our_warnings_are_one_plain_line_and_others_stay_as_they_are(monkeypatch, capsys):
    from wm_gym.commands import list_ids

    def warn():
        warnings.warn("X runs small", EmbeddedModelWarning, stacklevel=1)
        warnings.warn("not ours", UserWarning, stacklevel=1)
        return [{"id": "X", "kind": "", "checkpoint": None, "about": ""}]

    def show(message, category, filename, lineno, file=None, line=None):
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))

    monkeypatch.setattr(list_ids, "describe_ids", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", show)
        before = warnings.formatwarning
        assert main(["list"]) == 0
        assert warnings.formatwarning is before
    ours, *others = capsys.readouterr().err.splitlines()
    assert ours == "wm-gym: X runs small"
    assert __file__ in others[0] and "not ours" in others[0]
