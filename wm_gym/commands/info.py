"""`wm-gym info`: a model's card, or the arithmetic of one step of every size."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from wm_gym.evaluation.models import open_any_by_id, open_by_id
from wm_gym.semantic_card import SemanticSpec
from wm_gym.spec import ActionSpec, WorldModelSpec


@dataclass(frozen=True)
class InfoConfig:
    """Show what a world model is, promises and reached; or --flops, what a step costs."""

    id: Annotated[str, tyro.conf.Positional] = "WM-LangTable-VAE-v0"
    """World-model id."""
    checkpoint: str = "embedded"
    """embedded, a folder, or hf://org/repo@revision."""
    flops: bool = False
    """Count the GFLOPs per step of every published variant and size, and of this model."""
    denoising_steps: int = 10
    """Denoising steps per frame that --flops counts."""
    json: Path | None = None
    """Also write what is shown to this file."""


def info(config: InfoConfig) -> dict[str, Any]:
    """Run `wm-gym info`.

    Returns:
        The card, or the rows of the table.
    """
    content = _flops(config) if config.flops else _card(config)
    if config.json is not None:
        from wm_gym.evaluation.report import measurement_header, write_json

        write_json(config.json, {**measurement_header(), **content})
    return content


def _card(config: InfoConfig) -> dict[str, Any]:
    opened = open_any_by_id(config.id, config.checkpoint)
    semantic = isinstance(opened.spec, SemanticSpec)
    lines = semantic_card_lines(opened.spec) if semantic else card_lines(opened.spec)
    print("\n".join(lines))
    print(f"folder         {opened.folder}")
    return {"card": opened.spec.to_dict()}


def _components(action: ActionSpec) -> str:
    columns = zip(action.names, action.low, action.high, action.units, strict=True)
    return ", ".join(f"{name} [{low:g}, {high:g}] {unit}" for name, low, high, unit in columns)


def semantic_card_lines(spec: SemanticSpec) -> list[str]:
    """The card of a semantic world model as a page of text."""
    network = spec.network
    lines = [
        f"{spec.name}{' (embedded)' if spec.embedded else ''}: {spec.description}",
        f"frames         {spec.frame.height}x{spec.frame.width}, camera {spec.frame.camera}; read "
        f"at {network['image_size']} pixels",
        f"action         {_components(spec.action)}",
        f"               {spec.action.control_hz:g} Hz, up to {spec.horizon} in a sequence",
        f"network        SigLIP {network['vision_depth']} x {network['vision_width']}, Gemma "
        f"{network['depth']} x {network['width']}, attention {spec.prefix_attention}",
        f"answers        count as given above {spec.answer_threshold:g}",
        f"tasks          {', '.join(spec.tasks) or 'none'}",
        f"truth          {spec.twin or 'no simulator'}",
        f"trained on     {spec.training_data}",
        f"licence        {spec.licence}",
    ]
    for name, metric in spec.metrics.items():
        lines.append(f"measured       {name}: {_headline(metric)}")
    return lines


def card_lines(spec: WorldModelSpec) -> list[str]:
    """The card as a page of text."""
    action, latent, context = spec.action, spec.latent, spec.context
    lines = [
        f"{spec.name}{' (embedded)' if spec.embedded else ''}: {spec.description}",
        f"frames         {spec.frame.height}x{spec.frame.width}, camera {spec.frame.camera}",
        f"action         {_components(action)}",
        f"               {action.control_hz:g} Hz, frame skip {action.frame_skip}, "
        f"alignment {action.alignment}",
        f"latents        {latent.space}, {latent.grid[0]}x{latent.grid[1]}x{latent.channels}",
        f"context        {context.kind} of {context.length}, {context.history} to begin with",
        f"sampler        {spec.dynamics.objective}, {spec.dynamics.denoising_steps} steps"
        + (f"; distilled to {spec.distilled.denoising_steps}" if spec.distilled else ""),
        f"tasks          {', '.join(spec.tasks) or 'none'}; horizon {spec.horizon}",
        f"truth          {spec.twin or 'no simulator'}",
        f"trained on     {spec.training_data}",
        f"licence        {spec.licence}",
    ]
    for name, metric in spec.metrics.items():
        lines.append(f"measured       {name}: {_headline(metric)}")
    return lines


def _headline(metric: Any) -> str:
    """One line of a metric: horizons by gap closed, plain numbers as they are, the rest by name."""
    if not isinstance(metric, dict):
        return f"{metric:.3g}" if isinstance(metric, float) else str(metric)
    parts = []
    for name, value in metric.items():
        if isinstance(value, dict) and "gap_closed" in value and value["gap_closed"] is not None:
            parts.append(f"{name} gap closed {value['gap_closed']:.2f}")
        elif isinstance(value, float):
            parts.append(f"{name} {value:.3g}")
    return ", ".join(parts) or ", ".join(metric)


def _flops(config: InfoConfig) -> dict[str, Any]:
    from wm_gym.checkpoints import CheckpointError
    from wm_gym.commands.flops import published_costs, step_cost
    from wm_gym.dynamics.dit import DiTConfig

    rows = published_costs(config.denoising_steps)
    try:
        spec = open_by_id(config.id, config.checkpoint).spec
    except CheckpointError:
        if config.checkpoint != "embedded":
            raise
    else:
        network = DiTConfig(**spec.dynamics.network)
        cost = step_cost(network, spec.latent.grid, config.denoising_steps, spec.context.length)
        rows.append({"model": spec.name, "size": "-", **asdict(cost)})
    print(f"GFLOPs at batch 1, context 10, {config.denoising_steps} denoising steps")
    print(f"{'model':24}{'size':5}{'params':>9}{'1 frame':>9}{'window':>9}", end="")
    print(f"{'off':>10}{'exact':>10}{'rolling':>10}")
    for row in rows:
        print(
            f"{row['model']:24}{row['size']:5}{row['parameters'] / 1e6:8.1f}M"
            f"{row['frame_pass']:9.2f}{row['window_pass']:9.1f}"
            f"{row['step_off']:10.1f}{row['step_exact']:10.1f}{row['step_rolling']:10.1f}"
        )
    return {"denoising_steps": config.denoising_steps, "rows": rows}
