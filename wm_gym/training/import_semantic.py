"""`wm-gym import-semantic`: a PaliGemma in transformers' layout becomes a semantic checkpoint.

Either the base VLM, whose action projection does not exist yet and starts from random numbers, or a
fine-tune of the published code, which has one.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from torch import Tensor

from wm_gym.checkpoints import HF_PATTERN, CheckpointError
from wm_gym.domains import CUBE, LANGTABLE
from wm_gym.semantic.model import SemanticNetwork, SemanticNetworkConfig, load_published
from wm_gym.semantic.tokens import QuestionTokenizer
from wm_gym.semantic.world_model import save_semantic_model
from wm_gym.semantic_card import SemanticSpec
from wm_gym.spec import ActionSpec, FrameSpec

_RENAMED = (
    ("language_model.lm_head.", "lm_head."),
    ("language_model.model.", "model.language_model."),
    ("vision_tower.", "model.vision_tower."),
    ("multi_modal_projector.", "model.multi_modal_projector."),
    ("action_projector.", "model.action_projector."),
)
_EMBEDDINGS, _PROJECTION = (
    "model.language_model.embed_tokens.weight",
    "model.action_projector.linear.weight",
)
_DOMAINS = {domain.twin: domain for domain in (LANGTABLE, CUBE)}
_FRAMES = {
    LANGTABLE.twin: FrameSpec(180, 320, LANGTABLE.frame.camera),
    CUBE.twin: FrameSpec(224, 224, CUBE.frame.camera),
}
"""What the published models were trained on, by simulator."""


@dataclass(frozen=True)
class ImportSemanticConfig:
    """Convert PaliGemma, or a fine-tune that knows actions, for use and `train semantic --init`.

    The card has the actions that the published models take: LangTable's in metres, unscaled, Cube's
    as OGBench's own within ±1.
    """

    source: Annotated[str, tyro.conf.Positional]
    """Folder with config.json, *.safetensors and tokenizer.json, or hf://org/repo@revision."""
    out: Path
    """Checkpoint folder to write."""
    name: str = "paligemma-swm"
    """Name on the card."""
    licence: str = "gemma"
    """Licence of the weights."""
    twin: Literal["LangTable-v0", "Cube-v0"] = "LangTable-v0"
    """Simulator that its questions are, or will be, about; decides actions, tasks and objects."""
    horizon: int = 20
    """Largest number of actions it was, or will be, trained with."""
    bf16: bool = True
    """Store weights in bfloat16."""
    seed: int = 0
    """Seed of an action projection that does not exist yet."""


def import_semantic(config: ImportSemanticConfig) -> SemanticSpec:
    """Run `wm-gym import-semantic`.

    Returns:
        The card as written.

    Raises:
        CheckpointError: if a file is absent, the weights do not fit config.json, or the action
            projection is not of the simulator's actions.
    """
    folder = _folder(config.source)
    weights = read_weights(folder)
    domain = _DOMAINS[config.twin]
    sizes = read_sizes(folder, weights, domain.action.size)
    if sizes.action_width != domain.action.size:
        raise CheckpointError(
            f"{folder} takes actions of {sizes.action_width} components, and {config.twin} has "
            f"{domain.action.size}, {list(domain.action.names)}; name another --twin of "
            f"{list(_DOMAINS)}"
        )
    tokenizer = QuestionTokenizer.from_json(_read(folder / "tokenizer.json"))
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        network = SemanticNetwork(sizes, "full")
    try:
        absent = load_published(network, weights)
    except RuntimeError as error:
        raise CheckpointError(f"{folder} does not fit its config.json: {error}") from error
    knows = "a fine-tune that knows actions"
    if absent:
        knows = "the base, whose action projection is untrained: actions mean nothing to it yet"
    spec = SemanticSpec(
        name=config.name,
        description=f"PaliGemma imported from {config.source}: {knows}.",
        embedded=False,
        licence=config.licence,
        training_data="see the source",
        recipe={"command": "wm-gym import-semantic", "source": config.source, "absent": absent},
        twin=domain.twin,
        frame=_FRAMES[domain.twin],
        action=published_actions(domain.twin),
        network=asdict(sizes),
        prefix_attention="full",
        objects=domain.objects,
        weights_sha256={},
        horizon=config.horizon,
        tasks=dict(domain.tasks),
    )
    dtype = torch.bfloat16 if config.bf16 else None
    written = save_semantic_model(config.out, spec, network, tokenizer, dtype=dtype)
    print(f"{config.out}: {written.description}")
    return written


