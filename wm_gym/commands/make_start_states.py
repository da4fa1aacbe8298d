"""`wm-gym make-start-states`: starts in which dream and twin begin paired."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wm_gym.checkpoints import save_data_file
from wm_gym.domains import domain_of
from wm_gym.envs.start_states import FILENAME, make_start_states
from wm_gym.errors import UserError
from wm_gym.evaluation.models import open_any_by_id


@dataclass(frozen=True)
class MakeStartStatesConfig:
    """Reset the twin of a world model and store frames and full states beside its checkpoint.

    Their hash is written into the card.
    """

    id: str = "WM-LangTable-VAE-v0"
    """World-model id; says what `embedded` means."""
    checkpoint: str = "embedded"
    """Checkpoint folder to write start_states.npz into."""
    tasks: tuple[str, ...] = ()
    """Tasks; those of the card by default."""
    count: int = 50
    """Start states per task."""
    seed: int = 6500
    """Seed of the first; held-out data begin at 6000."""
    blocks: str = ""
    """Blocks on LangTable's table, or Cube's cubes, as the simulator takes them (`ood`, `2`, names
    separated by commas); its own by default."""

    def __post_init__(self) -> None:
        """Check the number once."""
        if self.count < 1:
            raise UserError(f"count={self.count} must be at least 1")


def run(config: MakeStartStatesConfig) -> Path:
    """Run `wm-gym make-start-states`.

    Returns:
        The file written.

    Raises:
        ValueError: if the world model has no simulator.
    """
    from tqdm import tqdm

    opened = open_any_by_id(config.id, config.checkpoint)
    spec = opened.spec
    if spec.twin is None:
        raise UserError(f"{spec.name} has no simulator (its card says twin: null): no start states")
    domain = domain_of(spec.twin)
    keyword = domain.objects_keyword if domain is not None else ""
    table: dict[str, Any] = {keyword: config.blocks} if keyword and config.blocks else {}
    starts = make_start_states(
        range(config.seed, config.seed + config.count),
        config.tasks or tuple(spec.tasks),
        simulator=spec.twin,
        frame_size=(spec.frame.height, spec.frame.width),
        progress=tqdm,
        **table,
    )
    path = save_data_file(opened.folder, FILENAME, starts.to_bytes())
    print(f"wrote {len(starts)} start states to {path} ({path.stat().st_size // 1024} KiB)")
    return path
