"""The recipe of the success classifier: what it takes from the domain."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from wm_gym.domains import BRIDGE, LANGTABLE, domain_of_tasks
from wm_gym.training.reward import RewardConfig, view_of

CONFIG = RewardConfig(Path("latents"), Path("held-out"), Path("out"))


def test_the_view_is_the_domains_unless_it_is_given():
    assert domain_of_tasks(("push", "reach")) is LANGTABLE
    assert view_of(CONFIG, ("push", "reach")) == LANGTABLE.view_m
    given = (-1.0, 1.0, 1.0, -1.0)
    assert view_of(replace(CONFIG, view=given), ("push",)) == given


def test_a_turned_picture_has_no_view():
    assert domain_of_tasks(("push", "fly")) is None
    assert view_of(CONFIG, ("push", "fly")) is None
    assert domain_of_tasks(tuple(BRIDGE.tasks)) is BRIDGE
    assert view_of(CONFIG, tuple(BRIDGE.tasks)) is None
