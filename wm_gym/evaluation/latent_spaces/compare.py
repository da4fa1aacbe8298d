"""`wm-gym evaluate latent-spaces`: what different latent spaces make of the same data.

Every model imagines the same held-out clips. Measured are open loop and the decoder's own limit,
how well actions can be read from encoded and from imagined latents, how well they can be planned
back, and the success classifier, each beside controls; and whether the encoder has collapsed.
Figures of one run are of one set of clips, so that models may be compared in pairs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from wm_gym.checkpoints import Checkpoint
from wm_gym.data.episodes import EpisodeDataset
from wm_gym.errors import UserError
from wm_gym.evaluation.latent_spaces.action_content import (
    ReadActions,
    RecoveryConfig,
    latents_of_clips,
    measure_recovery,
    read_clips,
)
from wm_gym.evaluation.open_loop.clips import OpenLoopClips, open_recorded, sample_clips
from wm_gym.evaluation.open_loop.measure import OpenLoopConfig, measure_open_loop
from wm_gym.evaluation.report import measurement_header, write_json, write_metric
from wm_gym.evaluation.success.reward_model import RewardModelConfig, measure_reward_model
from wm_gym.latents.registry import find_space
from wm_gym.metrics.features import collapse_figures
from wm_gym.metrics.idm import TransformerIDM
from wm_gym.metrics.statistics import resampled_interval
from wm_gym.training.idm import load_idm
from wm_gym.world_model import load_world_model

if TYPE_CHECKING:
    from wm_gym.world_model import LatentWorldModel

FAMILIES = ("semantic", "reconstruction")


@dataclass(frozen=True)
class LatentSpacesConfig:
    """Compare world models over different latent spaces on the same held-out episodes."""

    checkpoints: tuple[Path, ...]
    """Checkpoint folders, one for each latent space."""
    idms: tuple[Path, ...]
    """Run folders of `wm-gym train idm`, any number for each model; each is used for the model
    whose latents it was trained on."""
    data: Path
    """Held-out episodes of `wm-gym collect --held-out`."""
    horizons: tuple[int, ...] = (1, 5, 10, 20)
    """Steps at which frames are compared; actions are read from as many imagined steps."""
    clips: int = 64
    """Clips, at most one per episode."""
    batch: int = 16
    """Rollouts at once."""
    recovery: RecoveryConfig = field(default_factory=RecoveryConfig)
    """Action recovery."""
    reward_episodes: int = 64
    """Episodes for the success classifier; 0 leaves it out."""
    seed: int = 0
    """Seed of clips, noise and candidates."""
    out: Path = Path("outputs/latent_spaces")
    """Folder for the figure."""
    json: Path | None = None
    """File for the figures."""
    write_card: bool = False
    """Also write each model's figures into its card.json, as `latent_space`."""

    def __post_init__(self) -> None:
        """Check the numbers once."""
        if not self.checkpoints or min(self.horizons, default=0) < 1 or self.clips < 2:
            raise UserError(
                f"checkpoints={self.checkpoints}, horizons={self.horizons}, clips={self.clips}: "
                "expected at least one checkpoint, horizons of 1 or more and 2 clips (shuffled "
                "actions need another clip)"
            )


@dataclass(frozen=True)
class Measured:
    """One model's figures, and what comparisons need beside them."""

    report: dict[str, Any]
    read: dict[str, ReadActions]


def idms_of(model: LatentWorldModel, folders: tuple[Path, ...]) -> dict[str, TransformerIDM]:
    """The inverse dynamics models that were trained on a model's latents, as "k_1", "k_4", ...

    Raises:
        ValueError: if there is none, or two of one horizon.
    """
    found: dict[str, TransformerIDM] = {}
    for folder in folders:
        network, record = load_idm(folder)
        scale, latent = record["normalisation"], model.spec.latent
        same = record["latents"]["space"] == latent.space and all(
            np.allclose(scale[name], getattr(latent, name), atol=1e-6)
            if len(scale[name]) == latent.channels
            else False
            for name in ("mean", "std")
        )
        name = f"k_{network.cfg.horizon}"
        if same and name in found:
            raise UserError(f"{folder} is the second inverse dynamics model {name} of one model")
        if same:
            found[name] = network
    if not found:
        raise UserError(
            f"none of {[str(folder) for folder in folders]} was trained on latents of the space "
            f"and the normalisation of {model.spec.name}; encode episodes with `wm-gym train "
            f"latents --space {model.folder}` and train one on them with `wm-gym train idm`"
        )
    return dict(sorted(found.items()))


