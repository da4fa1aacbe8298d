"""Cube's predicates on hand-made scenes, both ways; questions about its episodes."""

import numpy as np
import pytest

from tests.semantic.cube_episodes import CUBES, scene, write_cube_episodes
from wm_gym.data.episodes import EpisodeError
from wm_gym.envs.collect_qa import CollectQAConfig, collect_qa
from wm_gym.envs.sims.answers import ANSWERS
from wm_gym.envs.sims.cube import tasks as cube_tasks
from wm_gym.envs.sims.cube.questions import PRESENT_TYPES, slack, slacks
from wm_gym.envs.sims.cube.tasks import CubeGoal, is_success
from wm_gym.semantic.cube_question_types import ASIDE, CUBE_QUESTIONS, PAD_CONTACT, RISE
from wm_gym.semantic.question_sets import QUESTION_SETS
from wm_gym.semantic.question_types import BLOCK_CONTACT
from wm_gym.semantic.questions import Question, QuestionError
from wm_gym.semantic.tasks import TaskError, cube_task, semantic_task
from wm_gym.training.saqa import SAQADataset, draw_wording

R, G = ("red cube",), ("green cube",)
RB, BR = ("red cube", "blue cube"), ("blue cube", "red cube")


def ask(kind, cubes, after, before=None):
    return slack(Question(kind, cubes), scene() if before is None else before, after, CUBES)


def test_questions_and_tasks_agree_about_limits_that_both_state():
    limits = [PAD_CONTACT, RISE, ASIDE, BLOCK_CONTACT]
    assert [limit.threshold for limit in limits] == [
        cube_tasks.TOUCH_GAP_M,
        cube_tasks.STACK_RISE_M,
        cube_tasks.STACK_ASIDE_M,
        cube_tasks.STACK_GAP_M,
    ]


HELD = {"hand": (0.4, 0.0, 0.025), "red_pads": (0.0, 0.0005)}
ON_BLUE = {"red": (0.5, 0.11, 0.06), "red_blue": 0.0}

# type, cubes, state before, state after, expected yes; none of these is ambiguous
SCENES = [
    ("cube_grasped", R, scene(), scene(**HELD), True),
    ("cube_grasped", G, scene(), scene(**HELD), False),
    ("cube_grasped", R, scene(**HELD), scene(), False),  # about the future, not the present
    ("cube_grasped", R, scene(), scene(**{**HELD, "red_pads": (0.0, 0.0035)}), False),
    ("cube_grasped", R, scene(), scene(**{**HELD, "hand": (0.4, 0.0, 0.05)}), False),  # on its top
    # 27.5 mm along a side are outside, 27.5 mm along the diagonal are not
    ("cube_grasped", R, scene(), scene(**{**HELD, "hand": (0.4275, 0.0, 0.02)}), False),
    (
        "cube_grasped", R, scene(),
        scene(**{**HELD, "hand": (0.4275, 0.0, 0.02), "red_turn_rad": np.pi / 4}), True,
    ),
    ("gripper_touching_block", R, scene(), scene(red_pads=(0.0005, 0.1)), True),
    ("gripper_touching_block", R, scene(), scene(red_pads=(0.0035, 0.1)), False),
    ("gripper_touching_block", G, scene(), scene(red_pads=(0.0, 0.0)), False),
    ("block_touching_block", RB, scene(), scene(red_blue=0.001), True),
    ("block_touching_block", BR, scene(), scene(red_blue=0.001), True),
    ("block_touching_block", RB, scene(red_blue=0.0), scene(red_blue=0.005), False),
    ("block_touching_block", ("red cube", "green cube"), scene(), scene(red_blue=0.0), False),
    ("block_on_top_of_block", RB, scene(), scene(**ON_BLUE), True),
    ("block_on_top_of_block", BR, scene(), scene(**ON_BLUE), False),  # it is below
    ("block_on_top_of_block", RB, scene(), scene(**{**ON_BLUE, "red_blue": 0.006}), False),
    ("block_on_top_of_block", RB, scene(), scene(red=(0.541, 0.1, 0.02), red_blue=0.0), False),
    ("block_on_top_of_block", RB, scene(), scene(red=(0.53, 0.1, 0.06), red_blue=0.0), False),
    ("gripper_closer_to_block", R, scene(), scene(hand=(0.4, 0.0, 0.28)), True),
    ("gripper_closer_to_block", R, scene(), scene(hand=(0.4, 0.0, 0.32)), False),
    ("gripper_closer_to_block", R, scene(), scene(), False),
    # nearer by moving the cube, not the hand
    ("gripper_closer_to_block", R, scene(), scene(red=(0.4, 0.0, 0.1)), True),
    ("block_closer_to_block", RB, scene(), scene(red=(0.45, 0.05, 0.02)), True),
    ("block_closer_to_block", RB, scene(), scene(red=(0.35, -0.05, 0.02)), False),
    ("block_closer_to_block", BR, scene(), scene(blue=(0.45, 0.05, 0.02)), True),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "cubes", "before", "after", "yes"), SCENES)
def test_hand_made_scenes(kind, cubes, before, after, yes):
    found = ask(kind, cubes, after, before)
    assert (found > 0) == yes and abs(found) >= 1


def test_every_type_is_tested_both_ways():
    assert {(k, y) for k, *_, y in SCENES} == {
        (kind.name, yes) for kind in CUBE_QUESTIONS for yes in (True, False)
    }


