"""Judges that need no language model: names, verdicts, classifier, oracle, semantic, consensus."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.judges.colour_judges import COLOUR_ENTRY, ColourJudge, plain_clip_frames
from tests.semantic.conftest import tiny_semantic_model
from wm_gym.checkpoints import Checkpoint
from wm_gym.envs.sims.predicates import success_predicate
from wm_gym.instructions import Goal, InstructionError
from wm_gym.judges.classifier import ClassifierJudge
from wm_gym.judges.consensus import ConsensusJudge, ConsensusJudgeConfig, PaperJudgeConfig
from wm_gym.judges.oracle import OracleJudge
from wm_gym.judges.registry import (
    JUDGES,
    JudgeContext,
    judge_name,
    make_judge,
    read_judge_name,
)
from wm_gym.judges.semantic import SemanticJudge, SemanticJudgeConfig
from wm_gym.judges.success_classifier import EpisodeRule, RewardModel
from wm_gym.judges.verdicts import Clip, JudgeError, Verdict, evenly, no_verdict
from wm_gym.semantic.tasks import langtable_task
from wm_gym.semantic.value import present_probabilities
from wm_gym.semantic.world_model import save_semantic_model

PUSH = "push the red moon to the green star"
REACH = "reach the blue cube"


def noise_clip(seed: int, size: int = 32, length: int = 5) -> Clip:
    rng = np.random.default_rng(seed)
    return Clip(rng.integers(0, 256, (length, size, size, 3), np.uint8))


@pytest.mark.parametrize("length", [1, 2, 7, 60])
@pytest.mark.parametrize("count", [0, 1, 2, 5, 60, 99])
def test_sampled_frames_are_in_order_include_both_ends_and_sample_to_themselves(length, count):
    places = evenly(length, count)
    assert len(places) == (length if count == 0 else min(length, count))
    assert places[-1] == length - 1
    assert (np.diff(places) > 0).all()
    assert count == 1 or places[0] == 0
    # a clip that was sampled already is not thinned out any further
    assert evenly(len(places), count).tolist() == list(range(len(places)))


@pytest.mark.parametrize(
    ("frames", "states"),
    [
        (np.zeros((0, 4, 4, 3), np.uint8), None),
        (np.zeros((2, 4, 4, 3), np.float32), None),
        (np.zeros((4, 4, 3), np.uint8), None),
        (np.zeros((2, 4, 4, 3), np.uint8), np.zeros((3, 5))),
    ],
)
def test_a_clip_refuses_what_is_none(frames, states):
    with pytest.raises(ValueError, match="expected"):
        Clip(frames, states)


def test_a_verdict_has_a_score_between_0_and_1_or_an_error():
    with pytest.raises(ValueError, match="expected 0 to 1"):
        Verdict(1.5, True, "", "x", 0.0)
    with pytest.raises(ValueError, match="expected 0 to 1"):
        Verdict(float("nan"), False, "", "x", 0.0)
    with pytest.raises(ValueError, match="has no score and no success"):
        Verdict(0.0, False, "", "x", 0.0, error="refused")
    silent = no_verdict("x", "refused", 0.5)
    assert math.isnan(silent.score) and not silent.success
    assert silent.to_dict()["score"] is None and silent.to_dict()["error"] == "refused"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("vibes", "judge 'vibes' does not exist; expected one of classifier, oracle"),
        ("semantic", "checkpoint: Field required"),
        ("semantic?checkpoint=x&threshold=2", "must be between 0 and 1"),
        ("semantic?checkpoint=x&threshold=high", "threshold: Input should be a valid number"),
        ("semantic?checkpoint=x&checkpoint=y", "states checkpoint more than once"),
        ("classifier?speed=3", "speed: Unexpected keyword argument; 'classifier' takes checkpoint"),
        ("consensus?judge=classifier", "needs at least two judges"),
        ("consensus?judge=classifier&judge=vibes", "judge 'vibes' does not exist"),
        ("consensus?judge=oracle&judge=oracle&rule=some", "'all', 'majority' or 'mean'"),
    ],
)
def test_a_name_that_is_not_understood_is_refused_with_what_is_expected(name, said):
    with pytest.raises(ValueError, match="judge") as refused:
        read_judge_name(name)
    assert said in str(refused.value)


def test_names_round_trip_whatever_their_parameters_hold():
    folder = "/runs/a b&c=d?e+f#g%20"
    inner = judge_name("semantic", checkpoint=folder, threshold=0.25)
    name = judge_name("consensus", judge=["classifier", inner], rule="mean")
    config = read_judge_name(name)
    assert config == ConsensusJudgeConfig(("classifier", inner), "mean")
    assert read_judge_name(config.judge[1]) == SemanticJudgeConfig(folder, 0.25)


def test_the_classifier_judge_says_what_the_reward_model_says_of_the_last_frame(tiny_model):
    clips = [noise_clip(seed) for seed in range(3)]
    texts = [PUSH, REACH, "Push the blue cube to the red moon."]
    goals = [
        Goal("push", ("red moon", "green star")),
        Goal("reach", ("blue cube",)),
        Goal("push", ("blue cube", "red moon")),
    ]
    classifier = RewardModel.from_checkpoint(Checkpoint(tiny_model.folder, tiny_model.spec))
    last = torch.from_numpy(np.stack([clip.frames[-1] for clip in clips]))
    expected = classifier.probability(tiny_model.encode(last), goals).tolist()
    judge = make_judge("classifier", JudgeContext(world_model=lambda: tiny_model))
    assert isinstance(judge, ClassifierJudge)
    verdicts = judge.judge(clips, texts)
    assert [v.score for v in verdicts] == pytest.approx(expected, abs=1e-6)
    assert len(set(expected)) == 3
    assert not any(v.success for v in verdicts)  # its thresholds are 1
    judge.classifier.thresholds = {"push": expected[0] - 1e-4, "reach": 1.0}
    assert judge.judge(clips[:1], texts[:1])[0].success
    assert judge.judge([], []) == []
    with pytest.raises(InstructionError, match="is not understood"):
        judge.judge(clips[:1], ["dance"])
    with pytest.raises(ValueError, match="2 clips and 1 instructions"):
        judge.judge(clips[:2], texts[:1])


def test_the_classifier_judge_may_find_success_in_any_frame_after_the_first(tiny_model):
    clips, texts = [noise_clip(1), noise_clip(2)], [PUSH, REACH]
    goals = [Goal("push", ("red moon", "green star")), Goal("reach", ("blue cube",))]
    every = ClassifierJudge(tiny_model, every_frame=True)
    assert every.frames == 0
    expected = []
    for clip, goal in zip(clips, goals, strict=True):
        latents = tiny_model.encode(torch.from_numpy(clip.frames[1:]))
        scores = every.classifier.probability(latents, [goal] * len(latents))
        expected.append(scores.max().item())
    assert [v.score for v in every.judge(clips, texts)] == pytest.approx(expected, abs=1e-6)
    rule = EpisodeRule(2, {"push": expected[0] / 4, "reach": 1.0})
    every.classifier.rule = rule
    averaged = []
    for clip, goal in zip(clips, goals, strict=True):
        latents = tiny_model.encode(torch.from_numpy(clip.frames[1:]))
        scores = every.classifier.probability(latents, [goal] * len(latents))
        averaged.append(rule.smoothed(scores.double().numpy()).max())
    found = every.judge(clips, texts)
    assert [v.score for v in found] == pytest.approx(averaged, abs=1e-6)
    assert [v.success for v in found] == [True, False]
    alone = [Clip(clip.frames[:1]) for clip in clips]
    last = ClassifierJudge(tiny_model)
    assert [v.score for v in every.judge(alone, texts)] == [
        v.score for v in last.judge(alone, texts)
    ]
    named = make_judge(
        judge_name("classifier", every_frame=True), JudgeContext(world_model=lambda: tiny_model)
    )
    assert isinstance(named, ClassifierJudge) and named.frames == 0


def test_judges_that_need_something_say_what():
    with pytest.raises(JudgeError, match="name one: 'classifier\\?checkpoint=FOLDER'"):
        make_judge("classifier")
    with pytest.raises(JudgeError, match="a dream has no state"):
        make_judge("oracle")


def test_the_classifier_judge_loads_the_checkpoint_it_names(tiny_checkpoint, tiny_model):
    named = make_judge(judge_name("classifier", checkpoint=tiny_checkpoint))
    in_use = ClassifierJudge(tiny_model)
    clip = noise_clip(5)
    assert named.judge([clip], [PUSH])[0].score == in_use.judge([clip], [PUSH])[0].score


def test_the_oracle_reads_the_last_state_under_the_instruction():
    objects = ("red moon", "green star")
    near, far = [0.3, 0.3, 0.0, 0.0, 0.0, 0.05, 0.0, 0.0], [0.3, 0.3, 0, 0, 0, 0.2, 0, 0]
    frames = np.zeros((2, 4, 4, 3), np.uint8)
    clips = [Clip(frames, np.array([far, near])), Clip(frames, np.array([near, far]))]
    predicate = success_predicate("LangTable-v0", objects)
    judge = make_judge("oracle", JudgeContext(predicate=predicate))
    assert isinstance(judge, OracleJudge)
    assert [v.score for v in judge.judge(clips, [PUSH, PUSH])] == [1.0, 0.0]
    apart = "separate the red moon from the green star"
    assert [v.success for v in judge.judge(clips, [apart, apart])] == [False, True]
    (silent,) = judge.judge([Clip(frames)], [PUSH])
    assert silent.error == "the clip has no simulator states"
    with pytest.raises(ValueError, match="is not on the table"):
        judge.judge(clips[:1], [REACH])
    with pytest.raises(ValueError, match="'Pendulum-v1' has no success predicate"):
        success_predicate("Pendulum-v1", ())


def test_the_oracle_agrees_with_what_simulators_recorded():
    from wm_gym.envs.sims.bridge.env import BridgeSimEnv
    from wm_gym.envs.sims.langtable.env import LangTableEnv

    for make in (LangTableEnv, BridgeSimEnv):
        env = make(obs="state", task="any")
        predicate = success_predicate(f"{env.name}-v0", env.objects)
        for seed in range(3):
            _, info = env.reset(seed=seed)
            assert predicate(env.privileged_state(), info["instruction"]) == info["is_success"]


def test_the_semantic_judge_asks_what_ends_the_task_about_the_last_frame(tmp_path):
    model = tiny_semantic_model(tasks={"push": "push the {first} to the {second}"})
    save_semantic_model(tmp_path / "swm", model.spec, model.network, model.tokenizer)
    judge = make_judge(judge_name("semantic", checkpoint=str(tmp_path / "swm")))
    assert isinstance(judge, SemanticJudge)
    clips = [noise_clip(seed, 24) for seed in range(2)]
    texts = [PUSH, "push the green star to the blue cube"]
    verdicts = judge.judge(clips, texts)
    for clip, objects, verdict in zip(
        clips, [("red moon", "green star"), ("green star", "blue cube")], verdicts, strict=True
    ):
        done = langtable_task("push", objects).subgoals[-1].done
        view = model.look(torch.from_numpy(clip.frames[-1:]))
        likely = present_probabilities(view, [done])[0]
        assert verdict.score == pytest.approx(float(likely.min()), abs=1e-5)
        assert all(answer.question in verdict.rationale for answer in done)
    bound = verdicts[0].score
    assert SemanticJudge(model, 0.99 * bound).judge(clips[:1], texts[:1])[0].success
    assert not SemanticJudge(model, 1.01 * bound).judge(clips[:1], texts[:1])[0].success


def test_the_semantic_model_that_ships_for_a_simulator_is_embedded():
    name = "semantic?checkpoint=embedded"
    judge = make_judge(name, JudgeContext(simulator="LangTable-v0"))
    assert isinstance(judge, SemanticJudge) and judge.model.spec.name == "langtable-swm"
    assert judge.threshold == judge.model.spec.answer_threshold
    (verdict,) = judge.judge([noise_clip(0, 24)], [PUSH])
    assert 0 <= verdict.score <= 1 and verdict.model == "langtable-swm"
    with pytest.raises(JudgeError, match=r"no semantic world model of BridgeSim-v0 ships, only of"):
        make_judge(name, JudgeContext(simulator="BridgeSim-v0"))
    with pytest.raises(JudgeError, match="needs a world model and none is in use"):
        make_judge(name)


def test_a_world_model_in_use_says_which_simulator_its_episodes_are_of(tiny_model):
    context = JudgeContext(world_model=lambda: tiny_model)
    assert context.need_simulator("semantic") == tiny_model.spec.twin
    assert JudgeContext(simulator="Cube-v0").need_simulator("semantic") == "Cube-v0"


RED_PINK_BLUE = Clip(plain_clip_frames((0, 0, 0), (204, 153, 51)))  # 0.8, 0.6, 0.2


@pytest.mark.parametrize(
    ("channels", "rule", "score", "success"),
    [
        ((0, 1), "all", 0.6, True),
        ((0, 1, 2), "all", 0.2, False),
        ((0, 1, 2), "majority", 0.6, True),
        ((0, 2), "majority", 0.5, False),
        ((0, 2), "mean", 0.5, True),
        ((1, 2), "mean", 0.4, False),
    ],
)
def test_consensus_combines_by_its_rule(channels, rule, score, success):
    judge = ConsensusJudge([ColourJudge(channel) for channel in channels], rule)
    (verdict,) = judge.judge([RED_PINK_BLUE], ["make it red"])
    assert verdict.score == pytest.approx(score)
    assert verdict.success is success
    assert [m.judge for m in verdict.members] == [f"colour{c}" for c in channels]


def test_a_consensus_has_no_verdict_where_a_member_has_none():
    judge = ConsensusJudge([ColourJudge(0), ColourJudge(1, silent_about="hard")], "majority")
    easy, hard = judge.judge([RED_PINK_BLUE] * 2, ["easy", "hard"])
    assert easy.error is None and easy.success
    assert hard.error == "colour1 : no opinion" and math.isnan(hard.score)


def test_a_consensus_looks_at_what_all_its_members_look_at():
    assert ConsensusJudge([ColourJudge(0, 1), ColourJudge(1, 1)]).frames == 1
    assert ConsensusJudge([ColourJudge(0, 1), ColourJudge(1, 8)]).frames == 0


def test_the_papers_pair_needs_both(monkeypatch):
    monkeypatch.setitem(JUDGES, "colour", COLOUR_ENTRY)
    name = judge_name("paper", internvl="colour?channel=0", qwen="colour?channel=2")
    (verdict,) = make_judge(name).judge([RED_PINK_BLUE], ["make it red"])
    assert (verdict.judge, verdict.success) == ("paper", False)
    assert [m.success for m in verdict.members] == [True, False]
    with pytest.raises(ValueError, match="'vibes' does not exist"):
        read_judge_name("paper?qwen=vibes")
    assert "InternVL3_5-14B" in PaperJudgeConfig().internvl and "Qwen3.6" in PaperJudgeConfig().qwen
