"""Recipe: `wm-gym train semantic`, a semantic world model on questions about the future.

The embedded models take two stages. First questions about single pictures of tables with every
colour-shape pair, which stands in for a VLM's pretraining:

    wm-gym collect --objects mixed --out scenes
    wm-gym collect-qa --data scenes --present-only --out present
    wm-gym train semantic --qa present --expert-share None --out stage_1

then questions about the future (`--qa saqa --init stage_1/checkpoint`). A base such as PaliGemma-3B
needs no first stage: `wm-gym import-semantic` converts it for `--init`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wm_gym.domains import Domain, domain_of
from wm_gym.errors import MissingPackageError, UserError
from wm_gym.semantic.attention import PrefixAttention
from wm_gym.semantic.model import SemanticNetwork, SemanticNetworkConfig
from wm_gym.semantic.tokens import TOKENIZERS, QuestionTokenizer, langtable_tokenizer
from wm_gym.semantic.world_model import SemanticWorldModel, load_semantic_model, save_semantic_model
from wm_gym.semantic_card import SemanticSpec
from wm_gym.spec import FrameSpec
from wm_gym.training.local_vision import see_locally
from wm_gym.training.loop import LoopConfig, TrainingLoop, row_shares
from wm_gym.training.saqa import (
    Blind,
    QABatch,
    QAError,
    SAQADataset,
    draw_wording,
    mixed_rows,
)
from wm_gym.training.semantic_loss import SemanticLoss

CHECKPOINT = "checkpoint"
CHECK_ROWS = 64
LORA_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def _embedded_sizes() -> SemanticNetworkConfig:
    return SemanticNetworkConfig(vocabulary=langtable_tokenizer().size, action_width=2)


@dataclass(frozen=True)
class TrainSemanticConfig:
    """Train a semantic world model, or go on training one."""

    qa: Path
    """Folder of questions, made by `wm-gym collect-qa`."""
    out: Path
    """Run folder: resumable state, logs and at the end `checkpoint`."""
    init: str = ""
    """Semantic checkpoint to start from: a folder, e.g. an earlier run's `checkpoint`, or hf://…;
    sizes, tokenizer, attention and scaling of the actions are its own. Empty starts from random
    weights."""
    transfer: bool = False
    """`init` is a model of another simulator: what it knows of seeing and comparing is kept, with
    the embeddings of the words that both have; the action projection and all other words begin
    anew. Right answers come much sooner than from random weights."""
    network: SemanticNetworkConfig = field(default_factory=_embedded_sizes)
    """Sizes of a network that starts from random weights."""
    local_vision: bool = False
    """Start the vision encoder's first layers as a look at the eight neighbouring patches, see
    `local_vision`; for random weights, where things are about as small as a patch. Needs
    network.vision_heads=8."""
    prefix_attention: PrefixAttention = "block_causal"
    """full: as the published weights; block_causal: image and actions do not see the question, so
    planners compute them once for all questions."""
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=20_000,
            learning_rate=6e-4,
            final_learning_rate_fraction=0.0,
            decay="linear",
            warmup_steps=500,
            weight_decay=1e-2,
            ema=0.999,
        )
    )
    """Optimisation. The paper fine-tunes PaliGemma-3B for 24 000 steps with a rate that falls
    linearly from 1e-5, and an effective batch of 96."""
    rows: int = 16
    """Frames a step."""
    questions: int = 16
    """Questions about every frame."""
    accumulation: int = 1
    """Parts into which a process divides its frames, one after the other."""
    expert_share: float | None = 0.5
    """Share of frames from expert episodes; None takes all episodes as they come."""
    seeing_weight: float = 0.0
    """Weight of an auxiliary loss that asks every image token what it shows, and where the middle
    of that is; for networks that start from random weights. 0 trains on answers alone."""
    grounding_weight: float = 0.0
    """Weight of an auxiliary loss that teaches the words that name a thing to look at it, and asks
    them where it is and where it will be after the question's actions, and every action where the
    effector will be; for networks that start from random weights, under block-causal attention. 0
    trains on answers alone."""
    blind: Blind = "none"
    """Train a control that sees only grey frames (image) or no motion (actions); its card says
    so, and `wm-gym evaluate semantic` blinds it in the same way."""
    check: Path | None = None
    """Folder of other questions whose accuracy is logged, never trained on."""
    check_every: int = 500
    """Steps between these checks."""
    lora_rank: int = 0
    """Train low-rank updates of Gemma's layers and the action projection instead of all weights; 0
    trains all. Needs `pip install wm_gym[lora]`."""
    bf16: bool = True
    """Matrix products in bfloat16."""
    name: str = "langtable-swm"
    """Name on the card."""
    seed: int = 0
    """Seed of initialisation and batches."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if min(self.rows, self.questions, self.accumulation) < 1 or self.lora_rank < 0:
            raise UserError(
                f"rows={self.rows}, questions={self.questions} and accumulation="
                f"{self.accumulation} must be at least 1, and lora_rank={self.lora_rank} at least 0"
            )
        if min(self.seeing_weight, self.grounding_weight) < 0:
            raise UserError(
                f"seeing_weight={self.seeing_weight} and grounding_weight={self.grounding_weight} "
                "must be at least 0"
            )
        if self.blind == "image" and (self.seeing_weight or self.grounding_weight):
            raise UserError(
                f"seeing_weight={self.seeing_weight} and grounding_weight={self.grounding_weight} "
                "with blind='image' ask grey frames what they show; leave one of them out"
            )
        if self.local_vision and self.init:
            raise UserError(
                f"local_vision=True with init={self.init!r}: its weights are not random; leave one "
                "of them out"
            )
        if self.transfer and not self.init:
            raise UserError("transfer=True needs init, the model to start from")
        if self.expert_share is not None and not 0 <= self.expert_share <= 1:
            raise UserError(f"expert_share={self.expert_share} must be between 0 and 1, or None")

    def fingerprint(self) -> dict[str, Any]:
        """The settings that a resumed run must share."""
        free = ("loop", "out", "check", "check_every", "accumulation", "name")
        return {key: value for key, value in asdict(self).items() if key not in free}


