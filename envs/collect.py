"""Collection of episodes in the ground-truth simulators: `wm-gym collect`.

Every episode is a pure function of the settings and of its own seed, `seed + index`. Episodes are
written in shards of fixed index ranges, each appearing whole or not at all, so a collection that
was killed goes on where it was, and the number of workers changes nothing but the time.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from wm_gym.data.episodes import Episode, EpisodeDataset, ImageFormat
from wm_gym.data.shards import write_index, write_shard
from wm_gym.domains import domain_of
from wm_gym.envs.sims.behaviours import BEHAVIOURS, Behaviours
from wm_gym.envs.simulator_factory import Factory, SimulatorFactory
from wm_gym.errors import UserError
from wm_gym.identity import describe_value
from wm_gym.instructions import Goal
from wm_gym.run_lock import one_writer
from wm_gym.run_settings import keep_run_settings, plain_settings

HELD_OUT_SEEDS = range(6000, 8000)
"""Seeds kept for evaluation (the paper's 6000-6050 among them); training data may not use them. The
recipes choose thresholds on those from 6000 on and measure on those from 7000 on."""

_GOLDEN = (5**0.5 - 1) / 2
_SETTINGS = "collection.json"


@dataclass(frozen=True)
class CollectConfig:
    """What to collect. Episodes depend on everything here but `out`, `workers` and `episodes`.

    `tasks`, `frame_size` and `steps` are those of the simulator's domain unless they are given.
    """

    out: Path
    """Folder of the dataset; a collection that was interrupted there is continued."""
    env_id: str = "LangTable-v0"
    """Simulator."""
    episodes: int = 100
    """Number of episodes in the whole dataset."""
    behaviours: dict[str, float] = field(
        default_factory=lambda: {
            "expert": 0.2,
            "noisy_expert": 0.35,
            "random": 0.35,
            "near_miss": 0.1,
        }
    )
    """Who acts, with weights; shares of the dataset follow them closely."""
    noise: tuple[float, float] | None = None
    """Least and largest noise of a noisy expert, drawn for each episode; in LangTable the standard
    deviation in metres, e.g. 0.012 0.012, in BridgeSim and Cube the fraction of the largest action.
    The simulator's own range by default."""
    objects: str = ""
    """What lies on the table, in simulators that let one choose: in LangTable standard, ood, names
    separated by commas, or mixed, which draws eight of all twenty blocks for every episode; in Cube
    a number from 1 to 4, or names. The simulator's own by default."""
    background: str = ""
    """What surrounds the table, in simulators that let one choose: in Cube grid, or the unseen
    sand, teal and plum; in BridgeSim grey, or the unseen brick and navy. The usual one by default.
    """
    switches: dict[str, str] = field(default_factory=dict)
    """Further arguments of the simulator, as pairs: in BridgeSim e.g. distractors all table slate
    colours unseen, or cameras shoulder,side for two pictures side by side."""
    tasks: tuple[str, ...] = ()
    """Tasks, drawn with equal chances; one that is named twice is drawn twice as often. All of the
    domain by default."""
    seed: int = 0
    """Seed of the first episode; episode i has seed + i."""
    held_out: bool = False
    """These are seeds among 6000 to 7999, which are kept for evaluation."""
    frame_size: str = ""
    """Height and width of the frames, e.g. 180x320; by default what the domain's models see."""
    steps: int = 0
    """Actions per episode, at most; by default as many as the domain's episodes need."""
    stop_on_success: bool = True
    """End an episode of an expert after its success."""
    tail_steps: int = 8
    """Actions that still follow the success before the episode ends."""
    play_on: tuple[str, ...] = ("random", "near_miss")
    """Behaviours whose episodes always have full length."""
    image_format: ImageFormat = "exact"
    """exact keeps every bit; jpeg is about ten times smaller."""
    shard_episodes: int = 20
    """Episodes per file, and per unit of work that a kill may lose."""
    workers: int = 2
    """Processes."""

    def __post_init__(self) -> None:
        """Fill in what the domain says, and check the settings once."""
        domain = domain_of(self.env_id)
        if domain is not None:
            frame = f"{domain.frame.height}x{domain.frame.width}"
            object.__setattr__(self, "tasks", self.tasks or tuple(domain.tasks))
            object.__setattr__(self, "frame_size", self.frame_size or frame)
            object.__setattr__(self, "steps", self.steps or domain.episode_steps)
        elif not self.steps:
            raise UserError(
                f"env_id {self.env_id!r} is no simulator known here, expected one of "
                f"{sorted(BEHAVIOURS)}; for one of your own give tasks, frame_size and steps, and "
                "pass collect(config, factory=...)"
            )
        if self.episodes < 1 or self.steps < 1 or self.workers < 1 or self.shard_episodes < 1:
            raise UserError(
                f"episodes={self.episodes}, steps={self.steps}, workers={self.workers} and "
                f"shard_episodes={self.shard_episodes} must all be at least 1"
            )
        weights = list(self.behaviours.values())
        if not weights or min(weights) < 0 or sum(weights) <= 0:
            raise UserError(
                f"behaviours are {self.behaviours}, expected names with weights of at least 0 and "
                "one above 0, "
                "e.g. {'expert': 0.5, 'random': 0.5}"
            )
        if self.noise is not None and not 0 <= self.noise[0] <= self.noise[1]:
            raise UserError(
                f"noise={self.noise}, expected a least and a largest one of 0 or more, e.g. "
                "noise=(0.003, 0.02)"
            )
        if self.objects and domain is not None and not domain.objects_keyword:
            raise UserError(
                f"objects={self.objects!r}: in {self.env_id!r} the task decides what is there; "
                "leave objects out"
            )
        if self.background and domain and self.background not in domain.backgrounds:
            raise UserError(
                f"background={self.background!r}: {self.env_id!r} has "
                f"{', '.join(domain.backgrounds) or 'one only; leave background out'}"
            )
        if not self.tasks:
            raise UserError(
                f"tasks is empty and {self.env_id!r} has no domain to take them from, expected at "
                "least one, e.g. ('reach', 'push')"
            )
        if self.image_format not in ("exact", "jpeg"):
            raise UserError(f"image_format is {self.image_format!r}, expected 'exact' or 'jpeg'")
        reserved = range(
            max(self.seed, HELD_OUT_SEEDS.start),
            min(self.seed + self.episodes, HELD_OUT_SEEDS.stop),
        )
        if len(reserved) and not self.held_out:
            raise UserError(
                f"seeds {self.seed} to {self.seed + self.episodes - 1} reach into "
                f"{HELD_OUT_SEEDS.start} to "
                f"{HELD_OUT_SEEDS.stop - 1}, which are kept for evaluation; start at "
                f"seed={HELD_OUT_SEEDS.stop} or "
                "collect fewer episodes, or pass held_out=True if this is evaluation data"
            )
        if self.held_out and len(reserved) < self.episodes:
            raise UserError(
                f"held_out=True, but seeds {self.seed} to {self.seed + self.episodes - 1} are not "
                f"all among {HELD_OUT_SEEDS.start} to {HELD_OUT_SEEDS.stop - 1}, which are kept "
                "for evaluation: training data may hold the same episodes; choose others, e.g. "
                f"seed={HELD_OUT_SEEDS.start}"
            )

    def identity(self) -> dict[str, Any]:
        """The settings that the episodes depend on, JSON-ready."""
        settings = asdict(self)
        for name in ("out", "workers", "episodes", "held_out"):
            del settings[name]
        if self.noise is None:  # collections from before there was a choice go on
            del settings["noise"]
        for name in ("objects", "background", "switches"):
            if not settings[name]:
                del settings[name]
        return plain_settings(settings)


def collect(
    config: CollectConfig, factory: Factory | None = None, progress: bool = True
) -> EpisodeDataset:
    """Collect episodes, or finish a collection that was interrupted or is to become longer.

    Args:
        config: what to collect.
        factory: makes another simulator than `config.env_id`, and its behaviours.
        progress: whether to show a progress bar.

    Returns:
        The finished dataset.

    Raises:
        RunSettingsError: if the folder holds a collection with other settings.
        InUseError: if another process collects into it.
        ValueError: if a behaviour is unknown, or the folder holds more episodes.
    """
    settings = config.identity()
    if factory is not None:  # nothing but its code and content says what it makes
        settings["factory"] = describe_value(factory)
    factory = factory or SimulatorFactory(
        config.env_id,
        config.frame_size,
        config.steps,
        config.noise,
        config.objects,
        config.background,
        tuple(config.switches.items()),
    )
    env, behaviours = factory()
    unknown = set(config.behaviours) - set(behaviours)
    if unknown:
        raise UserError(
            f"behaviours {sorted(unknown)} are unknown to this simulator, expected "
            f"{sorted(behaviours)}"
        )
    out = Path(config.out).expanduser()
    try:
        with one_writer(out):
            keep_run_settings(out / _SETTINGS, settings)
            _collect_missing(config, factory, progress)
            write_index(
                out,
                observation_space=env.observation_space,
                action_space=env.action_space,
                image_format=config.image_format,
                env_spec=env.spec.to_json() if env.spec is not None else None,
                description=f"wm-gym collect {json.dumps(config.identity())}",
            )
    finally:
        env.close()
    return EpisodeDataset(out)


def _collect_missing(config: CollectConfig, factory: Factory, progress: bool) -> None:
    """Collect the shards that are not there or not whole."""
    from tqdm import tqdm

    out = Path(config.out).expanduser()
    shards = _shards(config)
    surplus = set((out / "shards").glob("*.hdf5")) - {
        _shard_path(out, s.start, config) for s in shards
    }
    todo = []
    for numbers in shards:
        stored = _episodes_in(_shard_path(out, numbers.start, config))
        if stored > len(numbers) or surplus:
            raise UserError(
                f"{out} already holds more than {config.episodes} episodes; ask for at least as "
                "many, or collect "
                "into another folder"
            )
        if stored < len(numbers):
            todo.append(numbers)
    missing = sum(len(numbers) for numbers in todo)
    with tqdm(
        total=config.episodes,
        initial=config.episodes - missing,
        unit="episode",
        desc=out.name,
        disable=not progress,
    ) as bar:
        for done in _run([(config, factory, numbers) for numbers in todo], config.workers):
            bar.update(done)


def behaviour_of(config: CollectConfig, seed: int) -> str:
    """Who acts in the episode of a seed.

    Multiples of the golden ratio fill the unit interval evenly, so the shares follow the weights in
    any stretch of seeds; draws would scatter.
    """
    shares = np.cumsum(list(config.behaviours.values()))
    place = (seed * _GOLDEN) % 1.0 * shares[-1]
    return list(config.behaviours)[int(np.searchsorted(shares, place, side="right"))]


def collect_episode(
    env: gym.Env, behaviours: Behaviours, config: CollectConfig, seed: int
) -> Episode:
    """Play one episode, a pure function of the settings and the seed.

    Args:
        env: simulator with pixel observations that offers `privileged_state()`, `get_state()`,
            `goal` (with `task` and `objects`) and `objects`.
        behaviours: makers of behaviours, by name.
        config: the settings.
        seed: the episode's seed.
    """
    rng = np.random.default_rng([seed, 1])
    name = behaviour_of(config, seed)
    task = config.tasks[int(rng.integers(len(config.tasks)))]
    simulator: Any = env.unwrapped
    box: Any = env.action_space
    frame, info = env.reset(seed=seed, options={"task": task})
    behaviour = behaviours[name](rng)
    behaviour.reset(simulator.goal, rng, tuple(simulator.objects))
    start_state = simulator.get_state()
    frames, privileged = [np.array(frame)], [simulator.privileged_state()]
    success, actions = [bool(info["is_success"])], []
    last = config.steps
    while len(actions) < last:
        action = np.asarray(behaviour.act(simulator), np.float32)
        # what the simulator executes is stored: a world model cannot know of more
        action = np.clip(action, box.low, box.high)
        frame, _, terminated, truncated, info = env.step(action)
        actions.append(action)
        frames.append(np.array(frame))
        privileged.append(simulator.privileged_state())
        success.append(bool(info["is_success"]))
        if success[-1] and config.stop_on_success and name not in config.play_on:
            last = min(config.steps, success.index(True) + config.tail_steps)
        if terminated or truncated:
            break
    return Episode(
        frames=np.stack(frames),
        actions=np.stack(actions),
        privileged=np.stack(privileged),
        success=np.asarray(success),
        instruction=info["instruction"],
        goal=Goal(simulator.goal.task, tuple(simulator.goal.objects)),
        seed=seed,
        behaviour=name,
        start_state=start_state,
    )


def _shards(config: CollectConfig) -> list[range]:
    size = config.shard_episodes
    return [range(a, min(a + size, config.episodes)) for a in range(0, config.episodes, size)]


def _shard_path(out: Path, first: int, config: CollectConfig) -> Path:
    return out / "shards" / f"{first // config.shard_episodes:06d}.hdf5"


def _episodes_in(shard: Path) -> int:
    import h5py

    try:
        with h5py.File(shard, "r") as file:
            return len(file)
    except OSError:  # absent, or cut off by a full disk or a copy: it is made again
        return 0


_Job = tuple[CollectConfig, Factory, range]
_made: dict[Any, tuple[gym.Env, Behaviours]] = {}


def _collect_shard(job: _Job) -> int:
    config, factory, numbers = job
    if factory not in _made:  # one simulator per process, whatever the number of shards
        _made[factory] = factory()
    env, behaviours = _made[factory]
    episodes = [collect_episode(env, behaviours, config, config.seed + i) for i in numbers]
    path = _shard_path(Path(config.out).expanduser(), numbers.start, config)
    write_shard(path, episodes, numbers.start, config.image_format)
    return len(episodes)


def _start_worker() -> None:
    # Mesa's software renderer would start threads in every worker, which then wait for each other
    os.environ.setdefault("LP_NUM_THREADS", "0")


def _run(jobs: list[_Job], workers: int) -> Iterator[int]:
    workers = min(workers, len(jobs))
    if workers <= 1:
        try:
            yield from map(_collect_shard, jobs)
        finally:
            for env, _ in _made.values():
                env.close()
            _made.clear()
        return
    # spawn: a GL context does not survive a fork
    with multiprocessing.get_context("spawn").Pool(workers, _start_worker) as pool:
        yield from pool.imap_unordered(_collect_shard, jobs)
