"""Recipe: `wm-gym train reward`, the success classifier and distance regressor on latents.

Batches are balanced by task and by kind: a third of the examples are successes, a third near misses
(just outside the threshold: nearly touching, pushed past), a third anything else. Latents carry
light noise in training, because they will come out of a world model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from wm_gym.domains import domain_of_tasks
from wm_gym.instructions import named_objects
from wm_gym.judges.success_classifier import SuccessClassifier, SuccessClassifierConfig
from wm_gym.metrics.statistics import balanced_accuracy
from wm_gym.training.loop import LoopConfig, TrainingLoop, generator


@dataclass(frozen=True)
class RewardConfig:
    """Train the success classifier."""

    latents: Path
    """Folder of training latents with `goal_labels.npz` (`wm-gym label-goals`)."""
    held_out: Path
    """Folder of held-out latents with labels, encoded with the same normalisation."""
    out: Path
    """Run folder; at the end `reward.safetensors` and `reward.json`."""
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


class LabelledLatents:
    """Normalised latents with success and distance under every goal.

    Args:
        latents: (N, h, w, D), raw if mean and std are given.
        goals: [task, first, second or ""] of every column.
        success: (N, G) bool.
        distance_m: (N, G) metres; NaN where a state says nothing about a goal.
        positions_m: (N, K, 2) metres: the objects, then the effector; NaN for what is not there.
        near_miss_m: how far outside the threshold a failure is a near miss, in metres.
        mean: per channel, subtracted from latents.
        std: per channel, divided by.
    """

    def __init__(
        self,
        latents: np.ndarray,
        goals: list[list[str]],
        success: np.ndarray,
        distance_m: np.ndarray,
        positions_m: np.ndarray,
        near_miss_m: float,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
    ) -> None:
        self.latents, self.goals = latents, goals
        self.success, self.distance, self.positions = success, distance_m, positions_m
        self.mean, self.std = torch.tensor(mean), torch.tensor(std)
        self.tasks = tuple(dict.fromkeys(goal[0] for goal in self.goals))
        self.objects = named_objects(self.goals)
        self.numbers = torch.tensor([self._number(goal) for goal in self.goals])
        self.columns = {
            task: np.flatnonzero([goal[0] == task for goal in self.goals]) for task in self.tasks
        }
        self.pools: dict[tuple[str, str], np.ndarray] = {}
        for task in self.tasks:
            kinds = self._kinds(task, near_miss_m)
            for kind, mask in zip(("success", "near miss", "far"), kinds, strict=True):
                self.pools[task, kind] = np.flatnonzero(mask)

    @classmethod
    def read(cls, folder: Path, near_miss_m: float) -> LabelledLatents:
        """Read a folder of latents with `goal_labels.npz` and `normalisation.json`."""
        path = folder / "goal_labels.npz"
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing; write it with `wm-gym label-goals`")
        labels = np.load(path, allow_pickle=False)
        scale = json.loads((folder / "normalisation.json").read_text())
        return cls(
            np.load(folder / "latents.npy"),
            json.loads(str(labels["goals"])),
            labels["success"],
            labels["distance_m"],
            labels["positions_m"],
            near_miss_m,
            scale["mean"],
            scale["std"],
        )

    def _number(self, goal: list[str]) -> list[int]:
        slots = [self.objects.index(w) if w else len(self.objects) for w in goal[1:]]
        return [self.tasks.index(goal[0]), *slots]

    def _kinds(self, task: str, margin: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        columns = self.columns[task]
        success, distance = self.success[:, columns], self.distance[:, columns]
        # distance just outside success, measured from the largest distance that is one
        edge = float(distance[success].max()) if success.any() else 0.0
        near = ~success & (distance < edge + margin)
        return success, near, ~success & ~near & np.isfinite(distance)

    def draw(self, rng: np.random.Generator, batch: int) -> tuple[np.ndarray, np.ndarray]:
        """Balanced rows and goal columns, (B,) each."""
        rows, columns = [], []
        kinds = list(self.pools)
        for i in range(batch):
            task, kind = kinds[i % len(kinds)]
            pool = self.pools[task, kind]
            if not len(pool):
                continue
            flat = int(pool[rng.integers(len(pool))])
            row, column = divmod(flat, len(self.columns[task]))
            rows.append(row)
            columns.append(self.columns[task][column])
        return np.asarray(rows), np.asarray(columns)

    def batch(self, rows: np.ndarray, columns: np.ndarray) -> tuple[torch.Tensor, ...]:
        """Normalised latents, goal numbers, success (float) and distance in metres."""
        latents = (torch.from_numpy(self.latents[rows].astype(np.float32)) - self.mean) / self.std
        success = torch.from_numpy(self.success[rows, columns]).float()
        distance = torch.from_numpy(self.distance[rows, columns]).float()
        return latents, self.numbers[columns], success, distance


@torch.inference_mode()
def measure_classifier(
    network: SuccessClassifier,
    data: LabelledLatents,
    per_kind: int = 1500,
    seed: int = 1,
    thresholds: Mapping[str, float] | None = None,
) -> dict[str, dict[str, float]]:
    """Figures per task on a sample: half successes, a quarter near misses, a quarter others.

    Args:
        network: the classifier, with the same tasks and objects as `data`.
        data: latents it was not trained on.
        per_kind: near misses, and others, per task; twice as many successes.
        seed: of the sample.
        thresholds: by task; without them each is chosen for the best balanced accuracy on one half
            of the examples, and the figures are of the other half.

    Returns:
        By task: threshold, balanced accuracy, share of near misses taken for successes, median
        distance error in metres. A task without any success in the data is left out.

    Raises:
        ValueError: if a task of the data has successes but `thresholds` says nothing about it.
    """
    missing = [
        task
        for task in data.tasks
        if thresholds is not None and task not in thresholds and len(data.pools[task, "success"])
    ]
    if missing:
        raise ValueError(
            f"the success classifier has no threshold for {missing}, expected one for every task "
            f"that the data solve; it has {sorted(thresholds or {})}. Train it on episodes in "
            "which these tasks are solved (`wm-gym train reward`)"
        )
    rng, report = np.random.default_rng(seed), {}
    for task in data.tasks:
        parts = {}
        for kind, share in (("success", 2), ("near miss", 1), ("far", 1)):
            pool = data.pools[task, kind]
            if not len(pool):
                continue
            flat = pool[rng.integers(len(pool), size=per_kind * share)]
            rows, columns = np.divmod(flat, len(data.columns[task]))
            latents, goals, _, distance = data.batch(rows, data.columns[task][columns])
            outputs = [
                network(x, g) for x, g in zip(latents.split(256), goals.split(256), strict=True)
            ]
            logits = torch.cat([o[0] for o in outputs])
            metres = torch.cat([o[1] for o in outputs])
            parts[kind] = (logits.sigmoid().numpy(), (metres - distance).abs().numpy())
        if "success" not in parts or len(parts) < 2:
            continue
        score = np.concatenate([part[0] for part in parts.values()])
        truth = np.concatenate([np.full(len(p[0]), k == "success") for k, p in parts.items()])
        if thresholds is None:
            half = rng.permutation(len(score)) % 2 == 0
            candidates = np.linspace(0.05, 0.95, 91)
            best = [balanced_accuracy(score[half] > c, truth[half]) for c in candidates]
            threshold = round(float(candidates[int(np.argmax(best))]), 3)
        else:
            half, threshold = np.zeros(len(score), bool), thresholds[task]
        near = parts.get("near miss", (np.full(1, np.nan),))[0]
        report[task] = {
            "threshold": threshold,
            "balanced_accuracy": balanced_accuracy(score[~half] > threshold, truth[~half]),
            "near_miss_false_positive_rate": float((near > threshold).mean()),
            "distance_error_m_median": float(
                np.median(np.concatenate([p[1] for p in parts.values()]))
            ),
        }
    return report


def start_from_decoder(network: SuccessClassifier, weights: Path, data: LabelledLatents) -> None:
    """Copy a vae-mini decoder into the trunk.

    Raises:
        ValueError: if the autoencoder is of other sizes.
    """
    from safetensors.torch import load_file

    stored = load_file(weights)
    trunk = network.trunk.state_dict()
    wanted = {key: stored[key].float() for key in trunk if key in stored}
    wanted |= {"mean": data.mean, "std": data.std}
    try:
        network.trunk.load_state_dict(wanted)
    except RuntimeError as error:
        raise ValueError(f"--trunk {weights} does not fit the classifier: {error}") from error


def view_of(config: RewardConfig, tasks: Sequence[str]) -> tuple[float, float, float, float] | None:
    """What a frame shows of the table: `config.view`, or what the domain of these tasks says."""
    domain = domain_of_tasks(tasks)
    return config.view or (domain.view_m if domain else None)


def train_reward(config: RewardConfig) -> Path:
    """Train, or resume, and write `reward.safetensors` and `reward.json`.

    Returns:
        The weights file.
    """
    from safetensors.torch import save_file

    torch.manual_seed(config.seed)
    data = LabelledLatents.read(config.latents, config.near_miss_m)
    held_out = LabelledLatents.read(config.held_out, config.near_miss_m)
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
    loop = TrainingLoop(
        config.out,
        network,
        config.loop,
        fingerprint=asdict(config) | {"view": view, "loop": None, "out": None},
    )
    device = loop.accelerator.device

    def step_function(step: int):
        rows, columns = data.draw(np.random.default_rng([config.seed, step]), config.batch)
        latents, goals, success, distance = data.batch(rows, columns)
        places = torch.from_numpy(data.positions[rows]).to(device)
        noise = generator(config.seed, step)
        level = config.noise * torch.rand(len(latents), 1, 1, 1, generator=noise)
        latents = latents + level * torch.randn(latents.shape, generator=noise)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
            reading = network.read(latents.to(device))
            features, positions = network.things(reading)
            logit, metres = network.decide(features, positions, goals.to(device))
        judged = F.binary_cross_entropy_with_logits(logit.float(), success.to(device))
        # distances beyond 0.2 m matter little and must not drown the near ones
        far = F.smooth_l1_loss(
            metres.float().clamp(max=0.3) * 10, distance.clamp(max=0.3).to(device) * 10, beta=0.1
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
    report = measure_classifier(final, held_out)
    path = config.out / "reward.safetensors"
    save_file({k: v.contiguous().cpu() for k, v in final.state_dict().items()}, path)
    record = {"network": asdict(network.config), "held_out": report, "steps": loop.step}
    (config.out / "reward.json").write_text(json.dumps(record, indent=1))
    return path
