"""Which chat model a command asks, as its options say."""

from __future__ import annotations

from dataclasses import dataclass

from wm_gym.chat.requests import ChatModel

LOCAL = "local"


@dataclass(frozen=True)
class ChatChoice:
    """A model behind an OpenAI-compatible server, or one of transformers on this machine."""

    model: str
    """Name under which the server knows it; or with base_url=local a folder or org/repo."""
    base_url: str = "http://localhost:8000/v1"
    """Address of the server up to the version, or local."""
    revision: str = ""
    """Revision of the model: for the record, or to load."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the server's key; a server without keys needs none."""
    concurrency: int = 8
    """Requests under way at once."""
    timeout_s: float = 120.0
    """Longest wait for a sign of life, in seconds."""
    retries: int = 5
    """How often a request is tried again, with growing pauses."""
    device: str = "cpu"
    """Torch device of a local model."""

    def make(self) -> ChatModel:
        """Make the client, or load the model; nothing is asked yet.

        Raises:
            ChatError: if a package is missing or the model cannot be loaded.
            ValueError: if the address or a number is wrong.
        """
        if self.base_url == LOCAL:
            from wm_gym.chat.local import LocalChat, LocalChatConfig

            return LocalChat(LocalChatConfig(self.model, self.revision, self.device))
        from wm_gym.chat.server import ChatServer, ChatServerConfig

        return ChatServer(
            ChatServerConfig(
                self.base_url, self.model, self.revision, self.key_variable, self.concurrency,
                self.timeout_s, self.retries,
            )
        )  # fmt: skip