def published_actions(twin: str) -> ActionSpec:
    """The actions of a simulator as the published models take them."""
    action = _DOMAINS[twin].action
    if twin == LANGTABLE.twin:
        action = replace(action, gain=(1.0,) * action.size)
    return replace(action, width=action.size)


def _folder(source: str) -> Path:
    match = HF_PATTERN.match(source)
    if match is None:
        return Path(source).expanduser()
    from huggingface_hub import snapshot_download

    wanted = ["config.json", "tokenizer.json", "*.safetensors"]
    try:
        found = snapshot_download(match["repo"], revision=match["revision"], allow_patterns=wanted)
    except Exception as error:
        raise CheckpointError(
            f"could not fetch {source!r} ({type(error).__name__}); if the repository is gated, "
            f"accept its terms at https://huggingface.co/{match['repo']} and log in with "
            "`hf auth login`; offline, give a folder"
        ) from error
    return Path(found)


def _read(path: Path) -> str:
    if not path.exists():
        raise CheckpointError(
            f"{path} is missing; expected a folder in transformers' layout: config.json, "
            "*.safetensors, tokenizer.json"
        )
    return path.read_text(encoding="utf-8")


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder under their present published names, without the tied output layer.

    Raises:
        CheckpointError: if there are none, or the output layer is not tied to the embeddings.
    """
    from safetensors.torch import load_file

    weights: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        for name, tensor in load_file(path).items():
            new = next((n + name.removeprefix(o) for o, n in _RENAMED if name.startswith(o)), name)
            if "vision_tower." in new and "vision_tower.vision_model." not in new:
                new = new.replace("vision_tower.", "vision_tower.vision_model.")  # transformers 5
            weights[new] = tensor
    if _EMBEDDINGS not in weights:
        raise CheckpointError(
            f"{folder} holds no *.safetensors with {_EMBEDDINGS}; expected a PaliGemma in "
            "transformers' layout"
        )
    head = weights.pop("lm_head.weight", None)
    if head is not None and not torch.equal(head, weights[_EMBEDDINGS]):
        raise CheckpointError(
            f"{folder}: the output layer differs from the token embeddings, to which PaliGemma "
            "ties it; this is another architecture"
        )
    return weights


def read_sizes(
    folder: Path, weights: dict[str, Tensor], action_width: int
) -> SemanticNetworkConfig:
    """Sizes by config.json, with transformers' defaults for what it leaves out.

    Args:
        folder: in transformers' layout.
        weights: its tensors.
        action_width: components of an action where no projection says it.

    Raises:
        CheckpointError: if it is absent or not PaliGemma's.
    """
    from transformers import PaliGemmaConfig

    content: dict[str, Any] = json.loads(_read(folder / "config.json"))
    if not {"vision_config", "text_config"} <= set(content):
        raise CheckpointError(f"{folder / 'config.json'} is not PaliGemma's: no vision_config")
    known: Any = PaliGemmaConfig(
        vision_config=content["vision_config"], text_config=content["text_config"]
    )
    vision, text = known.vision_config, known.text_config
    if text.model_type != "gemma" or vision.model_type != "siglip_vision_model":
        raise CheckpointError(
            f"{folder / 'config.json'} names {text.model_type} and {vision.model_type}, expected "
            "gemma and siglip_vision_model (PaliGemma 1)"
        )
    rope = getattr(text, "rope_parameters", None) or {"rope_theta": text.rope_theta}
    projection = weights.get(_PROJECTION)
    return SemanticNetworkConfig(
        vocabulary=weights[_EMBEDDINGS].shape[0],
        action_width=action_width if projection is None else projection.shape[1],
        image_size=vision.image_size,
        patch=vision.patch_size,
        vision_width=vision.hidden_size,
        vision_depth=vision.num_hidden_layers,
        vision_heads=vision.num_attention_heads,
        vision_mlp=vision.intermediate_size,
        width=text.hidden_size,
        depth=text.num_hidden_layers,
        heads=text.num_attention_heads,
        key_value_heads=text.num_key_value_heads,
        head_width=text.head_dim,
        mlp=text.intermediate_size,
        rope_theta=rope["rope_theta"],
    )
