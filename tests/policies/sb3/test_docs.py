"""docs/rl-in-imagination.md: its example runs, and what it names exists."""

import re
import tomllib
from pathlib import Path

from wm_gym.policies.base import load_policy

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "rl-in-imagination.md").read_text(encoding="utf-8")


def test_the_example_trains_and_saves_a_policy(embedded_checkpoint, tmp_path, monkeypatch):
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(block, "docs/rl-in-imagination.md", "exec"), names)
    assert names["agent"].num_timesteps == 16
    policy = load_policy(tmp_path / "runs" / "ppo")
    assert policy.kind == "sb3"
    assert policy.config()["view"]["obs"] == "positions"


def test_the_examples_are_there():
    for command in re.findall(r"python (examples/\S+)", TEXT):
        assert (ROOT / command).exists()
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "setuptools"
    ]["packages"]
    assert "wm_gym.policies.sb3" in packages