def measure_model(
    model: LatentWorldModel, data: EpisodeDataset, config: LatentSpacesConfig
) -> Measured:
    """All figures of one model.

    Raises:
        ValueError: if no episode is long enough, or there is no inverse dynamics model.
    """
    idms = idms_of(model, config.idms)
    steps = max(config.horizons)
    clips = sample_clips(data, model.spec, config.clips, steps, config.seed)
    open_loop = OpenLoopConfig(
        config.data, horizons=config.horizons, batch=config.batch, seed=config.seed
    )
    scores, _ = measure_open_loop(model, clips, open_loop)
    whole = complete(clips)
    latents = latents_of_clips(model, whole, config.batch, config.seed)
    read = {name: read_clips(model, idm, latents, config.seed) for name, idm in idms.items()}
    latent = model.spec.latent
    starts = latents.encoded[:, 0] * torch.tensor(latent.std) + torch.tensor(latent.mean)
    report: dict[str, Any] = {
        "space": latent.space,
        "family": FAMILIES[0] if find_space(latent.space).semantic else FAMILIES[1],
        "weights_sha256": model.spec.weights_sha256,
        "features": {
            **collapse_figures(starts),
            "channels": latent.channels,
        },
        "open_loop": scores,
        "idm": {name: found.scores() for name, found in read.items()},
        "action_recovery": measure_recovery(model, whole, latents, config.recovery, config.seed),
    }
    if config.reward_episodes and model.spec.reward is not None:
        judged = RewardModelConfig(
            config.data, episodes=config.reward_episodes, horizon=steps, seed=config.seed
        )
        report["reward_model"] = measure_reward_model(model, data, judged)
    return Measured(report, read)


def complete(clips: OpenLoopClips) -> OpenLoopClips:
    """The clips in which every step is recorded.

    Raises:
        ValueError: if there are fewer than two.
    """
    rows = np.flatnonzero(clips.steps == clips.truth.shape[1])
    if len(rows) < 2:
        raise UserError(
            f"only {len(rows)} clips have all {clips.truth.shape[1]} steps recorded, expected 2 or "
            "more; lower --horizons or collect longer episodes"
        )
    states = None if clips.states is None else clips.states[rows]
    return OpenLoopClips(
        clips.frames[rows], clips.actions[rows], clips.steps[rows], clips.history, states
    )


def compare_families(measured: Mapping[str, Measured]) -> dict[str, Any]:
    """Do semantic latents keep actions better when they are imagined? By k, with intervals.

    Args:
        measured: figures by model.

    Returns:
        By k: the difference of Pearson's r on generated latents, semantic minus reconstruction
        (means of each family), its interval over clips, and a verdict: "yes" or "no" where the
        interval leaves out 0, else "undecided". {} unless there are models of both families.
    """
    families = {
        family: [m for m in measured.values() if m.report["family"] == family]
        for family in FAMILIES
    }
    if not all(families.values()):
        return {}
    common = set.intersection(*(set(m.read) for m in measured.values()))
    answer = {}
    for name in sorted(common):
        count = min(len(m.read[name].truth) for m in measured.values())

        def difference(clips: np.ndarray, name: str = name) -> float:
            semantic, painted = (
                np.mean([m.read[name].pearson("generated", clips) for m in families[family]])
                for family in FAMILIES
            )
            return float(semantic - painted)

        interval = resampled_interval(difference, count)
        verdict = "yes" if interval.low > 0 else "no" if interval.high < 0 else "undecided"
        answer[name] = {
            "semantic_minus_reconstruction": interval.estimate,
            "interval": [interval.low, interval.high],
            "semantic_latents_keep_actions_better": verdict,
        }
    return answer


