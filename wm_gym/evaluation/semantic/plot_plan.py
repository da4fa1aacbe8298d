"""`wm-gym plot plan`: how a plan changes from step to step of a planner, drawn on the table."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from wm_gym.data.episodes import EpisodeDataset
from wm_gym.devices import check_device
from wm_gym.envs.sims.answers import ANSWERS
from wm_gym.errors import UserError
from wm_gym.evaluation.output_files import check_picture, save_figure
from wm_gym.evaluation.semantic.recorded_frames import check_place
from wm_gym.instructions import InstructionSet
from wm_gym.planning.gradient import GradientConfig
from wm_gym.planning.mppi import MPPIConfig
from wm_gym.planning.plan import ActionBox, Plan
from wm_gym.planning.planner import plan
from wm_gym.semantic.tasks import semantic_task
from wm_gym.semantic.value import TaskValue
from wm_gym.semantic.world_model import load_semantic_model
from wm_gym.training.saqa import objects_of, simulator_of_start


@dataclass(frozen=True)
class PlotPlanConfig:
    """Draw a plan's evolution over a planner's steps."""

    checkpoint: str
    """Semantic checkpoint: a folder, or hf://org/repo@revision."""
    data: Path
    """Folder of episodes that the frame comes from."""
    out: Path
    """Picture to write, e.g. plan.png."""
    instruction: str = ""
    """What to plan for; the episode's own by default. The first subgoal is planned for."""
    episode: int = 0
    """Number of the episode."""
    frame: int = 0
    """Number of the frame in it."""
    horizon: int = 16
    """Actions of the plan."""
    planner: Literal["gradient", "mppi"] = "gradient"
    """Which planner."""
    gradient: GradientConfig = field(default_factory=GradientConfig)
    """Settings of gradient ascent."""
    mppi: MPPIConfig = field(default_factory=MPPIConfig)
    """Settings of MPPI."""
    seed: int = 0
    """Seed of the first plan, which is uniform in the box of actions."""
    device: str = "cpu"
    """Torch device."""


def plot_plan(config: PlotPlanConfig) -> Path:
    """Run `wm-gym plot plan`.

    Returns:
        The picture.

    Raises:
        CheckpointError: if the model cannot be loaded.
        EpisodeError: if the episodes cannot be read.
        ValueError: if there is no such frame, the model is of another simulator or the picture
            cannot be written.
    """
    check_picture("out", config.out)
    check_device(config.device)
    data = EpisodeDataset(config.data)
    check_place(data, config.episode, config.frame)
    model = load_semantic_model(config.checkpoint, device=config.device)
    recorded = data[config.episode]
    simulator = simulator_of_start(recorded.start_state)
    if simulator != model.spec.twin:
        raise UserError(
            f"{config.data} holds episodes of {simulator}, and {model.spec.name} is a model of "
            f"{model.spec.twin}; give episodes of that"
        )
    words = config.instruction or recorded.instruction
    objects = objects_of(recorded.start_state)
    goal = InstructionSet(model.spec.tasks, objects).parse(words)
    subgoal = semantic_task(simulator, goal.task, goal.objects).subgoals[0]
    frame = data.frames(config.episode, slice(config.frame, config.frame + 1))
    found = plan(
        TaskValue(model.look(torch.tensor(frame)), subgoal),
        ActionBox.of(model.spec.action),
        config.horizon,
        [config.seed],
        config.gradient if config.planner == "gradient" else config.mppi,
    )
    state = data.labels(config.episode)[0][config.frame]
    chosen, values = evolution(found)
    paths = ANSWERS[simulator].path(state, chosen)
    draw_plan(frame[0], paths, values, config.out, f"{config.planner}: {words}")
    print(f"{config.out}: value {values[0]:.3f} -> {values[-1]:.3f}")
    return config.out


def evolution(found: Plan) -> tuple[np.ndarray, np.ndarray]:
    """The best candidate at each step of a plan for one problem.

    Args:
        found: what a planner found.

    Returns:
        Action sequences (steps, n, A) in physical units, and their values (steps,); a last batch
        that the planner did not evaluate is left out.
    """
    values = [batch[0] for batch in found.batch_values]
    best = [int(value.argmax()) for value in values]
    batches = found.batches[: len(values)]
    actions = torch.stack([b[0, k] for b, k in zip(batches, best, strict=True)])
    chosen = torch.stack([value[k] for value, k in zip(values, best, strict=True)])
    return actions.cpu().numpy(), chosen.cpu().numpy()


def draw_plan(
    frame: np.ndarray, paths: np.ndarray, values: np.ndarray, path: Path, title: str
) -> None:
    """The effector's planned ways over the picture, early steps dark, and the values.

    Args:
        frame: uint8 (H, W, 3).
        paths: (steps, n + 1, 2), x to the right and y up, within ±1 inside a square frame.
        values: (steps,).
        path: picture to write.
        title: above it.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    height, width = frame.shape[:2]
    side = min(height, width)
    figure = Figure(figsize=(9.5, 4.4), layout="constrained")
    table, curve = figure.subplots(1, 2, width_ratios=(1, 1.1))
    table.imshow(frame, extent=(0, width, height, 0))
    colours = colormaps["viridis"](np.linspace(0, 1, len(paths)))
    for way, colour in zip(paths, colours, strict=True):
        x, y = width / 2 + way[:, 0] * side / 2, height / 2 - way[:, 1] * side / 2
        table.plot(x, y, color=colour, linewidth=1.6)
        table.plot(x[-1], y[-1], marker="o", markersize=3.5, color=colour)
    table.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    steps = np.arange(len(values))
    curve.plot(steps, values, color="grey", linewidth=0.8)
    curve.scatter(steps, values, c=colours)
    curve.set(xlabel="step of the planner", ylabel="value of the plan")
    curve.grid(alpha=0.3)
    curve.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(title)
    save_figure(figure, path, dpi=120)
