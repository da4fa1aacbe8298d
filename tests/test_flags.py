"""The command line speaks of its own options, not of Python arguments."""

import re
import sys
import warnings

import gymnasium
import imageio.v3 as imageio
import pytest

from wm_gym.cli import main
from wm_gym.commands.hash_files import HashFilesConfig
from wm_gym.commands.record import RecordConfig
from wm_gym.envs.collect import CollectConfig
from wm_gym.envs.settings import EmbeddedModelWarning
from wm_gym.evaluation.compare_real.run import CompareRealConfig
from wm_gym.flags import in_flags
from wm_gym.policies.train_behaviour_cloning import TrainBehaviourCloningConfig


@pytest.mark.parametrize(
    ("config", "message", "expected"),
    [
        (RecordConfig, "pass checkpoint='hf://a/b@c' or", "pass --checkpoint hf://a/b@c or"),
        (RecordConfig, "denoising_steps=0; expected", "--denoising-steps 0; expected"),
        (RecordConfig, "use device='cpu'.", "use --device cpu."),
        (RecordConfig, "steps=0 and hold=1.", "--steps 0 and --hold 1."),
        (RecordConfig, "needs checkpoint=…; see", "needs --checkpoint …; see"),
        (RecordConfig, "obs='pixels' stays", "obs='pixels' stays"),
        (RecordConfig, "the task=", "the --task "),
        (CompareRealConfig, "noise=(0.0, -1), rows=", "--noise 0.0 -1, --rows "),
        (CompareRealConfig, "tasks=('reach', 'push')", "--tasks reach push"),
        (CollectConfig, "or pass held_out=True if", "or pass --held-out if"),
        (CollectConfig, "env_id 'X' has no", "--env-id 'X' has no"),
        (CollectConfig, "reset(seed=3)", "reset(seed=3)"),
        (TrainBehaviourCloningConfig, "learning_rate=0", "--loop.learning-rate 0"),
        (HashFilesConfig, "checkpoint='a'", "CHECKPOINT a"),
    ],
)
def test_arguments_become_options(config, message, expected):
    assert in_flags(message, config) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["demo", "--id", "WM-Bridge-Cosmos-v0"], "--checkpoint hf://org/repo@revision for a publ"),
        (["demo", "--steps", "0"], "--clips 3 and --steps 0 must be at least 1"),
        (["demo", "--device", "tpu9"], "--device tpu9 is no torch device"),
        (["diagnose", "x", "--data", "x", "--clips", "1"], "--clips 1; expected at least 2"),
        (["record", "--denoising-steps", "0"], "--denoising-steps 0; expected a whole number"),
        (["record", "LangTable-v0", "--device", "cpu"], "is no world model: it takes no --device"),
        (["record", "--reward", "dense"], "--reward dense does not exist"),
        (["compare-real", "--rows", "0"], "--rows 0, --resamples 2000, --seed 0; expected"),
        (["collect", "--out", "x", "--seed", "6000"], "start at --seed 8000 or collect fewer"),
        (["collect", "--out", "x", "--episodes", "0"], "--episodes 0, --steps 60, --workers 2"),
    ],
)
def test_refusals_name_the_options_that_were_typed(words, expected, capsys):
    assert main(words) == 2
    message = capsys.readouterr().err
    assert expected in message
    options = "checkpoint|denoising_steps|device|steps|clips|rows|seed|episodes|held_out|reward"
    assert not re.search(rf"\b({options})=", message)


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
        warnings.warn("X runs small; pass json='file'", EmbeddedModelWarning, stacklevel=1)
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
    assert ours == "wm-gym: X runs small; pass --json file"
    assert __file__ in others[0] and "not ours" in others[0]
