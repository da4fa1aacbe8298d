"""Judges that are asked in words: `vlm` runs a model here, `api` asks a server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from wm_gym.chat.requests import ChatModel, ChatReply, ChatRequest
from wm_gym.errors import UserError
from wm_gym.judges.answer_cache import AnswerCache, content_key, default_cache_folder
from wm_gym.judges.rubric import PROMPT, load_prompt, majority_score, read_score
from wm_gym.judges.verdicts import (
    SUCCESS_SCORE,
    Clip,
    JudgeContext,
    Verdict,
    check_batch,
    no_verdict,
)

NO_CACHE = "none"


@dataclass(frozen=True, kw_only=True)
class LanguageJudgeConfig:
    """How a model is asked."""

    frames: int = 8
    """Evenly spaced pictures of an episode, first and last included; 0 shows all."""
    side: int = 448
    """Pictures whose shorter side is smaller are enlarged to this many pixels; 0 leaves them."""
    prompt: str = PROMPT
    """Version of the prompt, or a text file of your own."""
    samples: int = 1
    """Answers per episode; the score that most of them give counts, the higher one of a tie."""
    temperature: float = 0.0
    """Of the sampling; above 0 if there are several samples."""
    max_tokens: int = 512
    """Longest answer."""
    seed: int = 0
    """Of the sampling."""
    cache: str = ""
    """Folder of stored answers; by default ~/.cache/wm_gym/judges, `none` for no cache."""

    def __post_init__(self) -> None:
        """Check numbers and prompt before a model is loaded."""
        if self.frames < 0 or self.side < 0:
            raise UserError(f"frames={self.frames}, side={self.side}; expected 0 or more")
        load_prompt(self.prompt)
        self.request(())

    def request(self, parts: tuple[str | np.ndarray, ...]) -> ChatRequest:
        """The request with these parts."""
        return ChatRequest(parts, self.samples, self.temperature, self.max_tokens, self.seed)


@dataclass(frozen=True, kw_only=True)
class VLMJudgeConfig(LanguageJudgeConfig):
    """A local image-text-to-text model of transformers."""

    model: str
    """Folder, or org/repo on the Hugging Face hub."""
    revision: str = ""
    """Commit, branch or tag on the hub; its main branch by default."""
    device: str = ""
    """Torch device, or auto for all GPUs; the one in use by default."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Floating-point type; auto: the one it was stored in."""

    def make(self, context: JudgeContext) -> LanguageJudge:
        """Load the model."""
        from wm_gym.chat.local import LocalChat, LocalChatConfig

        device = self.device or context.device
        chat = LocalChat(LocalChatConfig(self.model, self.revision, device, self.dtype))
        return LanguageJudge("vlm", chat, self, {"dtype": self.dtype})


@dataclass(frozen=True, kw_only=True)
class APIJudgeConfig(LanguageJudgeConfig):
    """A model behind an OpenAI-compatible server."""

    model: str
    """Name under which the server knows the model."""
    base_url: str = "http://localhost:8000/v1"
    """Address of the server up to the version."""
    revision: str = ""
    """Revision of the model, for the record; a server does not tell."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the server's key; a server without keys needs none."""
    concurrency: int = 8
    """Requests under way at once."""
    timeout_s: float = 120.0
    """Longest wait for a sign of life, in seconds."""
    retries: int = 5
    """How often a request is tried again, with growing pauses."""

    def __post_init__(self) -> None:
        """Check the address, too."""
        super().__post_init__()
        self._server()

    def _server(self) -> Any:
        from wm_gym.chat.server import ChatServerConfig

        return ChatServerConfig(
            self.base_url, self.model, self.revision, self.key_variable, self.concurrency,
            self.timeout_s, self.retries,
        )  # fmt: skip

    def make(self, context: JudgeContext) -> LanguageJudge:
        """Make the client; nothing is sent yet."""
        from wm_gym.chat.server import ChatServer

        return LanguageJudge("api", ChatServer(self._server()), self, {"base_url": self.base_url})


class LanguageJudge:
    """Shows pictures of an episode to a chat model and reads a score out of its answers.

    Answers are stored by the content of what was asked as soon as they come, so an interrupted run
    goes on where it was, and the same episode is never paid for twice. Failures are not stored.

    Args:
        name: of the judge.
        chat: the model.
        config: how it is asked.
        place: what else tells its answers from those of the same model elsewhere.
    """

    def __init__(
        self, name: str, chat: ChatModel, config: LanguageJudgeConfig, place: dict[str, str]
    ) -> None:
        self.name, self.chat, self.config = name, chat, config
        self.frames = config.frames
        self.prompt = load_prompt(config.prompt)
        self.cache = None
        if config.cache != NO_CACHE:
            self.cache = AnswerCache(Path(config.cache) if config.cache else default_cache_folder())
        self._facts = {
            "judge": name, "model": chat.model, "revision": chat.revision, **place,
            "prompt": self.prompt.sha256, "samples": config.samples, "seed": config.seed,
            "temperature": config.temperature, "max_tokens": config.max_tokens,
        }  # fmt: skip

    def judge(self, clips: Sequence[Clip], instructions: Sequence[str]) -> list[Verdict]:
        """Judge clips, see `Judge.judge`.

        Raises:
            ChatError: if the model cannot be asked at all; verdicts found so far are in the cache.
        """
        check_batch(clips, instructions)
        replies: dict[int, ChatReply] = {}
        asked: list[tuple[int, str]] = []
        requests = []
        for number, (clip, text) in enumerate(zip(clips, instructions, strict=True)):
            pictures = [enlarged(f, self.config.side) for f in clip.sampled(self.frames).frames]
            key = content_key({**self._facts, "instruction": text}, pictures)
            stored = None if self.cache is None else self.cache.get(key)
            if stored is not None:
                replies[number] = ChatReply(tuple(stored["texts"]), stored["seconds"])
            else:
                asked.append((number, key))
                requests.append(self.config.request(self.prompt.parts(text, pictures)))

        def store(place: int, reply: ChatReply) -> None:
            if self.cache is not None and reply.error is None:
                self.cache.put(asked[place][1], asdict(reply))

        for (number, _), reply in zip(asked, self.chat.ask(requests, store), strict=True):
            replies[number] = reply
        return [self._verdict(replies[number]) for number in range(len(clips))]

    def _verdict(self, reply: ChatReply) -> Verdict:
        facts = {
            "prompt": self.prompt.version,
            "model": self.chat.model,
            "revision": self.chat.revision,
            "answers": reply.texts,
        }
        if reply.error is not None:
            return no_verdict(self.name, reply.error, reply.seconds, **facts)
        found = [(read_score(text), text) for text in reply.texts]
        scores = [score for score, _ in found if score is not None]
        if not scores:
            said = " ".join(reply.texts[0].split())[:120]
            return no_verdict(self.name, f"no score in {said!r}", reply.seconds, **facts)
        score = majority_score(scores)
        rationale = next(" ".join(text.split()) for value, text in found if value == score)
        if len(found) > 1:
            rationale = f"{scores.count(score)} of {len(found)} samples: {rationale}"
        success = score >= SUCCESS_SCORE
        return Verdict(score, success, rationale, self.name, reply.seconds, **facts)


def enlarged(frame: np.ndarray, side: int) -> np.ndarray:
    """A frame (H, W, 3) uint8 whose shorter side has at least so many pixels."""
    height, width = frame.shape[:2]
    if min(height, width) >= side:
        return frame
    scale = side / min(height, width)
    size = (round(width * scale), round(height * scale))
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))
