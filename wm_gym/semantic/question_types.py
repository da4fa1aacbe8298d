"""The question types: ten of LangTable, and three for real robot frames that no simulator answers.

Types and example wordings follow Table 14 of arXiv:2510.19818; the wordings of its Table 5, which
state the tasks, are among the trained phrasings. Directions are those of the picture: right is +x,
up is +y. Limits that a task of the simulator knows, too, are the same here.
"""

from __future__ import annotations

from wm_gym.semantic.questions import Limit, QuestionSet, QuestionType

LANGTABLE_COLOURS = ("red", "green", "blue", "yellow", "purple")
LANGTABLE_SHAPES = ("cube", "moon", "star", "pentagon")

RELATIONS = {
    "above": "above",
    "below": "below",
    "left": "to the left of",
    "right": "to the right of",
}
MOVES = {"up": "up", "down": "down", "left": "left", "right": "right"}
PLACES = {
    "center": "in the center",
    "left": "on the left side",
    "right": "on the right side",
    "top": "on the top side",
    "bottom": "on the bottom side",
    "top left": "in the top left corner",
    "top right": "in the top right corner",
    "bottom left": "in the bottom left corner",
    "bottom right": "in the bottom right corner",
}

# Gap between the surfaces. Bodies that push each other stay about 1 mm apart in the simulator; the
# peg's limit is that of the reach task.
PEG_CONTACT = Limit(0.002, 0.001)
BLOCK_CONTACT = Limit(0.003, 0.0015)
DIRECTION = Limit(45.0, 8.0, "deg")  # angle to the named direction
MOVED = Limit(0.005, 0.003)  # way of a centre
CLOSER = Limit(0.005, 0.003)  # what a distance of centres has lost
CENTRE = Limit(0.06, 0.01)  # half width of the centre square of the board

