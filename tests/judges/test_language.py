"""Judges that are asked in words, over real HTTP and through a real (tiny) transformers model."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from tests.chat.chat_server import ScriptedServer, images_of, texts_of
from tests.chat.tiny_vlm import write_tiny_vlm
from tests.judges.colour_judges import plain_clip_frames
from wm_gym.chat.local import LocalChat, LocalChatConfig
from wm_gym.chat.requests import ChatError, ChatRequest
from wm_gym.judges.language import APIJudgeConfig, LanguageJudge, VLMJudgeConfig, enlarged
from wm_gym.judges.registry import JudgeContext, judge_name, make_judge, read_judge_name
from wm_gym.judges.rubric import load_prompt, read_score
from wm_gym.judges.verdicts import Clip

PUSH = "push the red moon to the blue cube"


def grey_clip(*levels: int) -> Clip:
    return Clip(plain_clip_frames(*[(level, level, level) for level in levels]))


def by_last_picture(request) -> str:
    """Says 1 of white last pictures, 0 of black ones, 0.5 of others."""
    level = int(images_of(request)[-1].mean())
    return f"The last one is {level}. Score: {[0.5, 0, 1][(level == 0) + 2 * (level == 255)]}"


def api(server: ScriptedServer, cache, **changes) -> LanguageJudge:
    settings = {"model": "m", "retries": 1, "timeout_s": 10.0, "side": 0, "cache": str(cache)}
    config = APIJudgeConfig(**{"base_url": server.base_url, **settings, **changes})
    return config.make(JudgeContext())


def test_a_verdict_holds_score_words_prompt_model_and_revision(tmp_path):
    clips = [grey_clip(0, 255), grey_clip(255, 0), grey_clip(0, 100)]
    with ScriptedServer(by_last_picture) as server:
        judge = api(server, tmp_path, revision="r7", concurrency=1)
        verdicts = judge.judge(clips, [PUSH] * 3)
    assert [v.score for v in verdicts] == [1.0, 0.0, 0.5]
    assert [v.success for v in verdicts] == [True, False, True]
    for verdict, level in zip(verdicts, (255, 0, 100), strict=True):
        assert (verdict.judge, verdict.model, verdict.revision) == ("api", "m", "r7")
        assert verdict.prompt == "success-1" and verdict.error is None and verdict.seconds > 0
        assert f"The last one is {level}." in verdict.rationale
        assert verdict.answers == (verdict.rationale,)
    assert [PUSH in texts_of(request)[0] for request in server.requests] == [True] * 3


@pytest.mark.parametrize(
    ("frames", "shown"), [(1, [60]), (3, [0, 30, 60]), (0, [0, 15, 30, 45, 60])]
)
def test_the_pictures_are_evenly_spaced_and_enlarged(tmp_path, frames, shown):
    with ScriptedServer() as server:
        api(server, tmp_path, frames=frames, side=16).judge([grey_clip(0, 15, 30, 45, 60)], [PUSH])
    (request,) = server.requests
    assert [int(image.mean()) for image in images_of(request)] == shown
    assert {image.shape for image in images_of(request)} == {(16, 16, 3)}
    assert f"Picture {len(shown)} of {len(shown)}:" in texts_of(request)


def test_pictures_are_never_made_smaller_and_keep_their_shape():
    wide = np.zeros((20, 40, 3), np.uint8)
    assert enlarged(wide, 30).shape == (30, 60, 3)
    assert enlarged(wide, 20) is wide and enlarged(wide, 0) is wide


def test_several_samples_are_decided_by_majority(tmp_path):
    says = {5: "Score: 0", 6: "It arrived. Score: 1", 7: "It is there. Score: 1", 8: "I pass"}
    with ScriptedServer(lambda request: says[request["seed"]]) as server:
        judge = api(server, tmp_path, samples=4, temperature=0.7, seed=5)
        (verdict,) = judge.judge([grey_clip(0)], [PUSH])
    assert verdict.score == 1.0 and verdict.answers == tuple(says.values())
    assert verdict.rationale == "2 of 4 samples: It arrived. Score: 1"


@pytest.mark.parametrize(
    ("script", "answer", "said"),
    [
        (["refuse"], "", "refused: I may not look at robots"),
        (["500", "500"], "", "HTTP 500"),
        (["cut", "cut"], "", "unreadable answer"),
        ([], "I cannot tell.", "no score in 'I cannot tell.'"),
    ],
)
def test_where_there_is_no_score_the_verdict_says_why_and_the_others_stand(
    tmp_path, script, answer, said
):
    def say(request):
        return by_last_picture(request) if images_of(request)[-1].mean() else answer

    clips = [grey_clip(9, 0), grey_clip(0, 255)]
    with ScriptedServer(say, script) as server:
        silent, sure = api(server, tmp_path, concurrency=1).judge(clips, [PUSH] * 2)
    assert said in silent.error and math.isnan(silent.score) and not silent.success
    assert sure.score == 1.0 and sure.error is None


def test_what_was_answered_is_not_asked_again_and_failures_are(tmp_path):
    clips = [grey_clip(0, 255), grey_clip(255, 0)]
    with ScriptedServer(by_last_picture, ["ok", "refuse"]) as server:
        first = api(server, tmp_path, concurrency=1).judge(clips, [PUSH] * 2)
        assert first[1].error is not None
        again = api(server, tmp_path, concurrency=1)
        second = again.judge(clips, [PUSH] * 2)
        assert len(server.requests) == 3
        assert second[0] == first[0] and second[1].score == 0.0
        assert again.judge(clips, [PUSH] * 2) == second and len(server.requests) == 3
        for changes in (
            {"seed": 1}, {"model": "n"}, {"revision": "r"}, {"max_tokens": 9}, {"side": 8},
            {"temperature": 0.5},
        ):  # fmt: skip
            before = len(server.requests)
            api(server, tmp_path, **changes).judge(clips[:1], [PUSH])
            assert len(server.requests) == before + 1, changes
        before = len(server.requests)
        again.judge(clips[:1], ["reach the blue cube"])
        api(server, "none").judge(clips[:1], [PUSH])
        api(server, "none").judge(clips[:1], [PUSH])
        assert len(server.requests) == before + 3


def test_a_judgement_that_was_interrupted_goes_on_where_it_was(tmp_path):
    clips = [grey_clip(level, 255) for level in range(6)]
    with ScriptedServer(by_last_picture, ["ok"] * 4 + ["401"] * 9) as server:
        address = server.base_url
        with pytest.raises(ChatError, match="refuses model"):
            api(server, tmp_path, concurrency=1).judge(clips, [PUSH] * 6)
        assert len(list(tmp_path.rglob("*.json"))) == 4
        server.script, asked = [], len(server.requests)
        verdicts = api(server, tmp_path, concurrency=1).judge(clips, [PUSH] * 6)
        assert server.base_url == address and len(server.requests) == asked + 2
    assert [v.score for v in verdicts] == [1.0] * 6


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("api", "model: Field required"),
        ("api?model=m&base_url=localhost", "expected an address such as"),
        ("api?model=m&samples=3", "would be the same answer each time"),
        ("api?model=m&prompt=success-0", "expected one of ['success-1']"),
        ("vlm?model=m&frames=-1", "frames=-1"),
        ("vlm?model=m&dtype=int8", "'auto', 'float32', 'bfloat16' or 'float16'"),
    ],
)
def test_parameters_are_checked_before_anything_is_loaded(name, said):
    with pytest.raises(ValueError, match="is not stated properly") as refused:
        read_judge_name(name)
    assert said in str(refused.value)


# ---- a model of transformers ----


@pytest.fixture(scope="module")
def vlm(tmp_path_factory) -> str:
    return write_tiny_vlm(tmp_path_factory.mktemp("vlm") / "tiny")


@pytest.fixture(scope="module")
def chat(vlm) -> LocalChat:
    return LocalChat(LocalChatConfig(vlm))


NOISE = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), np.uint8)


def test_a_local_model_says_what_transformers_says(chat, vlm):
    import torch
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor

    (reply,) = chat.ask([ChatRequest((PUSH, NOISE[0], "Picture", NOISE[1]), max_tokens=6)])
    processor = AutoProcessor.from_pretrained(vlm)
    network = AutoModelForImageTextToText.from_pretrained(vlm)
    inputs = processor(
        text=f"{PUSH} <image> Picture <image> <answer>",
        images=[Image.fromarray(NOISE[0]), Image.fromarray(NOISE[1])],
        return_tensors="pt",
    )
    with torch.inference_mode():
        tokens = network.generate(**inputs, do_sample=False, max_new_tokens=6)
    said = processor.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert reply.texts == (said,) and len(said.split()) == 6


def test_pictures_words_and_seed_matter_and_neighbours_do_not(chat):
    greedy = [ChatRequest((PUSH, image), max_tokens=8) for image in (*NOISE[:4], 0 * NOISE[0])]
    assert len({reply.texts for reply in chat.ask(greedy)}) > 1
    other_words = ChatRequest(("reach the blue cube", NOISE[0]), max_tokens=8)
    assert chat.ask([other_words])[0].texts != chat.ask(greedy[:1])[0].texts
    requests = [
        ChatRequest((PUSH, NOISE[0]), samples=3, temperature=1.0, max_tokens=8, seed=seed)
        for seed in range(3)
    ]
    together = [reply.texts for reply in chat.ask(requests)]
    assert len(set(together)) == 3 and all(len(set(texts)) > 1 for texts in together)
    assert [reply.texts for reply in chat.ask(requests[::-1])] == together[::-1]


def test_the_random_generator_of_the_caller_is_left_alone(chat):
    import torch

    torch.manual_seed(4)
    expected = torch.rand(2)
    torch.manual_seed(4)
    chat.ask([ChatRequest((PUSH, NOISE[0]), samples=2, temperature=1.0, max_tokens=2)])
    assert torch.equal(torch.rand(2), expected)


def test_the_revision_of_a_folder_is_what_it_holds(chat, vlm, tmp_path):
    other = write_tiny_vlm(tmp_path / "other", seed=1)
    assert chat.revision.startswith("sha256:")
    assert LocalChat(LocalChatConfig(vlm)).revision == chat.revision
    assert LocalChat(LocalChatConfig(other)).revision != chat.revision


def test_a_local_judge_reads_scores_from_what_the_model_says(vlm, tmp_path):
    settings = {"frames": 2, "max_tokens": 6, "samples": 5, "temperature": 1.0, "side": 16}
    name = judge_name("vlm", model=vlm, cache=str(tmp_path), **settings)
    judge = make_judge(name)
    clips = [Clip(NOISE[:3]), Clip(NOISE[3:])]
    verdicts = judge.judge(clips, [PUSH] * 2)
    assert isinstance(judge, LanguageJudge)
    for verdict in verdicts:
        scores = [read_score(text) for text in verdict.answers]
        assert len(scores) == 5 and set(scores) & {0.0, 0.5, 1.0}
        if verdict.error is None:
            assert verdict.score in scores and verdict.success == (verdict.score >= 0.5)
        assert verdict.revision == judge.chat.revision and verdict.model == vlm
    assert verdicts[0].answers != verdicts[1].answers
    assert any(verdict.error is None for verdict in verdicts)
    assert make_judge(name).judge(clips, [PUSH] * 2) == verdicts  # out of the cache, times included


def test_models_that_are_none_are_refused(tmp_path):
    import json

    with pytest.raises(ChatError, match="cannot be loaded as an image-text-to-text model"):
        LocalChat(LocalChatConfig(str(tmp_path)))
    folder = write_tiny_vlm(tmp_path / "bare")
    (tmp_path / "bare" / "chat_template.jinja").unlink()
    with pytest.raises(ChatError, match="has no chat template"):
        LocalChat(LocalChatConfig(folder))
    assert (
        json.loads((tmp_path / "bare" / "config.json").read_text(encoding="utf-8"))["model_type"]
        == "llava"
    )


def test_a_config_of_a_local_judge_shares_the_settings_of_all():
    config = VLMJudgeConfig(model="m")
    assert replace(config, frames=3).request(()).max_tokens == config.max_tokens
    assert load_prompt(config.prompt).version == "success-1"
