"""Latents with success and distance under every goal, and how right a classifier is on them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from wm_gym.errors import UserError
from wm_gym.instructions import named_objects
from wm_gym.judges.success_classifier import SuccessClassifier
from wm_gym.metrics.statistics import balanced_accuracy

FOREIGN_LATENTS = "foreign.npy"
"""File beside the latents: those of pictures that show nothing of the domain."""


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
        foreign: (M, h, w, D) latents of pictures that show nothing of the domain, raw if mean and
            std are given; None where there are none.
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
        foreign: np.ndarray | None = None,
    ) -> None:
        self.latents, self.goals = latents, goals
        self.success, self.distance, self.positions = success, distance_m, positions_m
        self.mean, self.std = torch.tensor(mean), torch.tensor(std)
        self.foreign = foreign
        self.tasks = tuple(dict.fromkeys(goal[0] for goal in self.goals))
        self.objects = named_objects(self.goals)
        self.numbers = torch.tensor([self._number(goal) for goal in self.goals])
        self.columns = {
            task: np.flatnonzero([goal[0] == task for goal in self.goals]) for task in self.tasks
        }
        self.pools: dict[tuple[str, str], np.ndarray] = {}
        for task in self.tasks:
            kinds = self._kinds(task, near_miss_m)
            for kind, mask in zip(KINDS, kinds, strict=True):
                self.pools[task, kind] = np.flatnonzero(mask)

    @classmethod
    def read(cls, folder: Path, near_miss_m: float) -> LabelledLatents:
        """Read a folder of latents with `goal_labels.npz` and `normalisation.json`."""
        path = folder / "goal_labels.npz"
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing; write it with `wm-gym label-goals`")
        labels = np.load(path, allow_pickle=False)
        scale = json.loads((folder / "normalisation.json").read_text(encoding="utf-8"))
        return cls(
            np.load(folder / "latents.npy"),
            json.loads(str(labels["goals"])),
            labels["success"],
            labels["distance_m"],
            labels["positions_m"],
            near_miss_m,
            scale["mean"],
            scale["std"],
            np.load(folder / FOREIGN_LATENTS) if (folder / FOREIGN_LATENTS).exists() else None,
        )

    def _number(self, goal: list[str]) -> list[int]:
        slots = [self.objects.index(w) if w else len(self.objects) for w in goal[1:]]
        return [self.tasks.index(goal[0]), *slots]

    def _kinds(self, task: str, margin: float) -> tuple[np.ndarray, ...]:
        """Masks (N, columns) of the examples of each of `KINDS`."""
        columns = self.columns[task]
        success, distance = self.success[:, columns], self.distance[:, columns]
        # distance just outside success, measured from the largest distance that is one
        edge = float(distance[success].max()) if success.any() else 0.0
        near = ~success & (distance < edge + margin)
        elsewhere = np.isnan(distance)  # the state shows other objects than the goal names
        done = np.any(self.success, axis=1, keepdims=True)
        far = ~success & ~near & ~elsewhere
        return success, near, far, elsewhere & done, elsewhere & ~done

    def draw(self, rng: np.random.Generator, batch: int) -> tuple[np.ndarray, np.ndarray]:
        """Balanced rows and goal columns, (B,) each."""
        rows, columns = [], []
        kinds = [kind for kind, pool in self.pools.items() if len(pool)]
        for i in range(batch):
            task, kind = kinds[i % len(kinds)]
            pool = self.pools[task, kind]
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

    def foreign_batch(self, rng: np.random.Generator, batch: int) -> tuple[torch.Tensor, ...]:
        """Foreign pictures as `batch` gives examples: under any goal, never a success.

        Raises:
            ValueError: if there are none.
        """
        if self.foreign is None or not len(self.foreign):
            raise UserError("there are no foreign pictures; encode the data set again")
        chosen = self.foreign[rng.integers(len(self.foreign), size=batch)]
        latents = (torch.from_numpy(chosen.astype(np.float32)) - self.mean) / self.std
        columns = rng.integers(len(self.goals), size=batch)
        unknown = torch.full((batch,), torch.nan)
        return latents, self.numbers[columns], torch.zeros(batch), unknown


KINDS = ("success", "near miss", "far", "other goal done", "other objects")
"""Kinds of examples. The last two are states without the objects that the goal names, in which
another goal holds or none does."""

CANDIDATES = np.linspace(0.05, 0.95, 91)
"""Thresholds that are tried."""


def _sample(
    network: SuccessClassifier,
    data: LabelledLatents,
    task: str,
    per_kind: int,
    rng: np.random.Generator,
) -> dict[str, tuple[np.ndarray, np.ndarray]] | None:
    """Scores and distance errors by kind of example; None without both outcomes."""
    parts = {}
    for kind, share in (("success", 2), ("near miss", 1), ("far", 1)):
        pool = data.pools[task, kind]
        if not len(pool):
            continue
        flat = pool[rng.integers(len(pool), size=per_kind * share)]
        rows, columns = np.divmod(flat, len(data.columns[task]))
        latents, goals, _, distance = data.batch(rows, data.columns[task][columns])
        outputs = [network(x, g) for x, g in zip(latents.split(256), goals.split(256), strict=True)]
        logits = torch.cat([o[0] for o in outputs])
        metres = torch.cat([o[1] for o in outputs])
        parts[kind] = (logits.sigmoid().numpy(), (metres - distance).abs().numpy())
    return parts if "success" in parts and len(parts) > 1 else None


def _scores(parts: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Scores of all kinds of examples, and whether each is a success."""
    score = np.concatenate([part[0] for part in parts.values()])
    truth = np.concatenate([np.full(len(p[0]), k == "success") for k, p in parts.items()])
    return score, truth


