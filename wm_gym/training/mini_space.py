"""What training a latent space leaves for those that use it: sizes, weights and figures.

A checkpoint holds the same in its card and beside it, so that whoever has only what ships can go on
from there: encode other episodes, train other dynamics on the same space.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from wm_gym.checkpoints import Checkpoint
from wm_gym.errors import UserError
from wm_gym.latents.fetch import load_strictly
from wm_gym.latents.registry import MINI_WEIGHTS, find_space
from wm_gym.packed_files import load_tensors, read_file
from wm_gym.training.run_folder import write_run

RECORD = "latent_space.json"
_MADE_BY = {"adapter": "wm-gym train svae", "pixel_decoder": "wm-gym train pixel-decoder"}


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
        return {key: value.float() for key, value in load_tensors(self.weights).items()}

    @property
    def source(self) -> dict[str, Any]:
        """What its latents depend on, JSON-ready."""
        digest = hashlib.sha256(read_file(self.weights)).hexdigest()
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
    config: Any = network.config
    record = {"space": network.name, "network": asdict(config), "weights": filename, **figures}
    return write_run(folder / filename, weights, folder / RECORD, record)


def read_mini_space(folder: Path) -> MiniSpace:
    """Read the run folder of a recipe that trains a latent space, or a checkpoint on such a space.

    Raises:
        FileNotFoundError: if no such run was finished there, and it is no checkpoint.
        ValueError: if it is a checkpoint on a published space.
        CheckpointError: if a checkpoint is damaged.
    """
    path = folder / RECORD
    if path.exists():
        record = json.loads(path.read_text(encoding="utf-8"))
        return MiniSpace(record["space"], record["network"], folder / record["weights"])
    if not (folder / "card.json").exists():
        raise FileNotFoundError(
            f"{path} is missing: --encoder takes the run folder of a finished `wm-gym train "
            "autoencoder` or `wm-gym train vjepa`, or a checkpoint; the same training command, "
            "given again, goes on where a run stopped"
        )
    checkpoint = Checkpoint.open(folder)
    latent = checkpoint.spec.latent
    entry = find_space(latent.space)
    if not entry.trained_here:
        raise UserError(
            f"--encoder {folder} is a checkpoint on the published space {latent.space}; give "
            f"--space {latent.space} instead"
        )
    checkpoint.read(MINI_WEIGHTS)  # compares hashes
    names = {field.name for field in fields(entry.config_class)}
    network = {name: value for name, value in latent.config.items() if name in names}
    return MiniSpace(entry.compresses or latent.space, network, folder / MINI_WEIGHTS)


def part_sizes(folder: Path, record: str, part: str) -> dict[str, Any]:
    """Sizes of a network whose weights lie in a folder.

    Args:
        folder: a run folder, or a checkpoint that has this part.
        record: name of the JSON file that its training leaves.
        part: key of the sizes there and in `latent.config` of a card: "adapter", "pixel_decoder".

    Raises:
        FileNotFoundError: if the folder has none.
        CheckpointError: if a checkpoint is damaged.
    """
    if (folder / record).exists():
        return json.loads((folder / record).read_text(encoding="utf-8"))[part]
    if (folder / "card.json").exists():
        checkpoint = Checkpoint.open(folder)
        if part in checkpoint.spec.latent.config:
            checkpoint.read(f"{part}.safetensors")  # compares hashes
            return checkpoint.spec.latent.config[part]
    raise FileNotFoundError(
        f"{folder} holds no {record}, and is no checkpoint with a part {part!r}; give the run "
        f"folder of a finished `{_MADE_BY[part]}`, or such a checkpoint"
    )
