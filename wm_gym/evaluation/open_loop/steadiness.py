"""Does a dream stand still when told to, and come back when sent out and back?

From the same starts of the simulator, in the dream and in the simulator: zero actions, after which
nothing should have moved, and as many steps of +x as of -x after them, after which the effector
should be where the simulator's is. The effector is found in pixels, in both alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from wm_gym.domains import domain_of
from wm_gym.envs.collect import HELD_OUT_SEEDS
from wm_gym.errors import UserError
from wm_gym.evaluation.open_loop.effectors import EFFECTORS
from wm_gym.evaluation.report import measurement_header, write_json, write_metric

if TYPE_CHECKING:
    from wm_gym.world_model import LatentWorldModel


@dataclass(frozen=True)
class SteadinessConfig:
    """Measure how far a dream's effector drifts when it should stand still or come back."""

    id: str = "WM-LangTable-VAE-v0"
    """World-model id; says what `embedded` means."""
    checkpoint: str = "embedded"
    """embedded, a folder, or hf://org/repo@revision."""
    starts: int = 20
    """Starts of the simulator, one a seed."""
    seed: int = 6000
    """Seed of the first start, among those kept for evaluation."""
    steps: int = 100
    """Zero actions."""
    out_and_back: int = 25
    """Steps out, and as many back."""
    denoising_steps: int | None = None
    """Denoising steps per frame; the card's by default."""
    device: str = "cpu"
    """Torch device."""
    json: Path | None = None
    """File for the figures."""
    write_card: bool = False
    """Also write the figures into the checkpoint's card.json."""

    def __post_init__(self) -> None:
        """Check the numbers once."""
        if min(self.starts, self.steps, self.out_and_back) < 1:
            raise UserError(
                f"starts={self.starts}, steps={self.steps}, out_and_back={self.out_and_back}: "
                "expected at least 1 of each"
            )
        if not {self.seed, self.seed + self.starts - 1} <= set(HELD_OUT_SEEDS):
            raise UserError(
                f"seeds {self.seed} to {self.seed + self.starts - 1} are not all kept for "
                f"evaluation; expected some of {HELD_OUT_SEEDS.start} to {HELD_OUT_SEEDS.stop - 1}"
            )


