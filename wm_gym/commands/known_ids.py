"""What is known of an id that has no card: a simulator, or a model whose weights do not ship."""

from __future__ import annotations

from typing import Any

from wm_gym.domains import Domain
from wm_gym.envs.registration import MODEL_IDS
from wm_gym.latents.registry import LATENT_SPACES
from wm_gym.spec import ActionSpec


def described_components(action: ActionSpec) -> str:
    """Name, bounds and unit of every component of an action."""
    columns = zip(action.names, action.low, action.high, action.units, strict=True)
    return ", ".join(f"{name} [{low:g}, {high:g}] {unit}" for name, low, high, unit in columns)


def simulator_lines(domain: Domain) -> list[str]:
    """A simulator as a page of text."""
    frame, action = domain.frame, domain.action
    models = [row.env_id for row in MODEL_IDS.values() if row.twin == domain.twin]
    return [
        f"{domain.twin}: a MuJoCo simulator, the ground truth of its world models",
        f"frames         {frame.height}x{frame.width} for its world models, camera {frame.camera}; "
        "any with frame_size=",
        f"action         {described_components(action)}",
        f"               {action.control_hz:g} Hz",
        f"tasks          {', '.join(domain.tasks)}; horizon {domain.horizon}",
        *(f"               {name}: {text!r}" for name, text in domain.tasks.items()),
        f"objects        {', '.join(domain.objects)}",
        f"world models   {', '.join(models)}",
        "episodes       `wm-gym collect --env-id " + domain.twin + " --out FOLDER`",
    ]


def missing_model(env_id: str) -> dict[str, Any]:
    """Facts about an id whose checkpoint does not ship."""
    space = MODEL_IDS[env_id].space
    facts: dict[str, Any] = {"id": env_id, "checkpoint": None, "domain": MODEL_IDS[env_id].twin}
    if space in LATENT_SPACES:
        entry = LATENT_SPACES[space]
        facts |= {
            "space": space,
            "grid": entry.grid,
            "channels": entry.channels,
            "frame_size": entry.frame_size,
            "compressed": entry.compressed,
        }
    return facts


def missing_model_lines(env_id: str) -> list[str]:
    """An id whose checkpoint does not ship, as a page of text: what it is, how to get one."""
    facts = missing_model(env_id)
    lines = [f"{env_id}: no checkpoint ships; what it is and how to get one:"]
    height, width = facts["grid"]
    adapter = ", compressed by an S-VAE adapter" if facts["compressed"] else ""
    return [
        *lines,
        "kind           a latent diffusion transformer, one of the nine of arXiv:2605.06388",
        f"latents        {facts['space']}, {height}x{width}x{facts['channels']} of "
        f"{facts['frame_size'][0]}x{facts['frame_size'][1]} frames{adapter}",
        "compute        `wm-gym info --flops` counts it in every size",
        "released       checkpoint='hf://org/repo@revision' in wm_gym's layout, or convert a file "
        "with `wm-gym import-checkpoint`, see docs/published-models.md",
        f"train one      `wm-gym train latents --space {facts['space']}`, then `wm-gym train "
        "latent-dynamics` and `wm-gym train assemble`",
        f"to practise    {facts['domain']} is a simulator with actions of the same kind",
    ]