class SemanticBatches:
    """Batches of questions, a function of (seed, step).

    Args:
        config: the recipe's settings.
        saqa: the questions.
    """

    def __init__(self, config: TrainSemanticConfig, saqa: SAQADataset) -> None:
        self.config, self.saqa = config, saqa
        share = config.expert_share
        if share is None:
            self.samplers, self.shares = [saqa.sampler()], (1.0,)
        else:
            wanted = {"expert": share, "suboptimal": 1 - share}
            kept: list[Any] = [group for group, part in wanted.items() if part]
            self.samplers = [saqa.sampler(group) for group in kept]
            self.shares = tuple(wanted[group] for group in kept)

    def draw(self, step: int, rows: slice) -> QABatch:
        """A process's part of a step's batch."""
        config = self.config
        rng = np.random.default_rng([config.seed, step])
        numbers = mixed_rows(self.samplers, self.shares, config.rows, config.questions, rng)
        wording = draw_wording(numbers.shape, rng)
        return self.saqa.batch(numbers[rows], wording[rows]).blinded(config.blind)


def starting_point(
    config: TrainSemanticConfig, domain: Domain
) -> tuple[SemanticNetwork, QuestionTokenizer, SemanticSpec | None]:
    """Network and tokenizer to start from, and the card if there is one.

    Raises:
        CheckpointError: if `init` cannot be loaded.
        ValueError: if it is a model of another simulator than the questions'.
    """
    if config.init:
        model = load_semantic_model(config.init)
        if config.transfer:
            tokenizer = TOKENIZERS[domain.twin]()
            return transferred(model, tokenizer, domain.action.size), tokenizer, None
        if model.spec.twin != domain.twin:
            raise UserError(
                f"init={config.init!r} is a model of {model.spec.twin}, and {config.qa} asks about "
                f"{domain.twin}; give questions about {model.spec.twin}, or another init, or set "
                "transfer to begin from what it knows of seeing"
            )
        return model.network.requires_grad_(True).train(), model.tokenizer, model.spec
    tokenizer = TOKENIZERS[domain.twin]()
    sizes = replace(config.network, vocabulary=tokenizer.size, action_width=domain.action.size)
    network = SemanticNetwork(sizes, config.prefix_attention)
    if config.local_vision:
        see_locally(network)
    return network, tokenizer, None


def transferred(
    model: SemanticWorldModel, tokenizer: QuestionTokenizer, action_width: int
) -> SemanticNetwork:
    """A network for other words and actions that knows what a model knows otherwise.

    Args:
        model: of another simulator.
        tokenizer: the words of this one; those that both know keep their embeddings.
        action_width: components of an action here; their projection is drawn anew.
    """
    sizes = replace(model.network.config, vocabulary=tokenizer.size, action_width=action_width)
    network = SemanticNetwork(sizes, model.network.prefix_attention)
    known, own = model.network.state_dict(), network.state_dict()
    words, others = tokenizer.vocabulary, model.tokenizer.vocabulary
    common = [word for word in words if word in others]
    here, there = [words[word] for word in common], [others[word] for word in common]
    for name, weight in own.items():
        if weight.shape == known[name].shape and not name.startswith("action_projector."):
            own[name] = known[name].to(weight)
        elif len(weight) == tokenizer.size:
            weight[here] = known[name][there].to(weight)
    network.load_state_dict(own)
    return network


