"""The question types of Cube: OGBench's six.

Types and example wordings follow Table 14 of arXiv:2510.19818; the wordings of its Table 5, which
state the tasks, are among the trained phrasings. Untrained phrasings are made of trained words.
"""

from __future__ import annotations

from wm_gym.semantic.question_types import BLOCK_CONTACT, CLOSER
from wm_gym.semantic.questions import Limit, QuestionSet, QuestionType

CUBE_COLOURS = ("red", "blue", "green", "yellow")

# Gap between a pad and the cube; the reach task's limit, too.
PAD_CONTACT = Limit(0.002, 0.001)
# Largest part, along the cube's axes, of the way from its centre to the point between the pads: a
# pad on either side of a cube touches it, but two pads that press on its top touch it as well.
GRASP_OFFSET = Limit(0.024, 0.003)
# A cube's side is 40 mm: lying flat on another, its centre is that much higher.
RISE = Limit(0.03, 0.005)
ASIDE = Limit(0.025, 0.004)  # horizontal distance of the centres

CUBE_QUESTIONS = QuestionSet(
    (
        QuestionType(
            "cube_grasped",
            1,
            (
                "Is the robot grasping the {first}?",
                "Is the {first} grasped by the robot?",
                "Is the {first} grasped?",
                "Is the gripper grasping the {first}?",
                "Does the robot hold the {first}?",
                "Is the {first} held by the gripper?",
                "Is the {first} in the grasp of the gripper?",
                "Has the robot got hold of the {first}?",
            ),
            (
                "Does the robot gripper hold the {first}?",
                "Has the gripper grasped the {first}?",
            ),
            limits={"gap": PAD_CONTACT, "offset": GRASP_OFFSET},
        ),
        QuestionType(
            "gripper_touching_block",
            1,
            (
                "Is the robotic gripper touching the {first}?",
                "Is the {first} touching the robot gripper?",
                "Is the gripper in contact with the {first}?",
                "Does the gripper touch the {first}?",
                "Is there contact between the gripper and the {first}?",
                "Is the {first} touched by the gripper?",
                "Are the gripper and the {first} touching?",
                "Is the {first} in contact with the robotic gripper?",
            ),
            (
                "Does the robot gripper touch the {first}?",
                "Is there contact between the {first} and the robotic gripper?",
            ),
            limits={"gap": PAD_CONTACT},
        ),
        QuestionType(
            "block_touching_block",
            2,
            (
                "Is the {first} touching the {second}?",
                "Are the {first} and the {second} touching each other?",
                "Are the {first} and the {second} in contact?",
                "Is there contact between the {first} and the {second}?",
                "Does the {first} touch the {second}?",
                "Is the {first} in contact with the {second}?",
                "Are the {first} and the {second} directly touching?",
                "Is the {first} touched by the {second}?",
            ),
            (
                "Does the {first} directly touch the {second}?",
                "Is the {first} directly in contact with the {second}?",
            ),
            limits={"gap": BLOCK_CONTACT},
        ),
        QuestionType(
            "block_on_top_of_block",
            2,
            (
                "Is the {first} on top of the {second}?",
                "Is the {first} stacked on top of the {second}?",
                "Is the {first} stacked on the {second}?",
                "Does the {first} stand on the {second}?",
                "Does the {first} lie on top of the {second}?",
                "Is the {second} under the {first}?",
                "Has the {first} been put on the {second}?",
                "Does the {first} rest on top of the {second}?",
            ),
            (
                "Has the {first} been stacked on the {second}?",
                "Does the {first} stand on top of the {second}?",
            ),
            limits={"gap": BLOCK_CONTACT, "rise": RISE, "aside": ASIDE},
        ),
        QuestionType(
            "gripper_closer_to_block",
            1,
            (
                "Is the robotic gripper closer to the {first}?",
                "Is the gripper closer to the {first}?",
                "Did the gripper get closer to the {first}?",
                "Has the gripper moved closer to the {first}?",
                "Are the gripper and the {first} closer together?",
                "Is the gripper nearer to the {first} than before?",
                "Did the robot gripper come closer to the {first}?",
                "Has the distance between the gripper and the {first} become smaller?",
            ),
            (
                "Did the gripper come nearer to the {first}?",
                "Is the distance between the gripper and the {first} smaller than before?",
            ),
            limits={"approach": CLOSER},
            compares=True,
        ),
        QuestionType(
            "block_closer_to_block",
            2,
            (
                "Is the {first} closer to the {second}?",
                "Are the {first} and the {second} closer together?",
                "Are the {first} and the {second} closer to each other?",
                "Did the {first} get closer to the {second}?",
                "Has the {first} moved closer to the {second}?",
                "Is the {first} nearer to the {second} than before?",
                "Did the {first} and the {second} come closer together?",
                "Has the distance between the {first} and the {second} become smaller?",
            ),
            (
                "Did the {first} come nearer to the {second}?",
                "Is the distance between the {first} and the {second} smaller than before?",
            ),
            limits={"approach": CLOSER},
            compares=True,
        ),
    ),
    noun=r"\w+ cube",
)
"""The six types of OGBench, with predicates in `wm_gym.envs.sims.cube.questions`."""
