"""`transformers serve` is such a server: it says over HTTP what the same model says here."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.chat.tiny_vlm import write_tiny_vlm
from wm_gym.chat.local import LocalChat, LocalChatConfig
from wm_gym.chat.requests import ChatRequest
from wm_gym.chat.server import ChatServer, ChatServerConfig

PATIENCE_S = 300.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_open(port: int, process: subprocess.Popen, log: Path) -> None:
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text(encoding="utf-8")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    raise AssertionError(f"nothing listens after {PATIENCE_S} s: {log.read_text(encoding='utf-8')}")


@pytest.mark.slow
def test_a_served_model_says_what_the_same_model_says_here(tmp_path):
    folder, port, log = write_tiny_vlm(tmp_path / "tiny"), free_port(), tmp_path / "log.txt"
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", folder]
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    told = ("push the red moon to the blue cube", "reach the blue cube")
    requests = [ChatRequest((text, images[0]), max_tokens=8) for text in told]
    requests.append(ChatRequest((told[0], images[0], "Picture", images[1]), max_tokens=8))
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
        try:
            wait_until_open(port, process, log)
            config = ChatServerConfig(f"http://127.0.0.1:{port}/v1", folder, concurrency=1)
            served = ChatServer(config).ask(requests)
        finally:
            process.kill()
            process.wait()
    here = LocalChat(LocalChatConfig(folder)).ask(requests)
    assert [reply.error for reply in served] == [None] * 3
    assert [reply.texts for reply in served] == [reply.texts for reply in here]
    assert len({reply.texts for reply in here}) > 1