LANGTABLE_QUESTIONS = QuestionSet(
    (
        QuestionType(
            "block_touching",
            2,
            (
                "Is the {first} touching the {second}?",
                "Are the {first} and the {second} touching each other?",
                "Are the {first} and {second} blocks in contact?",
                "Is there contact between the {first} and the {second}?",
                "Does the {first} touch the {second}?",
                "Is the {first} in physical contact with the {second}?",
                "Are the {first} and the {second} directly touching?",
                "Do the {first} and {second} blocks meet?",
            ),
            (
                "Has the {first} come in contact with the {second}?",
                "Can the {first} be seen touching the {second}?",
            ),
            limits={"gap": BLOCK_CONTACT},
        ),
        QuestionType(
            "peg_to_block",
            1,
            (
                "Is the robotic peg touching the {first}?",
                "Is the {first} next to the peg?",
                "Is the peg in contact with the {first}?",
                "Does the robotic peg touch the {first}?",
                "Is there contact between the peg and the {first}?",
                "Is the {first} touched by the peg?",
                "Are the peg and the {first} touching?",
                "Is the {first} block in contact with the peg?",
            ),
            (
                "Has the peg come in contact with the {first}?",
                "Can the peg be seen touching the {first}?",
            ),
            limits={"gap": PEG_CONTACT},
        ),
        QuestionType(
            "block_board_position",
            1,
            (
                "Is the {first} {value} of the board?",
                "Is the {first} block {value} of the board?",
                "Is the {first} located {value} of the table?",
                "Does the {first} lie {value} of the board?",
                "Can the {first} be found {value} of the board?",
                "Is the position of the {first} {value} of the board?",
                "Is the {first} placed {value} of the table?",
                "Does the {first} block rest {value} of the board?",
            ),
            (
                "Can the {first} be seen {value} of the board?",
                "Is the {first} to be found {value} of the table?",
            ),
            PLACES,
            {"centre": CENTRE},
        ),
        QuestionType(
            "peg_block_direction",
            1,
            (
                "Is the peg {value} the {first}?",
                "Is the robotic peg {value} the {first} block?",
                "Is the peg located {value} the {first}?",
                "Does the peg lie {value} the {first}?",
                "Is the robotic peg positioned {value} the {first}?",
                "Can the peg be found {value} the {first}?",
                "Is the peg placed {value} the {first} block?",
                "Seen from the {first}, is {value} it where the peg is?",
            ),
            (
                "Can the peg be seen {value} the {first}?",
                "Is the robotic peg to be found {value} the {first}?",
            ),
            RELATIONS,
            {"angle": DIRECTION},
        ),
        QuestionType(
            "block_block_direction",
            2,
            (
                "Is the {first} {value} the {second}?",
                "Is the {first} block {value} the {second} block?",
                "Is the {first} located {value} the {second}?",
                "Does the {first} lie {value} the {second}?",
                "Is the {first} positioned {value} the {second}?",
                "Can the {first} be found {value} the {second}?",
                "Is the {first} placed {value} the {second} block?",
                "Seen from the {second}, is {value} it where the {first} is?",
            ),
            (
                "Can the {first} be seen {value} the {second}?",
                "Is the {first} to be found {value} the {second}?",
            ),
            RELATIONS,
            {"angle": DIRECTION},
        ),
        QuestionType(
            "block_move_direction",
            1,
            (
                "Did the {first} move {value}?",
                "Did the {first} block move {value}?",
                "Has the {first} moved {value}?",
                "Has the {first} block been pushed {value}?",
                "Was the {first} moved {value}?",
                "Was the {first} pushed {value}?",
                "Did the {first} go {value}?",
                "Is the {first} farther {value} than before?",
            ),
            (
                "Has the position of the {first} moved {value}?",
                "Can the {first} be found farther {value} than before?",
            ),
            MOVES,
            {"way": MOVED, "angle": DIRECTION},
            compares=True,
        ),
        QuestionType(
            "block_moved",
            1,
            (
                "Did the {first} move?",
                "Did the {first} block move?",
                "Has the {first} moved?",
                "Has the {first} block been pushed?",
                "Was the {first} moved?",
                "Was the {first} block pushed?",
                "Did the position of the {first} change?",
                "Is the {first} at another position than before?",
            ),
            (
                "Has the {first} been moved to another position?",
                "Can the {first} be found at another position than before?",
            ),
            limits={"way": MOVED},
            compares=True,
        ),
        QuestionType(
            "peg_move_direction",
            0,
            (
                "Did the robotic peg move {value}?",
                "Did the peg move {value}?",
                "Has the peg moved {value}?",
                "Has the robotic peg moved {value}?",
                "Was the peg moved {value}?",
                "Did the peg go {value}?",
                "Did the robotic peg go {value}?",
                "Is the peg farther {value} than before?",
            ),
            (
                "Has the position of the peg moved {value}?",
                "Can the peg be found farther {value} than before?",
            ),
            MOVES,
            {"way": MOVED, "angle": DIRECTION},
            compares=True,
        ),
        QuestionType(
            "block_block_closer",
            2,
            (
                "Are the {first} and the {second} closer together?",
                "Are the {first} and {second} blocks closer to each other?",
                "Is the {first} closer to the {second}?",
                "Did the {first} get closer to the {second}?",
                "Has the {first} moved closer to the {second}?",
                "Is the {first} block nearer to the {second} than before?",
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
        QuestionType(
            "peg_block_closer",
            1,
            (
                "Is the robotic peg closer to the {first}?",
                "Is the peg closer to the {first} block?",
                "Did the peg get closer to the {first}?",
                "Has the peg moved closer to the {first}?",
                "Are the peg and the {first} closer together?",
                "Is the peg nearer to the {first} than before?",
                "Did the robotic peg come closer to the {first}?",
                "Has the distance between the peg and the {first} become smaller?",
            ),
            (
                "Did the peg come nearer to the {first}?",
                "Is the distance between the peg and the {first} smaller than before?",
            ),
            limits={"approach": CLOSER},
            compares=True,
        ),
    ),
    noun=rf"\w+ (?:{'|'.join(LANGTABLE_SHAPES)})",
)
"""The ten types of LangTable, with predicates in `wm_gym.envs.sims.langtable.questions`."""

ROBOT_QUESTIONS = QuestionSet(
    (
        QuestionType(
            "holding",
            1,
            (
                "Is the robot holding the {first}?",
                "Is the gripper holding the {first}?",
                "Does the robot hold the {first}?",
                "Is the {first} in the gripper?",
                "Has the robot grasped the {first}?",
                "Is the {first} grasped by the robot?",
                "Is the {first} held by the gripper?",
                "Are the robot's fingers closed around the {first}?",
            ),
            (
                "Did the robot get hold of the {first}?",
                "Does the gripper have the {first}?",
            ),
            predicate=False,
        ),
        QuestionType(
            "object_present",
            1,
            (
                "Is there a {first} in the image?",
                "Is a {first} visible?",
                "Can a {first} be seen?",
                "Does the image show a {first}?",
                "Is a {first} present in the scene?",
                "Is there a {first} in view?",
                "Does the scene contain a {first}?",
                "Is a {first} in front of the robot?",
            ),
            (
                "Do you see a {first} anywhere?",
                "Is a {first} somewhere in the picture?",
            ),
            predicate=False,
        ),
        QuestionType(
            "object_relation",
            2,
            (
                "Is the {first} {value} the {second}?",
                "Is the {first} located {value} the {second}?",
                "Does the {first} lie {value} the {second}?",
                "Is the {first} positioned {value} the {second}?",
                "Can the {first} be found {value} the {second}?",
                "Is the {first} placed {value} the {second}?",
                "Is {value} the {second} where the {first} is?",
                "Does the {first} stand {value} the {second}?",
            ),
            (
                "Did the {first} end up {value} the {second}?",
                "Is the {first} sitting {value} the {second}?",
            ),
            {
                "on": "on top of",
                "in": "inside",
                "under": "under",
                "next to": "next to",
                "left": "to the left of",
                "right": "to the right of",
            },
            predicate=False,
        ),
    ),
    noun=r"\w+(?: \w+)?",
)
"""Types for frames of real robots, to be answered by a VLM; they have no predicate."""