def table_rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The printed table, a row for each model, the first one the heading."""
    models = report["models"]
    horizons = sorted(
        {key for m in models.values() for key in m["open_loop"] if key.startswith("horizon_")},
        key=lambda key: int(key.removeprefix("horizon_")),
    )
    ks = sorted({k for m in models.values() for k in m["idm"]})
    heading = ["model", *(f"gap closed @{h.removeprefix('horizon_')}" for h in horizons)]
    heading += ["decoder dB"]
    collapse = all("features" in m for m in models.values())
    heading += ["feature rank", "of"] if collapse else []
    for k in ks:
        read = f"IDM r, k = {k.removeprefix('k_')}"
        heading += [f"{read}: encoded", f"{read}: imagined", f"{read}: shuffled", f"{read}: noise"]
    judged = ("real", "imagined", "copy_first")
    heading += ["classifier: real", "classifier: imagined", "classifier: first frame"]
    heading += ["CEM error", "CEM: shuffled", "CEM: noise", "CEM: no search"]
    rows: list[tuple[str, ...]] = [tuple(heading)]
    for name, m in models.items():
        row = [name, *(_number(m["open_loop"][h]["gap_closed"]) for h in horizons)]
        row.append(_number(m["open_loop"][horizons[-1]]["changed_psnr_reconstruction"], 1))
        if collapse:
            row.append(_number(m["features"]["feature_rank"], 1))
            row.append(str(m["features"]["channels"]))
        for k in ks:
            for version in ("encoder", "generated", "shuffled_actions", "random_latents"):
                row.append(_number(m["idm"].get(k, {}).get(version, {}).get("pearson")))
        for where in judged:
            tasks = m.get("reward_model", {}).get(where, {}).values()
            scores = [task["balanced_accuracy"] for task in tasks]
            row.append(_number(float(np.mean(scores)) if scores else None))
        searched = m["action_recovery"]
        names = ("error", "shuffled_actions", "random_latents", "middle_of_range")
        rows.append((*row, *(_number(searched[key]) for key in names)))
    return rows


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def evaluate_latent_spaces(config: LatentSpacesConfig) -> dict[str, Any]:
    """Run `wm-gym evaluate latent-spaces`: measure, draw, write and print.

    Returns:
        What `--json` writes.

    Raises:
        CheckpointError: if a checkpoint cannot be read.
        ValueError: if models share a name, or parts do not belong together.
    """
    from wm_gym.evaluation.latent_spaces.figures import draw_latent_spaces

    measured: dict[str, Measured] = {}
    folders: dict[str, Path] = {}
    for folder in config.checkpoints:
        model = load_world_model(folder)
        name = model.spec.name
        if name in measured:
            raise UserError(f"two of {list(map(str, config.checkpoints))} are named {name!r}")
        data = open_recorded(config.data, model.spec)
        if not isinstance(data, EpisodeDataset):
            raise UserError(f"{config.data} holds no episodes of `wm-gym collect`; give some")
        measured[name], folders[name] = measure_model(model, data, config), folder
    header = measurement_header(seeds=config.seed)
    report = {
        **header,
        "data": str(config.data),
        "models": {name: m.report for name, m in measured.items()},
        "families": compare_families(measured),
    }
    rows = table_rows(report)
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    for k, answer in report["families"].items():
        low, high = answer["interval"]
        print(
            f"{k}: semantic minus reconstruction {answer['semantic_minus_reconstruction']:+.3f} "
            f"[{low:+.3f}, {high:+.3f}] in r on imagined latents; do semantic latents keep actions "
            f"better here? {answer['semantic_latents_keep_actions_better']}"
        )
    written = [draw_latent_spaces(report, config.out / "latent_spaces.png")]
    if config.json is not None:
        written.append(write_json(config.json, report))
    if config.write_card:
        written += [write_entry(folders[name], m.report, header) for name, m in measured.items()]
    print("wrote " + ", ".join(map(str, written)))
    return report


def write_entry(folder: Path, report: dict[str, Any], header: dict[str, Any]) -> Path:
    """Write one model's figures into its card; open loop and classifier have entries of their own.

    Returns:
        The card.
    """
    names = ("features", "idm", "action_recovery")
    entry: dict[str, Any] = {name: report[name] for name in names}
    return write_metric(Checkpoint.open(folder), "latent_space", entry, header)
