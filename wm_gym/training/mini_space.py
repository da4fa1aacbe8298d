"""What training a latent space leaves for those that use it: sizes, weights and figures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from wm_gym.checkpoints import write_atomically
from wm_gym.latents.fetch import load_strictly
from wm_gym.latents.registry import find_space

RECORD = "latent_space.json"


@dataclass(frozen=True)
class MiniSpace:
    """A latent space that was trained here.

    Attributes:
        space: name in `wm_gym.latents.registry`.
        network: its sizes, fields of the space's config class.
        weights: safetensors file.
    """

    space: str
    network: dict[str, Any]
    weights: Path

    def load(self) -> Any:
        """The latent space, ready to encode.

        Raises:
            CheckpointError: if the weights do not fit the sizes.
        """
        entry = find_space(self.space)
        network = entry.space_class(entry.config_class(**self.network))
        load_strictly(network, self.tensors(), str(self.weights))
        return network.eval().requires_grad_(False)

    def tensors(self) -> dict[str, Tensor]:
        """Its weights, float32."""
        from safetensors.torch import load_file

        return {key: value.float() for key, value in load_file(self.weights).items()}

    @property
    def source(self) -> dict[str, Any]:
        """What its latents depend on, JSON-ready."""
        digest = hashlib.sha256(self.weights.read_bytes()).hexdigest()
        return {"space": self.space, "network": self.network, "sha256": digest}


def write_mini_space(
    folder: Path,
    network: nn.Module,
    weights: Mapping[str, Tensor],
    filename: str,
    figures: Mapping[str, Any],
) -> Path:
    """Write weights, and beside them the record that `read_mini_space` reads.

    Args:
        folder: run folder.
        network: a latent space with `name` and `config`.
        weights: its parameters and buffers.
        filename: of the weights.
        figures: what the recipe says about the run: steps, hours, measurements.

    Returns:
        The weights file.
    """
    from safetensors.torch import save

    path = folder / filename
    write_atomically(path, save({k: v.contiguous().cpu() for k, v in weights.items()}))
    config: Any = network.config
    record = {"space": network.name, "network": asdict(config), "weights": filename, **figures}
    write_atomically(folder / RECORD, json.dumps(record, indent=1).encode())
    return path


def read_mini_space(folder: Path) -> MiniSpace:
    """Read the run folder of a recipe that trains a latent space.

    Raises:
        FileNotFoundError: if no such run was finished there.
    """
    path = folder / RECORD
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing: --encoder takes the run folder of a finished `wm-gym train "
            "autoencoder` or `wm-gym train vjepa`; the same command, given again, goes on where a "
            "run stopped"
        )
    record = json.loads(path.read_text())
    return MiniSpace(record["space"], record["network"], folder / record["weights"])