@torch.inference_mode()
def shared_thresholds(
    network: SuccessClassifier,
    worlds: Sequence[LabelledLatents],
    per_kind: int = 1500,
    seed: int = 1,
) -> dict[str, float]:
    """Thresholds for a classifier that is asked about several kinds of latents.

    Args:
        network: the classifier.
        worlds: recorded and imagined latents it was not trained on.
        per_kind: as in `measure_classifier`.
        seed: of the samples.

    Returns:
        By task, the one with the best balanced accuracy on average over those worlds that have
        both outcomes of the task.
    """
    thresholds = {}
    for task in worlds[0].tasks:
        found = []
        for world in worlds:
            parts = _sample(network, world, task, per_kind, np.random.default_rng(seed))
            if parts is not None:
                score, truth = _scores(parts)
                found.append([balanced_accuracy(score > c, truth) for c in CANDIDATES])
        if found:
            thresholds[task] = round(float(CANDIDATES[int(np.argmax(np.mean(found, 0)))]), 3)
    return thresholds


def _false_affirmations(
    network: SuccessClassifier,
    data: LabelledLatents,
    task: str,
    threshold: float,
    count: int,
    seed: int,
) -> dict[str, float]:
    """Shares of what can be no success and is affirmed all the same, under goals of one task."""
    rng = np.random.default_rng([seed, 2])
    columns, rates = data.columns[task], {}
    examples: dict[str, tuple[torch.Tensor, ...]] = {}
    pool = data.pools[task, "other goal done"]
    if len(pool):
        flat = pool[rng.integers(len(pool), size=count)]
        rows, places = np.divmod(flat, len(columns))
        examples["other_instruction_rate"] = data.batch(rows, columns[places])
    if data.foreign is not None and len(data.foreign):
        latents, *_ = data.foreign_batch(rng, count)
        goals = data.numbers[columns[rng.integers(len(columns), size=count)]]
        examples["foreign_picture_rate"] = (latents, goals)
    for name, (latents, goals, *_) in examples.items():
        parts = zip(latents.split(256), goals.split(256), strict=True)
        scores = torch.cat([network(x, g)[0].sigmoid() for x, g in parts])
        rates[name] = float((scores > threshold).float().mean())
    return rates


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
        distance error in metres, and the shares that are affirmed of states in which only another
        instruction's goal holds (`other_instruction_rate`) and of foreign pictures
        (`foreign_picture_rate`), where the data have such. A task without any success in the data
        is left out.

    Raises:
        ValueError: if a task of the data has successes but `thresholds` says nothing about it.
    """
    missing = [
        task
        for task in data.tasks
        if thresholds is not None and task not in thresholds and len(data.pools[task, "success"])
    ]
    if missing:
        raise UserError(
            f"the success classifier has no threshold for {missing}, expected one for every task "
            f"that the data solve; it has {sorted(thresholds or {})}. Train it on episodes in "
            "which these tasks are solved (`wm-gym train reward`)"
        )
    rng, report = np.random.default_rng(seed), {}
    for task in data.tasks:
        parts = _sample(network, data, task, per_kind, rng)
        if parts is None:
            continue
        score, truth = _scores(parts)
        if thresholds is None:
            half = rng.permutation(len(score)) % 2 == 0
            best = [balanced_accuracy(score[half] > c, truth[half]) for c in CANDIDATES]
            threshold = round(float(CANDIDATES[int(np.argmax(best))]), 3)
        else:
            half, threshold = np.zeros(len(score), bool), thresholds[task]
        near = parts.get("near miss", (np.full(1, np.nan),))[0]
        report[task] = {
            "threshold": threshold,
            **_false_affirmations(network, data, task, threshold, per_kind, seed),
            "balanced_accuracy": balanced_accuracy(score[~half] > threshold, truth[~half]),
            "near_miss_false_positive_rate": float((near > threshold).mean()),
            "distance_error_m_median": float(
                np.median(np.concatenate([p[1] for p in parts.values()]))
            ),
        }
    return report
