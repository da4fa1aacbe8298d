"""Fixtures for every test folder: a tiny world model with random weights, and the trained one."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import hypothesis
import numpy as np
import pytest

from tests.pictures import gl, skip_without_gl  # noqa: F401  fixtures for every folder
from wm_gym.envs.registration import EMBEDDED_MODELS

# One thread a test process, set before torch is imported and inherited by commands that tests
# start: more would compete with the other workers' for the same cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# a deadline measures the machine's load, not the code
hypothesis.settings.register_profile("wm_gym", deadline=None)
hypothesis.settings.load_profile("wm_gym")

EMBEDDED = "langtable-vae-mini"
SHIPPED = tuple(folder for folder in EMBEDDED_MODELS.values() if folder is not None)
"""Folders of the latent world models that ship, one for each id."""
NEEDS_OGBENCH = pytest.mark.skipif(
    sys.version_info >= (3, 13) and find_spec("ogbench") is None,
    reason="the development tools bring ogbench up to Python 3.12",
)
TINY_STARTS = (("reach", 2), ("separate", 1), ("push", 3))


def pytest_configure() -> None:
    """Keep torch to one thread, also if it was imported before this file."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a banded world model with random weights: 32x32 frames, a 4x4 grid, a band of 4.

    Every weight is random, gates and last layers included, so that actions, noise and context all
    matter to what it imagines. Its classifier never sees success (threshold 1), its start states
    hold LangTable's own simulator states.
    """
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    write_tiny_checkpoint(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_model(tiny_checkpoint: str):
    """The tiny world model, loaded once; models do not change, rollouts do."""
    from wm_gym.world_model import load_world_model

    return load_world_model(tiny_checkpoint)


@pytest.fixture(scope="session")
def embedded_checkpoint() -> str:
    """Folder of the trained model that ships with wm_gym."""
    from wm_gym.checkpoints import assets_folder

    return str(assets_folder() / EMBEDDED)


@pytest.fixture(scope="session", params=SHIPPED)
def shipped_checkpoint(request: pytest.FixtureRequest) -> str:
    """Folder of each trained latent world model that ships, one after the other."""
    from wm_gym.checkpoints import assets_folder

    return str(assets_folder() / request.param)


@pytest.fixture(scope="session")
def shipped_id(shipped_checkpoint: str) -> str:
    """Id that runs `shipped_checkpoint`."""
    return {folder: name for name, folder in EMBEDDED_MODELS.items()}[Path(shipped_checkpoint).name]


@pytest.fixture(
    scope="session",
    params=["tiny", *(pytest.param(name, marks=pytest.mark.slow) for name in SHIPPED)],
)
def any_model(request: pytest.FixtureRequest, tiny_checkpoint: str):
    """The tiny world model and, among the slow tests, each one that ships: facts about them all."""
    from wm_gym.checkpoints import assets_folder
    from wm_gym.world_model import load_world_model

    tiny = request.param == "tiny"
    return load_world_model(tiny_checkpoint if tiny else assets_folder() / request.param)


def write_tiny_checkpoint(folder: Path, seed: int = 0) -> None:
    """Write the checkpoint of `tiny_checkpoint`."""
    import torch

    from wm_gym.checkpoints import save_checkpoint
    from wm_gym.dynamics.dit import DiT, DiTConfig
    from wm_gym.envs.sims.langtable.tasks import OBJECTS, TASK_TEMPLATES
    from wm_gym.judges.success_classifier import SuccessClassifier, SuccessClassifierConfig
    from wm_gym.latents.vae_mini import VAEMini, VAEMiniConfig
    from wm_gym.spec import (
        ActionSpec,
        ContextSpec,
        DynamicsSpec,
        FrameSpec,
        LatentSpec,
        RewardSpec,
        WorldModelSpec,
    )

    space = {
        "height": 32, "width": 32, "patch": 8, "overlap": 2, "channels": 4, "dim": 16,
        "encoder_depth": 1, "decoder_depth": 1, "heads": 2,
    }  # fmt: skip
    judge = SuccessClassifierConfig(
        (4, 4),
        4,
        tuple(TASK_TEMPLATES),
        OBJECTS,
        dim=16,
        depth=1,
        trunk_dim=16,
        trunk_depth=1,
        trunk_heads=2,
    )
    network = {"channels": 4, "dim": 32, "depth": 2, "heads": 2, "action_width": 3, "band": 4}
    spec = WorldModelSpec(
        name="tiny",
        description="random weights, for tests",
        embedded=False,
        licence="Apache-2.0",
        training_data="none",
        recipe={},
        twin="LangTable-v0",
        frame=FrameSpec(32, 32, "top"),
        action=ActionSpec(
            names=("x", "y"), units=("m", "m"), low=(-0.03, -0.03), high=(0.03, 0.03),
            gain=(50.0, 50.0), bias=(0.0, 0.0), width=3, control_hz=10.0,
        ),
        latent=LatentSpec("vae-mini", (4, 4), 4, (0.1,) * 4, (0.9,) * 4, space),
        context=ContextSpec("banded", 4, 2),
        dynamics=DynamicsSpec(network, denoising_steps=2),
        weights_sha256={},
        reward=RewardSpec(asdict(judge), dict.fromkeys(TASK_TEMPLATES, 1.0)),
        tasks=TASK_TEMPLATES,
        objects=OBJECTS,
        horizon=8,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        autoencoder, dit = VAEMini(VAEMiniConfig(**space)), DiT(DiTConfig(**network))
        classifier = SuccessClassifier(judge)
        for parameter in [*autoencoder.parameters(), *dit.parameters()]:
            torch.nn.init.normal_(parameter, std=0.15)
    weights = {
        "latent.safetensors": autoencoder.state_dict(),
        "dynamics.safetensors": dit.state_dict(),
        "reward.safetensors": classifier.state_dict(),
    }
    save_checkpoint(folder, spec, weights)
    _write_tiny_starts(folder, seed)


def _write_tiny_starts(folder: Path, seed: int) -> None:
    """Start states with LangTable's states and noise for frames: no GL platform is needed."""
    from wm_gym.checkpoints import save_data_file
    from wm_gym.envs.sims.langtable.env import LangTableEnv
    from wm_gym.envs.start_states import FILENAME, StartStates

    names, instructions, states = [], [], []
    for task, count in TINY_STARTS:
        env = LangTableEnv(task=task, obs="state")
        for index in range(count):
            _, info = env.reset(seed=index)
            names.append(f"{task}-{index}")
            instructions.append(info["instruction"])
            state = env.get_state()
            states.append(
                {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in state.items()}
            )
    frames = np.random.default_rng(seed).integers(0, 256, (len(names), 32, 32, 3), np.uint8)
    starts = StartStates(tuple(names), tuple(instructions), frames, tuple(states))
    save_data_file(folder, FILENAME, starts.to_bytes())