def add_lora(network: SemanticNetwork, rank: int) -> None:
    """Freeze the network but for the action projection, and add low-rank updates to Gemma.

    Raises:
        ImportError: if peft is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise MissingPackageError("lora_rank needs peft: pip install 'wm_gym[lora]'") from error
    modules = rf".*language_model.*\.({'|'.join(LORA_MODULES)})"
    updates = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=modules)
    network.requires_grad_(False)
    network.paligemma = get_peft_model(network.paligemma, updates)  # pyright: ignore
    network.action_projector.requires_grad_(True)


def train_semantic(config: TrainSemanticConfig) -> Path:
    """Run `wm-gym train semantic`: train, or resume, and write a checkpoint folder.

    Returns:
        The checkpoint folder.

    Raises:
        QAError: if the questions cannot be read.
        CheckpointError: if `init` does not fit.
    """
    from accelerate import Accelerator

    torch.manual_seed(config.seed)
    saqa = SAQADataset(config.qa)
    if (config.seeing_weight or config.grounding_weight) and not saqa.has_places:
        raise QAError(
            f"{config.qa} does not say where things appear, which seeing_weight="
            f"{config.seeing_weight} and grounding_weight={config.grounding_weight} need; collect "
            "the questions again with `wm-gym collect-qa`"
        )
    batches = SemanticBatches(config, saqa)
    domain = domain_of(saqa.simulator)
    assert domain is not None  # every question set belongs to a domain
    network, tokenizer, card = starting_point(config, domain)
    if config.grounding_weight and network.prefix_attention == "full":
        raise UserError(
            f"grounding_weight={config.grounding_weight} needs prefix_attention='block_causal', "
            "this network has 'full'; leave the weight out"
        )
    if config.lora_rank:
        add_lora(network, config.lora_rank)
    spec = make_card(config, saqa, domain, network, card)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    module = SemanticLoss(
        network, tokenizer, spec.action, config.seeing_weight, config.grounding_weight
    )
    contents = {
        "questions_sha256": saqa.sha256,
        "init_sha256": dict(card.weights_sha256) if card else None,
    }
    loop = TrainingLoop(
        config.out,
        module,
        config.loop,
        fingerprint=config.fingerprint() | contents,
        accelerator=accelerator,
    )
    device = accelerator.device

    def part(rows: slice, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
            return loop.module(batches.draw(step, rows))

    check = None if config.check is None else _check_batch(config, SAQADataset(config.check))

    def measure(step: int) -> dict[str, float]:
        assert check is not None
        own = {k: v.clone() for k, v in module.state_dict().items()}
        module.load_state_dict(loop.weights())
        with torch.no_grad():
            _, found = module.eval()(check)
        module.train().load_state_dict(own)
        return {f"check_{name}": float(value) for name, value in found.items()}

    processes = accelerator.num_processes
    parts = row_shares(config.rows, config.accumulation, accelerator.process_index, processes)
    every = config.check_every if check is not None else 0
    loop.run([partial(part, rows) for rows in parts], every=every, callback=measure)
    if accelerator.is_main_process:
        module.load_state_dict(loop.weights())
        if config.lora_rank:
            merged: Any = network.paligemma
            network.paligemma = merged.merge_and_unload()
        steps = {"steps": loop.step, "hours": round(loop.seconds / 3600, 2)}
        spec = replace(spec, recipe={**spec.recipe, **steps})
        save_semantic_model(config.out / CHECKPOINT, spec, network, tokenizer)
    accelerator.wait_for_everyone()
    return config.out / CHECKPOINT


def _check_batch(config: TrainSemanticConfig, saqa: SAQADataset) -> QABatch:
    rng = np.random.default_rng([config.seed, 1, 1])
    numbers = saqa.sampler().draw(CHECK_ROWS, config.questions, rng)
    return saqa.batch(numbers, draw_wording(numbers.shape, rng)).blinded(config.blind)


def make_card(
    config: TrainSemanticConfig,
    saqa: SAQADataset,
    domain: Domain,
    network: SemanticNetwork,
    card: SemanticSpec | None,
) -> SemanticSpec:
    """The card of what is trained; hashes come when it is saved."""
    objects: dict[str, None] = {}
    for number, source in enumerate(saqa.sources):
        for episode in range(len(source)):
            objects |= dict.fromkeys(saqa.objects(number, episode))
    height, width = saqa.sources[0].frames(0, slice(0, 1)).shape[1:3]
    recipe: Mapping[str, Any] = {
        "command": "wm-gym train semantic",
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in _settings(config).items()},
        "questions": {**saqa.settings, "records": len(saqa)},
        "init": card.recipe if card is not None else None,
    }
    return SemanticSpec(
        name=config.name,
        description=(
            f"A semantic world model of wm_gym's {domain.twin} simulator: says how likely an "
            "answer to a question is after a sequence of actions."
        ),
        embedded=False,
        licence="Apache-2.0",
        training_data=domain.training_data,
        recipe=dict(recipe),
        twin=domain.twin,
        frame=FrameSpec(int(height), int(width), domain.frame.camera),
        # weights know the scaling that they were trained with
        action=card.action if card else replace(domain.action, width=network.config.action_width),
        network=asdict(network.config),
        prefix_attention=network.prefix_attention,
        objects=tuple(objects),
        weights_sha256={},
        horizon=max(1, saqa.max_horizon),
        tasks=dict(domain.tasks),
    )


def _settings(config: TrainSemanticConfig) -> dict[str, Any]:
    kept = asdict(config)
    del kept["network"], kept["out"]
    return kept
