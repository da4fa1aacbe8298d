"""Imports never run in a circle, and the script that counts this counts right."""

from pathlib import Path

import pytest
from house import trace_step
from source_tree import (
    Import,
    circles,
    config_hops,
    imports,
    isinstance_calls,
    modules,
    near_copies,
    resume_guards,
)

ROOT = Path(__file__).parents[2]

KNOWN_CIRCLES = [
    ["wm_gym.dynamics.rollout", "wm_gym.dynamics.snapshot"],
    ["wm_gym.envs.rewards", "wm_gym.envs.semantic_reward"],
    ["wm_gym.training.dynamics_loss", "wm_gym.training.latent_dynamics"],
]
"""Those that are about to be cut; nothing is ever added here."""


def test_no_imports_run_in_a_circle():
    """Imports for types and those inside functions count as those at the top of a module do."""
    found = imports(ROOT)
    assert {"top", "type", "lazy"} == {entry.kind for entry in found}
    assert [circle for circle in circles(found) if circle not in KNOWN_CIRCLES] == []
    assert circles(found, ("top",)) == []


def test_every_package_is_walked():
    known = modules(ROOT)
    assert known["wm_gym.envs.engine"] == ROOT / "envs" / "engine.py"
    assert known["wm_gym.policies.base"] == ROOT / "policies" / "base.py"
    assert known["wm_gym.envs.sims.cube"] == ROOT / "envs" / "sims" / "cube" / "__init__.py"
    assert known["wm_gym.spec"] == ROOT / "wm_gym" / "spec.py"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkout of four modules, with every kind of import."""
    (tmp_path / "pyproject.toml").write_text(
        '[tool.setuptools.package-dir]\n"wm" = "wm"\n"wm.envs" = "envs"\n', encoding="utf-8"
    )
    for_types = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from wm.envs import b\n"
    files = {
        "wm/__init__.py": "",
        "wm/a.py": for_types,
        "envs/__init__.py": "",
        "envs/b.py": "def f():\n    from .c import g\n    return g\n",
        "envs/c.py": "import wm.a\ng = isinstance(wm, int)\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_imports_are_told_apart_by_when_they_run(tree: Path):
    assert imports(tree) == {
        Import("wm.a", "wm.envs.b", "type"),
        Import("wm.envs.b", "wm.envs.c", "lazy"),
        Import("wm.envs.c", "wm.a", "top"),
    }


def test_a_circle_through_three_modules_and_two_folders_is_one(tree: Path):
    found = imports(tree)
    assert circles(found) == [["wm.a", "wm.envs.b", "wm.envs.c"]]
    assert circles(found, ("top", "type")) == []
    assert isinstance_calls([tree / "envs" / "c.py", tree / "envs" / "b.py"]) == 1


def test_a_copy_counts_from_six_lines_whatever_its_indentation(tmp_path: Path):
    six = [f"x{n} = f({n})" for n in range(6)]
    (tmp_path / "a.py").write_text("\n".join(["y = 1", *six]), encoding="utf-8")
    (tmp_path / "b.py").write_text(
        "\n".join(["def g():", '    """Words."""', *[f"    {s}  # why" for s in six]]),
        encoding="utf-8",
    )
    (tmp_path / "c.py").write_text("\n".join(six[:5]), encoding="utf-8")
    found = near_copies([tmp_path / name for name in ("a.py", "b.py", "c.py")])
    assert [(a.name, m, b.name, n, k) for a, m, b, n, k in found] == [("a.py", 2, "b.py", 3, 6)]


def test_guards_and_hops_are_found_in_the_text(tree: Path):
    (tree / "wm" / "run.py").write_text(
        "from wm.load import load\n"
        "def train(config):\n    load(config)\n    print(config.seed)\n"
        "def claim(folder):\n    raise ValueError(f'{folder} holds a run with other settings')\n",
        encoding="utf-8",
    )
    (tree / "wm" / "load.py").write_text(
        "def load(config):\n    return Net(config)\n", encoding="utf-8"
    )
    assert resume_guards(tree) == ["wm.run.claim"]
    assert config_hops(tree, "wm.run", "train") == ["wm.run.train -> load", "wm.load.load -> Net"]


@pytest.mark.slow
def test_the_trace_of_a_step_names_the_files_it_runs_through():
    traced = trace_step(ROOT)
    assert {"envs/imagined.py", "envs/engine.py", "wm_gym/dynamics/rollout.py"} <= set(traced)
    assert all((ROOT / name).is_file() and not name.startswith(".") for name in traced)
