"""A chat model on this machine: any image-text-to-text model of transformers."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from tqdm import tqdm

from wm_gym.chat.requests import PROGRESS_FROM, ChatError, ChatReply, ChatRequest, OnReply


@dataclass(frozen=True)
class LocalChatConfig:
    """Which model, and where it runs."""

    model: str
    """Folder, or org/repo on the Hugging Face hub."""
    revision: str = ""
    """Commit, branch or tag on the hub; its main branch by default."""
    device: str = "cpu"
    """Torch device, or auto to spread it over all GPUs."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Floating-point type; auto: the one it was stored in."""


class LocalChat:
    """A `ChatModel` through transformers' own processor and chat template.

    Code that a repository brings along is never run: such a model has to be served by something
    that does (see `ChatServer`).

    Args:
        config: which model, and where it runs.

    Raises:
        ChatError: if it cannot be loaded or has no chat template.
    """

    def __init__(self, config: LocalChatConfig) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self.config = config
        revision = {"revision": config.revision} if config.revision else {}
        try:
            self._processor: Any = AutoProcessor.from_pretrained(config.model, **revision)
            network: Any = AutoModelForImageTextToText.from_pretrained(
                config.model, dtype=config.dtype, device_map=config.device, **revision
            )
        except (OSError, ValueError) as error:
            raise ChatError(
                f"model {config.model!r} cannot be loaded as an image-text-to-text model of "
                f"transformers ({error}); expected a folder or org/repo with its processor"
            ) from error
        if getattr(self._processor, "chat_template", None) is None:
            raise ChatError(
                f"model {config.model!r} has no chat template; take the variant that was tuned for "
                "instructions"
            )
        self._network = network.eval()
        self.model = config.model
        self.revision = _folder_hash(Path(config.model)) or str(
            getattr(network.config, "_commit_hash", None) or config.revision
        )

    def ask(
        self, requests: Sequence[ChatRequest], on_reply: OnReply | None = None
    ) -> list[ChatReply]:
        """Ask one request after the other, all its samples in a batch; see `ChatModel.ask`.

        A reply depends on its request only: its sampling has its own seed.
        """
        replies = []
        shown = tqdm(requests, desc="asking", unit="clip", disable=len(requests) < PROGRESS_FROM)
        for number, request in enumerate(shown):
            reply = self._reply(request)
            if on_reply is not None:
                on_reply(number, reply)
            replies.append(reply)
        return replies

    @torch.inference_mode()
    def _reply(self, request: ChatRequest) -> ChatReply:
        began = time.monotonic()
        content = [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {"type": "image", "image": Image.fromarray(part)}
            for part in request.parts
        ]
        inputs = self._processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self._network.device, dtype=self._network.dtype)
        sampling: dict[str, Any] = {"do_sample": False}
        if request.temperature > 0:
            sampling = {"do_sample": True, "temperature": request.temperature}
        with torch.random.fork_rng():
            torch.manual_seed(request.seed)
            tokens = self._network.generate(
                **inputs,
                **sampling,
                max_new_tokens=request.max_tokens,
                num_return_sequences=request.samples,
            )
        said = tokens[:, inputs["input_ids"].shape[1] :]
        texts = self._processor.batch_decode(said, skip_special_tokens=True)
        seconds = time.monotonic() - began
        if not all(text.strip() for text in texts):
            return ChatReply((), seconds, "the model said nothing")
        return ChatReply(tuple(texts), seconds)


def _folder_hash(folder: Path) -> str:
    """What identifies a model in a folder: a hash of all its files; "" if it is no folder."""
    if not folder.is_dir():
        return ""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()} {found}\n".encode())
    return f"sha256:{digest.hexdigest()[:16]}"
