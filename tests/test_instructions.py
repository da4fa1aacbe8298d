"""Instructions in words: what is understood, and what is refused."""

import pytest

from wm_gym.envs.imagined import WorldModelEnv
from wm_gym.envs.imagined_vector import WorldModelVectorEnv
from wm_gym.instructions import Goal, InstructionError, InstructionSet

LANGTABLE = InstructionSet(
    {"reach": "reach the {first}", "push": "push the {first} to the {second}"},
    ("red moon", "blue cube"),
)


def test_a_goal_survives_words_and_back():
    for goal in (Goal("reach", ("red moon",)), Goal("push", ("red moon", "blue cube"))):
        assert LANGTABLE.parse(LANGTABLE.render(goal)) == goal
    assert LANGTABLE.parse(" Push the  RED moon to the blue cube. ").objects == (
        "red moon",
        "blue cube",
    )


def test_the_same_object_twice_is_refused():
    with pytest.raises(InstructionError, match="names the red moon twice; expected different"):
        LANGTABLE.parse("push the red moon to the red moon")


def test_an_environment_refuses_the_same_object_twice_and_goes_on(tiny_model):
    twice = "separate the red moon from the red moon"
    env = WorldModelEnv(model=tiny_model, reward="none")
    _, info = env.reset(seed=0)
    with pytest.raises(InstructionError, match="names the red moon twice"):
        env.reset(options={"instruction": twice})
    assert env.instruction == info["instruction"]
    envs = WorldModelVectorEnv(2, model=tiny_model, reward="none")
    envs.reset(seed=0)
    with pytest.raises(InstructionError, match="names the red moon twice"):
        envs.set_attr("instruction", twice)
