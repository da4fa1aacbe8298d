"""Recipe: `wm-gym train reward`, the success classifier and distance regressor on latents.

Batches are balanced by task and by kind: successes, near misses (just outside the threshold: nearly
touching, pushed past), anything else and, where the simulator shows only the objects of one
instruction, states asked about under another instruction. A share of every batch are pictures that
show nothing of the domain. Latents carry light noise in training, because they will come out of a
world model. With --imagined a share of every batch does come out of one, under the truth of the
recorded step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from wm_gym.domains import domain_of_tasks
from wm_gym.errors import UserError
from wm_gym.judges.success_classifier import SuccessClassifier, SuccessClassifierConfig
from wm_gym.packed_files import load_tensors
from wm_gym.training.episode_rule import (
    ScoredEpisode,
    choose_rule,
    complete,
    episodes_of,
    measure_rule,
    score_episodes,
)
from wm_gym.training.labelled_latents import (
    FOREIGN_LATENTS,
    LabelledLatents,
    measure_classifier,
    shared_thresholds,
)
from wm_gym.training.loop import LoopConfig, TrainingLoop, generator
from wm_gym.training.run_folder import check_same_scale, write_run


@dataclass(frozen=True)
class RewardConfig:
    """Train the success classifier."""

    latents: Path
    """Folder of training latents with `goal_labels.npz` (`wm-gym label-goals`)."""
    held_out: Path
    """Folder of held-out latents with labels, encoded with the same normalisation."""
    out: Path
    """Run folder; at the end `reward.safetensors` and `reward.json`."""
    init: Path | None = None
    """Weights of a classifier of the same sizes to start from."""
    imagined: Path | None = None
    """Folder of `wm-gym train imagined-latents` with `goal_labels.npz`; success, but neither
    distance nor positions, is learned from it."""
    imagined_share: float = 0.5
    """Share of a batch that is imagined, where there is such a folder."""
    imagined_held_out: Path | None = None
    """The same of held-out episodes; thresholds are then the best for recorded and imagined latents
    together, which the classifier will be asked about, and whole episodes have thresholds of their
    own."""
    foreign_share: float = 0.05
    """Further examples of a batch, as a share of it: pictures that show nothing of the domain
    (black, white, noise, swapped colours …), never a success; 0 leaves them out."""
    near_miss_m: float = 0.02
    """How far outside the threshold a failure still counts as a near miss, in metres."""
    noise: float = 0.15
    """Largest standard deviation of the noise added to normalised latents in training."""
    batch: int = 160
    """Examples a step."""
    distance_weight: float = 1.0
    """Weight of the smooth L1 loss on the distance, which is in decimetres there."""
    position_weight: float = 0.3
    """Weight of the negative log likelihood of the positions of objects and effector."""
    dim: int = 96
    """Classifier width."""
    depth: int = 2
    """Classifier blocks."""
    trunk_dim: int = 128
    """Width of the transformer that reads the latents first."""
    trunk_depth: int = 3
    """Its blocks."""
    trunk_heads: int = 4
    """Its attention heads."""
    trunk: Path | None = None
    """Autoencoder weights whose decoder the trunk starts from."""
    view: tuple[float, float, float, float] | None = None
    """What a frame shows of the table, in metres: x at the left and right edge, y at the top and
    bottom edge; the domain's by default. Where training starts; it need not be exact. Without one
    all cells start in the middle and learn their places."""
    bf16: bool = False
    """Linear layers in bfloat16."""
    measured: int = 1500
    """Held-out near misses, and others, per task in the closing measurement, which also chooses the
    thresholds; twice as many successes."""
    seed: int = 0
    """Seed of initialisation, batches and noise."""
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=5000,
            learning_rate=3e-3,
            final_learning_rate_fraction=0.02,
            warmup_steps=100,
            ema=0.995,
            weight_decay=1e-2,
        )
    )
    """Optimisation."""

    def __post_init__(self) -> None:
        """Check the numbers, and what belongs together, once."""
        if min(self.batch, self.measured) < 1:
            raise UserError(f"batch={self.batch} and measured={self.measured} must be at least 1")
        if not 0 < self.imagined_share < 1:
            raise UserError(
                f"imagined_share={self.imagined_share}; expected a share between 0 and 1, without "
                "either: a classifier needs encoded frames too"
            )
        if not 0 <= self.foreign_share < 1:
            raise UserError(
                f"foreign_share={self.foreign_share}; expected a share of at least 0, less than 1"
            )
        if self.imagined is None and self.imagined_held_out is not None:
            raise UserError(
                f"imagined_held_out={self.imagined_held_out} without imagined; name the folder to "
                "train on too, or measure with `wm-gym evaluate reward-model`"
            )


def start_from_decoder(network: SuccessClassifier, weights: Path, data: LabelledLatents) -> None:
    """Copy a vae-mini decoder into the trunk.

    Raises:
        ValueError: if the autoencoder is of other sizes.
    """
    stored = load_tensors(weights)
    trunk = network.trunk.state_dict()
    wanted = {key: stored[key].float() for key in trunk if key in stored}
    wanted |= {"mean": data.mean, "std": data.std}
    try:
        network.trunk.load_state_dict(wanted)
    except RuntimeError as error:
        raise UserError(f"--trunk {weights} does not fit the classifier: {error}") from error


def start_from(network: SuccessClassifier, weights: Path) -> None:
    """Load the weights of a classifier trained before.

    Raises:
        ValueError: if they are of other sizes.
    """
    try:
        stored = load_tensors(weights)
        network.load_state_dict({key: value.float() for key, value in stored.items()})
    except RuntimeError as error:
        raise UserError(f"--init {weights} does not fit the classifier: {error}") from error


def read_imagined(folder: Path, recorded: LabelledLatents, config: RewardConfig) -> LabelledLatents:
    """Imagined latents of the same world as recorded ones.

    Raises:
        ValueError: if their goals, grid or scale are others.
    """
    imagined = LabelledLatents.read(folder, config.near_miss_m)
    for name, found, wanted in (
        ("goals", imagined.goals, recorded.goals),
        ("a grid", imagined.latents.shape[1:], recorded.latents.shape[1:]),
        ("a mean", imagined.mean.tolist(), recorded.mean.tolist()),
        ("a standard deviation", imagined.std.tolist(), recorded.std.tolist()),
    ):
        if found != wanted:
            raise UserError(
                f"{folder} has {name} of {found}, expected {wanted} of {config.latents}: imagine "
                "with a world model over the same latents"
            )
    return imagined


def view_of(config: RewardConfig, tasks: Sequence[str]) -> tuple[float, float, float, float] | None:
    """What a frame shows of the table: `config.view`, or what the domain of these tasks says."""
    domain = domain_of_tasks(tasks)
    return config.view or (domain.view_m if domain else None)


def _rule_for_episodes(
    worlds: dict[str, list[ScoredEpisode]], thresholds: dict[str, float]
) -> dict[str, Any]:
    """`window`, `episode_threshold` and how often they are right about `episodes` of each kind."""
    rule = choose_rule(list(worlds.values()))
    if rule is None:
        return {}
    rule = complete(rule, thresholds)
    return {
        "window": rule.window,
        "episode_threshold": rule.thresholds,
        "episodes": {name: measure_rule(rule, episodes) for name, episodes in worlds.items()},
    }


def train_reward(config: RewardConfig) -> Path:
    """Train, or resume, and write `reward.safetensors` and `reward.json`.

    Returns:
        The weights file.
    """
    torch.manual_seed(config.seed)
    data = LabelledLatents.read(config.latents, config.near_miss_m)
    held_out = LabelledLatents.read(config.held_out, config.near_miss_m)
    check_same_scale(config.latents, config.held_out)
    sources = [(data, config.batch)]
    if config.imagined is not None:
        imagined = read_imagined(config.imagined, data, config)
        count = max(1, round(config.batch * config.imagined_share))
        sources = [(data, config.batch - count), (imagined, count)]
    foreign = round(config.batch * config.foreign_share)
    if foreign and data.foreign is None:
        raise UserError(
            f"{config.latents} holds no {FOREIGN_LATENTS}, which --foreign-share "
            f"{config.foreign_share} asks for; run the same `wm-gym train latents` again, which "
            "adds it, or pass --foreign-share 0"
        )
    network = SuccessClassifier(
        SuccessClassifierConfig(
            grid=tuple(data.latents.shape[1:3]),  # pyright: ignore[reportArgumentType]
            channels=data.latents.shape[3],
            tasks=data.tasks,
            objects=data.objects,
            dim=config.dim,
            depth=config.depth,
            trunk_dim=config.trunk_dim,
            trunk_depth=config.trunk_depth,
            trunk_heads=config.trunk_heads,
        )
    )
    view = view_of(config, data.tasks)
    if view is not None:
        network.place_cells(view)
    if config.trunk is not None:
        start_from_decoder(network, config.trunk, data)
    if config.init is not None:
        start_from(network, config.init)
    loop = TrainingLoop(
        config.out,
        network,
        config.loop,
        fingerprint={k: v for k, v in asdict(config).items() if k != "measured"}
        | {"view": view, "loop": None, "out": None},
    )
    device = loop.accelerator.device

    def step_function(step: int):
        rng = np.random.default_rng([config.seed, step])
        drawn = [(source, *source.draw(rng, count)) for source, count in sources]
        parts = [source.batch(rows, columns) for source, rows, columns in drawn]
        places = torch.cat([torch.from_numpy(source.positions[rows]) for source, rows, _ in drawn])
        if foreign:
            parts.append(data.foreign_batch(rng, foreign))
            nowhere = torch.full((foreign, *places.shape[1:]), torch.nan, dtype=places.dtype)
            places = torch.cat([places, nowhere])
        latents, goals, success, distance = (torch.cat(part) for part in zip(*parts, strict=True))
        # where things are in a dream, nobody knows
        recorded = torch.arange(len(latents)) < len(parts[0][0])
        places = torch.where(recorded[:, None, None], places, torch.nan).to(device)
        noise = generator(config.seed, step)
        level = config.noise * torch.rand(len(latents), 1, 1, 1, generator=noise)
        latents = latents + level * torch.randn(latents.shape, generator=noise)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
            reading = network.read(latents.to(device))
            features, positions = network.things(reading)
            logit, metres = network.decide(features, positions, goals.to(device))
        judged = F.binary_cross_entropy_with_logits(logit.float(), success.to(device))
        # distances beyond 0.2 m matter little and must not drown the near ones
        known = (recorded & distance.isfinite()).to(device)
        far = F.smooth_l1_loss(
            metres.float().clamp(max=0.3)[known] * 10,
            distance.to(device).clamp(max=0.3)[known] * 10,
            beta=0.1,
        )
        there = places.isfinite().all(-1)
        located = reading.negative_log_likelihood(places.nan_to_num())[there].mean()
        loss = judged + config.distance_weight * far + config.position_weight * located
        right = ((logit > 0) == (success.to(device) > 0.5)).float().mean()
        error_mm = (positions.detach() - places).norm(dim=-1)[there].median() * 1000
        return loss, {
            "cross_entropy": judged.detach(),
            "accuracy": right,
            "position_error_mm_median": error_mm,
        }

    def measure(step: int) -> dict[str, float]:
        averaged = SuccessClassifier(network.config).to(device).eval()
        averaged.load_state_dict(loop.weights())
        report = measure_classifier(averaged, held_out, per_kind=300)
        return {f"balanced_accuracy_{task}": r["balanced_accuracy"] for task, r in report.items()}

    loop.run(step_function, every=500, callback=measure)
    final = SuccessClassifier(network.config).to(device).eval()
    final.load_state_dict(loop.weights())
    dreamt = (
        None
        if config.imagined_held_out is None
        else read_imagined(config.imagined_held_out, data, config)
    )
    count = config.measured
    thresholds = None if dreamt is None else shared_thresholds(final, [held_out, dreamt], count)
    report = measure_classifier(final, held_out, count, thresholds=thresholds)
    record = {"network": asdict(network.config), "held_out": report, "steps": loop.step}
    if dreamt is not None:
        record["imagined_held_out"] = measure_classifier(
            final, dreamt, count, thresholds=thresholds
        )
        assert config.imagined_held_out is not None
        record |= _rule_for_episodes(
            {
                "recorded": score_episodes(final, held_out, episodes_of(config.held_out)),
                "imagined": score_episodes(final, dreamt, episodes_of(config.imagined_held_out)),
            },
            {task: row["threshold"] for task, row in report.items()},
        )
    weights = config.out / "reward.safetensors"
    return write_run(weights, final.state_dict(), config.out / "reward.json", record)