def simulate(
    model: LatentWorldModel, seeds: range, actions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Starts of the model's simulator, and what it shows after some actions.

    Args:
        model: world model, whose card names a simulator.
        seeds: of the starts, N.
        actions: the same from every start, (T, A), physical units.

    Returns:
        First frames (N, H, W, 3) and those after every action (N, T, H, W, 3), uint8.
    """
    import gymnasium

    spec = model.spec
    domain = domain_of(spec.twin)
    keyword = domain.objects_keyword if domain is not None else ""
    arguments: dict[str, Any] = {keyword: ",".join(spec.objects)} if keyword else {}
    assert spec.twin is not None
    env = gymnasium.make(
        spec.twin,
        frame_size=(spec.frame.height, spec.frame.width),
        horizon=len(actions) + 1,
        **arguments,
    )
    first, later = [], []
    try:
        for seed in seeds:
            frame, _ = env.reset(seed=seed)
            first.append(frame)
            later.append(np.stack([env.step(a.astype(np.float32))[0] for a in actions]))
    finally:
        env.close()
    return np.stack(first), np.stack(later)


def imagine(model: LatentWorldModel, frames: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """What the model shows after the same actions from every start: (N, T, H, W, 3) uint8."""
    rollout = model.begin(torch.from_numpy(frames), seeds=range(len(frames)))
    shown = []
    for action in torch.from_numpy(actions.astype(np.float32)):
        rollout.step(action.expand(len(frames), -1))
        shown.append(rollout.frames().cpu().numpy())
    return np.stack(shown, 1)


def measure_steadiness(model: LatentWorldModel, config: SteadinessConfig) -> dict[str, Any]:
    """Drift under zero actions and the error after going out and back, for dream and simulator.

    Returns:
        `starts`; `still`: steps, median and largest drift of the effector in percent of the width,
        of the dream, of the simulator and of the decoder (the simulator's last frame, encoded and
        decoded), and `lost`, in how many dreams it vanished (a median or
        largest value that would be infinite is None); `out_and_back`: steps, the median
        distance between the dream's and the simulator's effector at the farthest point and at the
        end, the same for the decoder, and `lost`.

    Raises:
        ValueError: if the model has no simulator whose effector can be found.
    """
    locate = EFFECTORS.get(model.spec.twin or "")
    if locate is None:
        raise UserError(
            f"{model.spec.name} imagines {model.spec.twin or 'no simulator'}; its effector cannot "
            f"be found, expected a model of one of {', '.join(EFFECTORS)}"
        )
    width = model.spec.frame.width
    seeds = range(config.seed, config.seed + config.starts)
    action = model.spec.action
    still = np.clip(np.zeros(action.size), action.low, action.high)
    rest = np.tile(still, (config.steps, 1))
    out = np.tile(still, (2 * config.out_and_back, 1))
    out[: config.out_and_back, 0] = action.high[0]
    out[config.out_and_back :, 0] = action.low[0]

    def apart(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Percent of the width, inf where an effector is lost."""
        distance = 100.0 * np.linalg.norm(locate(one) - locate(other), axis=-1) / width
        return np.where(np.isnan(distance), np.inf, distance)

    def finite(percent: float) -> float | None:
        return float(percent) if np.isfinite(percent) else None

    def decoded(frames: np.ndarray) -> np.ndarray:
        return model.decode(model.encode(torch.from_numpy(frames))).cpu().numpy()

    first, true = simulate(model, seeds, rest)
    dream = imagine(model, first, rest)
    drift = apart(dream[:, -1], first)
    _, true_out = simulate(model, seeds, out)
    dream_out = imagine(model, first, out)
    far = config.out_and_back - 1
    error = apart(dream_out[:, -1], true_out[:, -1])
    return {
        "starts": config.starts,
        "still": {
            "steps": config.steps,
            "drift_percent_of_width_median": finite(np.median(drift)),
            "drift_percent_of_width_max": finite(drift.max()),
            "simulator_drift_percent_of_width_median": finite(np.median(apart(true[:, -1], first))),
            "decoder_percent_of_width_median": finite(
                np.median(apart(decoded(true[:, -1]), true[:, -1]))
            ),
            "lost": int(np.isinf(drift).sum()),
        },
        "out_and_back": {
            "steps": config.out_and_back,
            "farthest_percent_of_width_median": finite(
                np.median(apart(dream_out[:, far], true_out[:, far]))
            ),
            "end_percent_of_width_median": finite(np.median(error)),
            "end_percent_of_width_max": finite(error.max()),
            "decoder_percent_of_width_median": finite(
                np.median(apart(decoded(true_out[:, -1]), true_out[:, -1]))
            ),
            "lost": int(np.isinf(error).sum()),
        },
    }


def evaluate_steadiness(config: SteadinessConfig) -> dict[str, Any]:
    """Run `wm-gym evaluate steadiness`: measure, write and print.

    Returns:
        What `--json` writes.
    """
    from wm_gym.checkpoints import Checkpoint
    from wm_gym.evaluation.models import load_by_id

    model = load_by_id(
        config.id, config.checkpoint, denoising_steps=config.denoising_steps, device=config.device
    )
    scores = measure_steadiness(model, config)
    header = measurement_header(seeds=range(config.seed, config.seed + config.starts))
    report = {
        **header,
        "model": model.spec.name,
        "checkpoint": config.checkpoint,
        "weights_sha256": model.spec.weights_sha256,
        "steadiness": scores,
    }
    still, back = scores["still"], scores["out_and_back"]

    def shown(percent: float | None) -> str:
        return "lost" if percent is None else f"{percent:.2f}"

    print(
        f"{model.spec.name}, medians over {config.starts} starts, percent of the width: drift "
        f"{shown(still['drift_percent_of_width_median'])} after {config.steps} zero actions "
        f"(simulator {shown(still['simulator_drift_percent_of_width_median'])}), "
        f"{shown(back['end_percent_of_width_median'])} from the simulator after "
        f"{config.out_and_back} steps out and back (decoder "
        f"{shown(back['decoder_percent_of_width_median'])}); effector lost in {still['lost']} and "
        f"{back['lost']}"
    )
    if config.json is not None:
        print(f"wrote {write_json(config.json, report)}")
    if config.write_card:
        assert model.folder is not None
        print(f"wrote {write_metric(Checkpoint.open(model.folder), 'steadiness', scores, header)}")
    return report
