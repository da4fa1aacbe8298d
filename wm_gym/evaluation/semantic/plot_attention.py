"""`wm-gym plot attention`: which image patches the words of a question look at, by layer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from wm_gym.data.episodes import EpisodeDataset
from wm_gym.devices import check_device
from wm_gym.evaluation.output_files import check_picture, save_figure
from wm_gym.evaluation.semantic.recorded_frames import check_place
from wm_gym.semantic.attention_maps import AttentionMaps, attention_maps
from wm_gym.semantic.world_model import load_semantic_model

SPECIAL = ("<bos>", "\n")


@dataclass(frozen=True)
class PlotAttentionConfig:
    """Draw the attention from a question's words to image patches, by layer."""

    checkpoint: str
    """Semantic checkpoint: a folder, or hf://org/repo@revision."""
    data: Path
    """Folder of episodes that the frame comes from."""
    question: str
    """The question, e.g. 'Is the red moon touching the green star?'."""
    out: Path
    """Picture to write, e.g. attention.png."""
    episode: int = 0
    """Number of the episode."""
    frame: int = 0
    """Number of the frame in it."""
    horizon: int = 0
    """Recorded actions after the frame that the question comes after."""
    device: str = "cpu"
    """Torch device."""


def plot_attention(config: PlotAttentionConfig) -> Path:
    """Run `wm-gym plot attention`.

    Returns:
        The picture.

    Raises:
        CheckpointError: if the model cannot be loaded.
        EpisodeError: if the episodes cannot be read.
        ValueError: if there is no such frame, the question cannot be asked or the picture cannot be
            written.
    """
    check_picture("out", config.out)
    check_device(config.device)
    data = EpisodeDataset(config.data)
    check_place(data, config.episode, config.frame, config.horizon)
    model = load_semantic_model(config.checkpoint, device=config.device)
    frame = data.frames(config.episode, slice(config.frame, config.frame + 1))[0]
    ahead = data.actions(config.episode)[config.frame : config.frame + config.horizon]
    found = attention_maps(model, torch.tensor(frame), torch.tensor(ahead).float(), config.question)
    draw_attention(found, frame, config.out, f"{config.question}  after {config.horizon} actions")
    print(config.out)
    return config.out


def draw_attention(maps: AttentionMaps, frame: np.ndarray, path: Path, title: str) -> None:
    """One row per layer, one column per word, the place of the answer last.

    Args:
        maps: attention.
        frame: uint8 (H, W, 3).
        path: picture to write.
        title: above it.
    """
    from matplotlib.figure import Figure

    shown = [n for n, word in enumerate(maps.words) if word not in SPECIAL]
    shown.append(len(maps.words) - 1)
    layers, height, width = len(maps.weights), *frame.shape[:2]
    figure = Figure(figsize=(1.3 * len(shown) + 0.8, 1.4 * layers + 0.8), layout="constrained")
    axes = figure.subplots(layers, len(shown), squeeze=False)
    for layer in range(layers):
        for column, token in enumerate(shown):
            axis, weights = axes[layer, column], maps.weights[layer, token].numpy()
            axis.imshow(frame, extent=(0, width, height, 0))
            relative = weights / max(float(weights.max()), 1e-12)
            axis.imshow(  # what is not looked at is dark; colours stay as they are
                np.zeros_like(relative), cmap="gray", alpha=0.85 * (1 - relative),
                extent=(0, width, height, 0), interpolation="nearest",
            )  # fmt: skip
            axis.set(xticks=[], yticks=[])
            axis.set_xlabel(f"{100 * float(weights.sum()):.0f} %", fontsize=6, labelpad=1)
            if layer == 0:
                last = column == len(shown) - 1
                axis.set_title("answer" if last else maps.words[token], fontsize=8)
        axes[layer, 0].set_ylabel(f"layer {layer + 1}", fontsize=8)
    figure.suptitle(f"{title}\n(below: share of the attention that the picture gets)", fontsize=9)
    save_figure(figure, path, dpi=130)
