"""Instructions by templates: what is rendered is parsed back, and slots may name their fillers."""

import pytest

from wm_gym.domains import DOMAINS
from wm_gym.instructions import Goal, InstructionError, InstructionSet

PLACING = InstructionSet(
    {
        "carrot": "put the {first=carrot} on the {second=plate}",
        "other": "put the {first=spoon|red cup} on the {second}",
    },
    ("carrot", "plate", "spoon", "red cup", "towel"),
)


@pytest.mark.parametrize(
    "goal", [Goal("carrot", ("carrot", "plate")), Goal("other", ("red cup", "towel"))]
)
def test_the_way_through_words(goal):
    assert PLACING.parse(f"  {PLACING.render(goal).upper()}. ") == goal


def test_slots_that_name_their_fillers_tell_equal_sentences_apart():
    assert PLACING.parse("put the carrot on the plate").task == "carrot"
    assert PLACING.parse("put the spoon on the plate").task == "other"
    for text in ("put the carrot on the towel", "put the towel on the plate", "put the spoon"):
        with pytest.raises(InstructionError, match="not understood"):
            PLACING.parse(text)


def test_a_filler_must_be_a_known_object():
    few = InstructionSet({"put": "put the {first=carrot|stone} down"}, ("carrot",))
    assert few.parse("put the carrot down").objects == ("carrot",)
    with pytest.raises(InstructionError):
        few.parse("put the stone down")


@pytest.mark.parametrize("name", list(DOMAINS))
def test_every_slot_of_a_domain_can_be_filled(name):
    domain = DOMAINS[name]
    words = InstructionSet(domain.tasks, domain.objects)
    for task in domain.tasks:
        pairs = [(a, b) for a in domain.objects for b in domain.objects if a != b]
        sentences = {words.render(Goal(task, pair)) for pair in pairs}
        assert any(_understood(words, sentence, task) for sentence in sentences)


def _understood(words, sentence, task):
    try:
        return words.parse(sentence).task == task
    except InstructionError:
        return False


def test_what_is_expected_is_said_in_words():
    templates = {"put": "put the {first=carrot|spoon} on the {second=plate}", "go": "go to {first}"}
    with pytest.raises(InstructionError, match="'put the carrot or spoon on the plate', 'go to <"):
        InstructionSet(templates, ("carrot", "spoon", "plate")).parse("dance")
