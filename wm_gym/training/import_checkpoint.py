"""Recipe: `wm-gym import-checkpoint`, a released transition model into wm_gym's checkpoint layout.

Released files hold weights and no configuration. Width, depth, patch, channels, action width and
head follow from the shapes; what shapes cannot tell is an argument with a documented default, and
`wm_gym.evaluation.parity.diagnose` measures it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wm_gym.checkpoints import CheckpointError, save_checkpoint
from wm_gym.dynamics.dit import DiT, DiTConfig
from wm_gym.dynamics.flow import schedule_shift
from wm_gym.errors import UserError
from wm_gym.latents.fetch import check_fit, file_sha256, load_pickle, load_safetensors
from wm_gym.latents.pixel_decoder import PixelDecoder, infer_pixel_decoder_config
from wm_gym.latents.registry import (
    ADAPTER_WEIGHTS,
    LATENT_SPACES,
    PIXEL_DECODER_WEIGHTS,
    SpaceEntry,
    find_space,
)
from wm_gym.latents.svae import SVAE, SVAEConfig, infer_svae_config
from wm_gym.spec import (
    ActionSpec,
    ContextSpec,
    DynamicsSpec,
    FrameSpec,
    LatentSpec,
    WorldModelSpec,
)

DYNAMICS_WEIGHTS = "dynamics.safetensors"
WRAPPERS = re.compile(r"^(?:_orig_mod\.|module\.)+")


def bridge_actions(
    width: int, *, frame_skip: int = 2, alignment: Literal["target", "source"] = "source"
) -> ActionSpec:
    """Action language of the published Bridge models.

    xyz within 0.05 m become +-1.75, rpy within 0.25 rad +-1.4, and an open gripper -1.

    Args:
        width: width of the network's action input.
        frame_skip: raw 5 Hz steps that one model step spans.
        alignment: "source" as in the published training, where a frame's slot holds the action
            taken at it.
    """
    return ActionSpec(
        names=("dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper"),
        units=("m", "m", "m", "rad", "rad", "rad", "open fraction"),
        low=(-0.05,) * 3 + (-0.25,) * 3 + (0.0,),
        high=(0.05,) * 3 + (0.25,) * 3 + (1.0,),
        gain=(35.0,) * 3 + (5.6,) * 3 + (-2.0,),
        bias=(0.0,) * 6 + (1.0,),
        width=width,
        control_hz=5.0,
        frame_skip=frame_skip,
        alignment=alignment,
        kinds=("delta",) * 6 + ("absolute",),
    )


@dataclass(frozen=True)
class ImportOptions:
    """What the shapes of a released file cannot tell. The defaults are the published protocol.

    Attributes:
        objective: "flow", as the paper says, or "ddpm", which the authors' code has too.
        alignment: "source", as the authors' training pairs frames and actions, or "target".
        heads: attention heads; None takes one per 64 channels, as in the sizes S, B and L.
        num_views: cameras side by side along the latents' width.
        frame_skip: raw 5 Hz steps per model step.
        denoising_steps: steps per frame.
        action: action language; None takes Bridge's with the width found in the weights.
        adapter_heads: heads of the S-VAE, unless its file says.
        pixel_decoder_heads: heads of the pixel decoder; None takes 4, or 1 in the legacy layout.
        space_config: what the latent space is loaded with, e.g. {"local": "/path"}.
        name: name on the card; None takes the file's.
        licence: SPDX identifier of the weights.
        training_data: what they were trained on.
    """

    objective: Literal["flow", "ddpm"] = "flow"
    alignment: Literal["target", "source"] = "source"
    heads: int | None = None
    num_views: int = 1
    frame_skip: int = 2
    denoising_steps: int = 10
    action: ActionSpec | None = None
    adapter_heads: int = 16
    pixel_decoder_heads: int | None = None
    space_config: Mapping[str, Any] = field(default_factory=dict)
    name: str | None = None
    licence: str = "CC-BY-SA-4.0"
    training_data: str = "BridgeData V2, by the authors of the weights (arXiv:2605.06388)"

    def __post_init__(self) -> None:
        """Check that what is counted is at least 1."""
        for name in ("num_views", "frame_skip", "denoising_steps", "adapter_heads"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}; expected at least 1")
        for name in ("heads", "pixel_decoder_heads"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}; expected at least 1, or None")


def import_checkpoint(
    file: str | Path,
    space: str,
    out_dir: str | Path,
    *,
    adapter: str | Path | None = None,
    pixel_decoder: str | Path | None = None,
    options: ImportOptions | None = None,
    overwrite: bool = False,
) -> WorldModelSpec:
    """Convert released weights into a checkpoint folder.

    Args:
        file: .pt (tensors only) or .safetensors of the transition model.
        space: latent space it was trained on, a name in `wm_gym.latents.registry`.
        out_dir: checkpoint folder to write; nothing is written unless everything fits.
        adapter: file of the S-VAE, needed for the spaces ending in 96.
        pixel_decoder: file of the pixel decoder, needed to show the latents of semantic spaces.
        options: what the shapes cannot tell.
        overwrite: replace a checkpoint that is already in `out_dir`.

    Returns:
        The card that was written.

    Raises:
        CheckpointError: if a file is damaged, runs code, holds NaN, or does not fit its space, its
            action language or the other files.
        CardError: if the space is unknown.
    """
    options = options or ImportOptions()
    file, out_dir = Path(file).expanduser(), Path(out_dir).expanduser()
    entry = find_space(space)
    if entry.channels is None:
        published = [name for name, other in LATENT_SPACES.items() if other.channels is not None]
        raise CheckpointError(
            f"space={space!r} has no published transition models to import; expected one of "
            f"{published}. Models that wm_gym trained are checkpoint folders already"
        )
    if (out_dir / "card.json").exists() and not overwrite:
        raise CheckpointError(
            f"{out_dir} already holds a checkpoint; give another folder, or overwrite=True"
        )
    if entry.compressed and adapter is None:
        raise CheckpointError(
            f"latents of {space} are made by an S-VAE adapter; give its file: adapter='/path'"
        )
    weights, _ = find_weights(read_weights(file), "x_proj.weight", str(file))
    network = infer_dit_config(weights, str(file), heads=options.heads, views=options.num_views)
    check_space(network, space, entry, str(file))
    with torch.device("meta"):
        check_fit(DiT(network), weights, str(file))
    action = options.action or _bridge(network.action_width, options, str(file))
    if action.width != network.action_width:
        raise CheckpointError(
            f"{file} reads actions {network.action_width} wide, the given action language is "
            f"{action.width} wide; give one of width {network.action_width}"
        )
    parts: dict[str, Mapping[str, Tensor]] = {DYNAMICS_WEIGHTS: weights}
    config: dict[str, Any] = dict(options.space_config)
    if options.num_views > 1:
        config["num_views"] = options.num_views
    if adapter is not None:
        sizes, parts[ADAPTER_WEIGHTS] = _read_adapter(Path(adapter), options)
        _fits(sizes["latent_dim"] if entry.compressed else sizes["input_dim"], network, adapter)
        config["adapter"] = sizes
    if pixel_decoder is not None:
        sizes, parts[PIXEL_DECODER_WEIGHTS] = _read_decoder(Path(pixel_decoder), options)
        narrow = config["adapter"]["latent_dim"] if adapter is not None else network.channels
        if sizes["latent_dim"] != narrow:
            raise CheckpointError(
                f"{pixel_decoder} takes latents of {sizes['latent_dim']} channels, but gets "
                f"{narrow}; give the pixel decoder that was trained on these latents"
            )
        config["pixel_decoder"] = sizes
    spec = _card(file, space, entry, network, action, config, options)
    return save_checkpoint(out_dir, spec, parts)


def read_weights(file: Path) -> Any:
    """Read a .pt or .safetensors file without running any code in it.

    Raises:
        CheckpointError: if it is not there, damaged, or more than weights.
    """
    if file.is_dir():
        raise CheckpointError(f"{file} is a folder; name the file of weights, .pt or .safetensors")
    if not file.is_file():
        raise CheckpointError(f"{file} does not exist")
    reader = load_safetensors if file.suffix == ".safetensors" else load_pickle
    return reader(file, "released checkpoint")


def find_weights(
    checkpoint: Any, marker: str, source: str
) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """Find a state dict in a training checkpoint, the averaged (EMA) one if there are several.

    Args:
        checkpoint: what was read.
        marker: a key the state dict has, without wrappers.
        source: named in errors.

    Returns:
        The state dict without the prefixes of compilation and data parallelism, and the mapping
        that was read, for other entries.

    Raises:
        CheckpointError: if no entry has the marker.
    """
    found = [
        (path, clean)
        for path, entry in _mappings(checkpoint, ())
        if marker in (clean := {WRAPPERS.sub("", str(k)): v for k, v in entry.items()})
    ]
    if not found:
        keys = list(map(str, checkpoint))[:5] if isinstance(checkpoint, Mapping) else "no mapping"
        raise CheckpointError(
            f"{source} holds no network with the key {marker!r} (found {keys}): it is the file of "
            "another network"
        )
    averaged = [weights for path, weights in found if any("ema" in part for part in path)]
    weights = averaged[0] if averaged else found[0][1]
    # counters of the averaging may stand among the weights
    tensors = {k: v for k, v in weights.items() if isinstance(v, Tensor)}
    return tensors, checkpoint


def infer_dit_config(
    weights: Mapping[str, Tensor], source: str, *, heads: int | None = None, views: int = 1
) -> DiTConfig:
    """Read a transition network's sizes from the shapes of its state dict.

    Raises:
        CheckpointError: if keys that tell a size are missing or contradict each other.
    """
    try:
        dim, channels, patch, _ = weights["x_proj.weight"].shape
        action_width = weights["action_embedder.weight"].shape[1]
        wide = "s_projector.weight" in weights
        wide_dim = weights["s_projector.weight"].shape[0] if wide else DiTConfig.wide_dim
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{source} is not a whole transition model: {error}") from error
    blocks = {int(k.split(".")[1]) for k in weights if re.match(r"blocks\.\d+\.", k)}
    if blocks != set(range(len(blocks))) or not blocks:
        raise CheckpointError(f"{source} lacks blocks: it has {sorted(blocks)}; get it again")
    if heads is None and dim % 64:
        raise CheckpointError(
            f"{source} is {dim} wide, no multiple of the 64 channels a head of the published "
            "sizes has; give heads"
        )
    try:
        return DiTConfig(
            channels=channels,
            dim=dim,
            depth=len(blocks),
            heads=dim // 64 if heads is None else heads,
            patch=patch,
            action_width=action_width,
            head="wide" if wide else "plain",
            wide_dim=wide_dim,
            num_views=views,
        )
    except ValueError as error:
        raise CheckpointError(f"{source}: {error}") from error


def check_space(network: DiTConfig, space: str, entry: SpaceEntry, source: str) -> None:
    """Check that a network reads latents of a space.

    Raises:
        CheckpointError: naming the spaces whose latents it could read.
    """
    if (network.channels, network.patch) != (entry.channels, entry.patch):
        fitting = [
            name
            for name, other in LATENT_SPACES.items()
            if (other.channels, other.patch) == (network.channels, network.patch)
        ]
        raise CheckpointError(
            f"{source} reads latents of {network.channels} channels in patches of {network.patch}; "
            f"{space} has {entry.channels} channels, patches of {entry.patch}. It fits "
            f"{' or '.join(fitting) or 'no known space'}"
        )


def _mappings(entry: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Mapping]]:
    """Every mapping inside nested mappings, with the keys that lead to it."""
    if isinstance(entry, Mapping):
        yield path, entry
        for key, value in entry.items():
            yield from _mappings(value, (*path, str(key).lower()))


def _bridge(width: int, options: ImportOptions, source: str) -> ActionSpec:
    if width < 7:
        raise CheckpointError(
            f"{source} reads actions {width} wide, Bridge's have 7 components: it is a model of "
            "another robot; give its action language as ImportOptions.action in Python"
        )
    return bridge_actions(width, frame_skip=options.frame_skip, alignment=options.alignment)


def _fits(channels: int, network: DiTConfig, adapter: str | Path) -> None:
    if channels != network.channels:
        raise CheckpointError(
            f"{adapter} is an adapter for {channels} channels, the transition model reads "
            f"{network.channels}; give the adapter it was trained with"
        )


def _read_adapter(
    file: Path, options: ImportOptions
) -> tuple[dict[str, Any], Mapping[str, Tensor]]:
    weights, checkpoint = find_weights(read_weights(file), "enc_proj.weight", str(file))
    sizes = asdict(infer_svae_config(weights, num_heads=options.adapter_heads))
    stated = checkpoint.get("adapter_config", {})
    sizes |= {k: v for k, v in stated.items() if k in SVAEConfig.__dataclass_fields__}
    return _checked(lambda: SVAE(SVAEConfig(**sizes)), weights, file), weights


def _read_decoder(
    file: Path, options: ImportOptions
) -> tuple[dict[str, Any], Mapping[str, Tensor]]:
    weights, _ = find_weights(read_weights(file), "proj_in.weight", str(file))
    cfg = infer_pixel_decoder_config(weights, attn_heads=options.pixel_decoder_heads)
    return _checked(lambda: PixelDecoder(cfg), weights, file), weights


def _checked(build: Any, weights: Mapping[str, Tensor], file: Path) -> dict[str, Any]:
    """Sizes of a network that these weights fit."""
    try:
        with torch.device("meta"):
            network: nn.Module = build()
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{file}: {error}") from error
    check_fit(network, weights, str(file))
    return asdict(network.cfg)  # pyright: ignore[reportArgumentType, reportCallIssue]


def _card(
    file: Path,
    space: str,
    entry: SpaceEntry,
    network: DiTConfig,
    action: ActionSpec,
    config: dict[str, Any],
    options: ImportOptions,
) -> WorldModelSpec:
    assert entry.grid is not None and entry.channels is not None and entry.frame_size is not None
    height, width = entry.grid
    views, size_px = options.num_views, entry.frame_size
    shift = schedule_shift(height * width // network.patch**2, network.channels * network.patch**2)
    return WorldModelSpec(
        name=options.name or file.stem,
        description=f"Published transition model over {space} latents, imported from {file.name}.",
        embedded=False,
        licence=options.licence,
        training_data=options.training_data,
        recipe={
            "imported_from": file.name,
            "sha256": file_sha256(file),
            "assumed": {"objective": options.objective, "alignment": action.alignment},
        },
        twin=None,
        frame=FrameSpec(size_px[0], size_px[1] * views),
        action=action,
        latent=LatentSpec(
            space=space,
            grid=(height, width * views),
            channels=entry.channels,
            mean=(0.0,) * entry.channels,
            std=(1.0,) * entry.channels,
            config=config,
        ),
        context=ContextSpec(kind="window", length=10, history=2, label=0.01),
        dynamics=DynamicsSpec(
            network=asdict(network),
            objective=options.objective,
            shift=1.0 if space == "VAE" else shift,  # the published SD3 VAE models use none
            denoising_steps=options.denoising_steps,
            weights=DYNAMICS_WEIGHTS,
        ),
        weights_sha256={},
        horizon=50,
    )