def test_nothing_has_come_closer_at_horizon_zero():
    state = scene(red=(0.45, 0.05, 0.02), red_blue=0.0)[None]
    compares = {kind.name for kind in CUBE_QUESTIONS if kind.compares}
    assert compares == {"gripper_closer_to_block", "block_closer_to_block"}
    assert all((slacks(name, state, state, CUBES) <= -1).all() for name in compares)


def test_near_a_threshold_an_answer_is_ambiguous():
    limit = PAD_CONTACT
    for side in (-0.5, 0.5):
        gap = limit.threshold + side * limit.margin
        found = ask("gripper_touching_block", R, scene(red_pads=(gap, 0.1)))
        assert found == pytest.approx(-side)


def test_all_questions_of_a_type_are_answered_in_the_order_of_the_instances():
    rng = np.random.default_rng(0)
    places = rng.uniform(0.3, 0.5, (2, 4, 3))
    states = [scene(hand=p[0], red=p[1], blue=p[2], green=p[3], red_blue=0.001) for p in places]
    for kind in CUBE_QUESTIONS:
        every = CUBE_QUESTIONS.instances(kind.name, CUBES)
        found = slacks(kind.name, states[0][None], states[1][None], CUBES)
        assert found.shape == (1, len(every)) and np.isfinite(found).all()
        for number, question in enumerate(every):
            assert found[0, number] == slack(question, *states, CUBES)
    with pytest.raises(QuestionError, match="cannot answer 'peg_to_block'"):
        slacks("peg_to_block", *(s[None] for s in states), CUBES)
    with pytest.raises(QuestionError, match="about yellow cube"):
        slack(Question("cube_grasped", ("yellow cube",)), *states, CUBES)


def test_the_tasks_and_the_questions_agree():
    reach, stack = CubeGoal("reach", "red cube"), CubeGoal("stack", *RB)
    for gap in (0.0, 0.0019, 0.0021):
        state = scene(red_pads=(0.1, gap))
        assert is_success(state, reach, CUBES) == (ask("gripper_touching_block", R, state) > 0)
    for change in ({}, {"red": (0.5, 0.126, 0.06)}, {"red": (0.5, 0.1, 0.029)}, {"red_blue": 0.01}):
        state = scene(**{**ON_BLUE, **change})
        assert is_success(state, stack, CUBES) == (ask("block_on_top_of_block", RB, state) > 0)


def test_every_question_set_has_answers():
    assert set(ANSWERS) == set(QUESTION_SETS)
    for simulator, questions in QUESTION_SETS.items():
        assert set(ANSWERS[simulator].present_types) <= set(questions.types)


def test_the_papers_tasks_ask_trained_questions():
    tasks = [cube_task("reach", R), cube_task("stack", RB)]
    for task in tasks:
        for subgoal in task.subgoals:
            assert sum(answer.weight for answer in subgoal.answers) == pytest.approx(1.0)
            for answer in (*subgoal.answers, *subgoal.done):
                _, phrasing = CUBE_QUESTIONS.parse_phrasing(answer.question)
                assert phrasing < 8 and answer.answer == "yes"
    assert [len(task.subgoals) for task in tasks] == [1, 2]
    assert semantic_task("Cube-v0", "stack", RB) == tasks[1]
    assert semantic_task("LangTable-v0", "reach", ("red moon",)).subgoals != tasks[0].subgoals
    with pytest.raises(TaskError, match="'stack' with two"):
        cube_task("stack", R)
    with pytest.raises(TaskError, match="'BridgeSim-v0' has no tasks"):
        semantic_task("BridgeSim-v0", "reach", R)


def test_questions_about_cube_episodes_are_answered_by_cube(tmp_path):
    write_cube_episodes(tmp_path / "episodes", 4)
    saqa = SAQADataset(collect_qa(CollectQAConfig((tmp_path / "episodes",), tmp_path / "qa")))
    assert saqa.simulator == "Cube-v0" and saqa.objects(0, 0) == CUBES
    rng = np.random.default_rng(0)
    rows = saqa.sampler().draw(40, 4, rng)
    batch = saqa.batch(rows, draw_wording(rows.shape, rng))
    assert batch.actions.shape[2] == 5
    seen = set()
    for r in range(40):
        episode, frame = (int(saqa.records[name][rows[r, 0]]) for name in ("episode", "frame"))
        states, _ = saqa.sources[0].labels(episode)
        for m, (words, horizon) in enumerate(batch.questions[r]):
            question = CUBE_QUESTIONS.parse(words)
            seen.add(question.type)
            expected = slack(question, states[frame], states[frame + horizon], CUBES)
            assert batch.yes[r, m] == (expected > 0)
    assert seen == set(CUBE_QUESTIONS.types)
    present = CollectQAConfig((tmp_path / "episodes",), tmp_path / "present", present_only=True)
    asked = SAQADataset(collect_qa(present))
    assert {asked.kinds[t].name for t in set(asked.records["type"])} == set(PRESENT_TYPES)


def test_a_folder_of_questions_is_about_one_simulator(tmp_path):
    write_cube_episodes(tmp_path / "cube", 1)
    write_cube_episodes(tmp_path / "table", 1, key="blocks")
    write_cube_episodes(tmp_path / "bridge", 1, key="distractors")
    both = (tmp_path / "cube", tmp_path / "table")
    with pytest.raises(EpisodeError, match=r"table holds episodes of LangTable-v0, .*of Cube-v0"):
        collect_qa(CollectQAConfig(both, tmp_path / "qa"))
    with pytest.raises(EpisodeError, match="does not say what lies on the table"):
        collect_qa(CollectQAConfig((tmp_path / "bridge",), tmp_path / "qa"))
