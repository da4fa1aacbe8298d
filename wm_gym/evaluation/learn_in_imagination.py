"""An agent learns inside a world model alone, and the simulator says what it has learned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

import wm_gym  # noqa: F401  registers the ids
from wm_gym.errors import UserError
from wm_gym.evaluation.report import measurement_header, write_json
from wm_gym.evaluation.run_folder import PolicySource, claim_folder
from wm_gym.evaluation.true_success import measure_learning
from wm_gym.instructions import InstructionSet
from wm_gym.policies.base import PolicyError, save_policy
from wm_gym.policies.named import open_policy, short_name
from wm_gym.policies.sb3.learning import learn
from wm_gym.policies.sb3.policy import SB3Policy
from wm_gym.policies.sb3.positions import ReadPositions
from wm_gym.policies.sb3.vec_env import ImaginedVecEnv

if TYPE_CHECKING:
    from wm_gym.policies.base import Policy

NOT_SETTINGS = ("out", "steps", "save_every", "beside")
"""What may change when a training goes on, beside everything that begins with `test`."""
UNTRAINED, TRAINED = "untrained", "trained"


@dataclass(frozen=True)
class ImaginedTraining:
    """Settings that every training in imagination has, whoever learns."""

    checkpoint: str = "embedded"
    """World model to learn in: embedded, a folder, or hf://org/repo@revision."""
    out: Path = Path("outputs/train_in_imagination")
    """Folder for everything; a second call goes on there."""
    target: str = "red moon"
    """Block to reach."""
    instruction: str | None = None
    """What to learn instead, in words, e.g. "push the red moon to the green star"; pushes want a
    longer --horizon and --test-steps."""
    observe: Literal["positions", "latents"] = "positions"
    """Positions that the reward model reads, or the latents themselves."""
    steps: int = 60_000
    """Imagined steps in all."""
    rows: int = 32
    """Episodes imagined at once."""
    horizon: int = 25
    """Steps per imagined episode."""
    denoising_steps: int = 2
    """Denoising steps per imagined frame."""
    surprise_penalty: float = 0.1
    """What a unit of surprise costs in each step's reward."""
    save_every: int = 4096
    """Imagined steps between saves."""
    device: str = "cpu"
    """Torch device of world model and agent."""
    seed: int = 0
    """Seed of agent and dream."""
    beside: tuple[str, ...] = ()
    """Policies to measure from the same starts: saved folders, module:Class or agents' .zip."""
    test_episodes: int = 100
    """Episodes in the simulator."""
    test_seed: int = 8000
    """Seed of the first of them; the world model was trained on lower ones."""
    test_steps: int = 40
    """Longest of them."""

    def __post_init__(self) -> None:
        """Check the numbers before anything is learned."""
        least = ("steps", "rows", "horizon", "denoising_steps", "save_every")
        least += ("test_episodes", "test_steps")
        if wrong := [f"{name}={getattr(self, name)}" for name in least if getattr(self, name) < 1]:
            raise UserError(f"{', '.join(wrong)}; expected at least 1 each")
        if min(self.seed, self.test_seed) < 0:
            raise UserError(
                f"seed={self.seed}, test_seed={self.test_seed}; expected 0 or more each"
            )

    @property
    def words(self) -> str:
        """What the agent learns to do."""
        return self.instruction or f"reach the {self.target}"

    def settings(self) -> dict[str, Any]:
        """What makes it this training; another one is not continued in its folder."""
        return {
            name: value
            for name, value in asdict(self).items()
            if name not in NOT_SETTINGS and not name.startswith("test") and value is not None
        }


Config = TypeVar("Config", bound=ImaginedTraining)


def make_dream(config: ImaginedTraining) -> VecEnv:
    """The environment of the training: nothing but a world model."""
    dream = gym.make_vec(
        "WM-LangTable-VAE-v0",
        num_envs=config.rows,
        checkpoint=config.checkpoint,
        obs="latents",  # nothing is decoded
        reward="distance",
        horizon=config.horizon,
        denoising_steps=config.denoising_steps,
        surprise_penalty=config.surprise_penalty,
        device=config.device,
        autoreset_mode="Disabled",
    )
    envs = VecMonitor(ImaginedVecEnv(dream, options={"instruction": config.words}))
    return ReadPositions(envs) if config.observe == "positions" else envs


def train_in_imagination(
    config: Config, make_agent: Callable[[Config, VecEnv], BaseAlgorithm]
) -> dict[str, Any]:
    """Train an agent in the dream, then measure it in the simulator, before and after.

    Args:
        config: settings; `out` gets `agent/` (a saved policy), `learning.png`, `episodes.mp4`,
            `report.json` and TensorBoard's curves.
        make_agent: makes the agent, with random weights, for an environment.

    Returns:
        What is written to `report.json`.

    Raises:
        InstructionError: if the world model does not know what is to be learned.
        PolicyError: if a policy of `beside` is not there, or two have one name; nothing has run
            then.
        RunSettingsError: if `out` holds a training or measurement with other settings or policies.
    """
    envs = make_dream(config)
    spec = envs.get_attr("card")[0]
    InstructionSet(spec.tasks, spec.objects).parse(config.words)
    names = [UNTRAINED, *map(short_name, config.beside), TRAINED]
    if len(set(names)) < len(names):
        raise PolicyError(
            f"the policies are called {names} in files and report; expected different names: "
            "rename the folders of --beside"
        )
    others = {
        short_name(name): open_policy(name, spec.action, spec.frame) for name in config.beside
    }
    # the training guards its own settings
    claim_folder(
        config.out,
        {"test_steps": config.test_steps, "instruction": config.words},
        [PolicySource.of(name) for name in config.beside],
    )
    untrained = SB3Policy.from_agent(make_agent(config, envs))
    agent = make_agent(config, envs)
    settings = config.settings()
    progress = learn(
        agent, config.out, config.steps, settings, save_every=config.save_every,
        description=type(agent).__name__,
    )  # fmt: skip
    trained = SB3Policy.from_agent(agent)
    save_policy(trained, config.out / "agent", training={**settings, "steps": progress.steps})
    seeds = range(config.test_seed, config.test_seed + config.test_episodes)
    measured: dict[str, tuple[Policy, int]] = {UNTRAINED: (untrained, 0)}
    measured |= {name: (policy, 0) for name, policy in others.items()}
    measured[TRAINED] = (trained, progress.steps)
    rates = measure_learning(
        config.out,
        spec,
        measured,
        progress.history,
        config.words,
        seeds,
        config.test_steps,
    )
    agent = config.out / "agent"
    print(f'\nThe agent: wm-gym record {spec.twin} --policy {agent} --instruction "{config.words}"')
    report = measurement_header(seeds=list(seeds)) | {
        "settings": {**asdict(config), "out": str(config.out)},
        "world_model": spec.name,
        "imagined_steps": progress.steps,
        "history": progress.history,
        "true_success": rates,
    }
    write_json(config.out / "report.json", report)
    return report
