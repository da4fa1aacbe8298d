"""`wm-gym info`: a model's card, or the arithmetic of one step of every size."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from wm_gym.commands.known_ids import (
    described_components,
    missing_model,
    missing_model_lines,
    simulator_lines,
)
from wm_gym.domains import domain_of
from wm_gym.envs.registration import EMBEDDED_MODELS, SEMANTIC_MODELS, SIMULATORS
from wm_gym.errors import UserError
from wm_gym.evaluation.models import open_any_by_id, open_by_id
from wm_gym.semantic_card import SemanticSpec
from wm_gym.spec import WorldModelSpec

_HEADER = ("command", "date", "duration_s", "machine", "seeds", "versions")


@dataclass(frozen=True)
class InfoConfig:
    """Show what a world model is, promises and reached; or --flops, what a step costs."""

    id: Annotated[str, tyro.conf.Positional] = "WM-LangTable-VAE-v0"
    """Id of a world model or a simulator; `wm-gym list` shows them."""
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
    domain = domain_of(config.id) if config.id in SIMULATORS else None
    if domain is not None:
        if config.checkpoint != "embedded":
            raise UserError(
                f"{config.id} is a simulator: it takes no checkpoint={config.checkpoint!r}"
            )
        print("\n".join(simulator_lines(domain)))
        return {"simulator": asdict(domain)}
    ships = {**EMBEDDED_MODELS, **SEMANTIC_MODELS}
    if config.checkpoint == "embedded" and ships.get(config.id, "") is None:
        print("\n".join(missing_model_lines(config.id)))
        return {"model": missing_model(config.id)}
    opened = open_any_by_id(config.id, config.checkpoint)
    semantic = isinstance(opened.spec, SemanticSpec)
    lines = semantic_card_lines(opened.spec) if semantic else card_lines(opened.spec)
    print("\n".join(lines))
    print(f"folder         {opened.folder}")
    return {"card": opened.spec.to_dict()}


def semantic_card_lines(spec: SemanticSpec) -> list[str]:
    """The card of a semantic world model as a page of text."""
    network = spec.network
    return [
        f"{spec.name}{' (embedded)' if spec.embedded else ''}: {spec.description}",
        f"frames         {spec.frame.height}x{spec.frame.width}, camera {spec.frame.camera}; read "
        f"at {network['image_size']} pixels",
        f"action         {described_components(spec.action)}",
        f"               {spec.action.control_hz:g} Hz, up to {spec.horizon} in a sequence",
        f"network        SigLIP {network['vision_depth']} x {network['vision_width']}, Gemma "
        f"{network['depth']} x {network['width']}, attention {spec.prefix_attention}",
        f"answers        count as given above {spec.answer_threshold:.3g}",
        f"tasks          {', '.join(spec.tasks) or 'none'}",
        *origin_lines(spec),
    ]


def card_lines(spec: WorldModelSpec) -> list[str]:
    """The card as a page of text."""
    action, latent, context = spec.action, spec.latent, spec.context
    return [
        f"{spec.name}{' (embedded)' if spec.embedded else ''}: {spec.description}",
        f"frames         {spec.frame.height}x{spec.frame.width}, camera {spec.frame.camera}",
        f"action         {described_components(action)}",
        f"               {action.control_hz:g} Hz, frame skip {action.frame_skip}, "
        f"alignment {action.alignment}",
        f"latents        {latent.space}, {latent.grid[0]}x{latent.grid[1]}x{latent.channels}",
        f"context        {context.kind} of {context.length}, {context.history} to begin with",
        f"sampler        {spec.dynamics.objective}, {spec.dynamics.denoising_steps} steps"
        + (f"; distilled to {spec.distilled.denoising_steps}" if spec.distilled else ""),
        f"tasks          {', '.join(spec.tasks) or 'none'}; horizon {spec.horizon}",
        *origin_lines(spec),
    ]


def origin_lines(spec: WorldModelSpec | SemanticSpec) -> list[str]:
    """What a model comes from, and how good it was measured to be."""
    lines = [
        f"truth          {spec.twin or 'no simulator'}",
        f"trained on     {spec.training_data}",
        f"licence        {spec.licence}",
    ]
    for name, metric in spec.metrics.items():
        lines += [f"measured       {line}" for line in metric_lines(name, metric)]
    return lines


def metric_lines(name: str, metric: Any) -> list[str]:
    """A metric as text, one line for each of its parts; what the command was is left to the card.

    Horizons are told by their gap closed, everything else by its numbers.
    """
    if not isinstance(metric, dict):
        return [f"{name}: {_numbers('', metric)}"]
    gaps = [
        f"{key} gap closed {value['gap_closed']:.2f}"
        for key, value in metric.items()
        if isinstance(value, dict) and value.get("gap_closed") is not None
    ]
    if gaps:
        return [f"{name}: {', '.join(gaps)}"]
    parts = {key: value for key, value in metric.items() if key not in _HEADER}
    if "in_distribution" in parts:  # it has these, too
        parts = {key: value for key, value in parts.items() if not key.startswith("by_")}
    plain = [_numbers(key, value) for key, value in parts.items() if not isinstance(value, dict)]
    lines = [f"{name}: {', '.join(filter(None, plain))}"] if any(plain) else []
    for key, value in parts.items():
        if isinstance(value, dict) and (text := _numbers("", value)):
            lines.append(f"{name}, {key}: {text}")
    return lines


def _numbers(name: str, value: Any) -> str:
    """The numbers in a value with their names, parts apart by semicolons; no other things.

    Intervals stand in brackets after what they are of. Tables by type or horizon are the card's.
    """
    if isinstance(value, dict):
        ends = value.get("low"), value.get("high")
        parts = {k: v for k, v in value.items() if not k.startswith("by_")}
        if all(isinstance(end, int | float) for end in ends):
            parts = {k: v for k, v in parts.items() if k not in ("low", "high")}
        texts = [_numbers(key, part) for key, part in parts.items()]
        if len(parts) < len(value) and texts and None not in ends:
            texts[0] = f"{texts[0]} [{ends[0]:.3g}, {ends[1]:.3g}]"
        nested = any(isinstance(part, dict) for part in value.values())
        inner = ("; " if nested else ", ").join(filter(None, texts))
        return f"{name} {inner}".strip() if inner else ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    shown = f"{value}" if isinstance(value, int) else f"{value:.3g}"
    return f"{name.replace('_', ' ')} {shown}".strip()


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
