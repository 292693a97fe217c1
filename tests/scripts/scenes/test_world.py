"""Scenes and groups: one fact of difference, relations that can be seen, and draws that depend on their key alone."""

from __future__ import annotations

import numpy as np
import pytest

from scripts.scenes.world import ATTRIBUTES, GRID, Scene, make_group


@pytest.fixture(scope="module")
def groups() -> list[list[Scene]]:
    return [make_group(0, 2, number, 4) for number in range(60)]


def test_members_differ_from_the_base_in_exactly_the_fact_they_name(groups: list[list[Scene]]) -> None:
    for base, *members in groups:
        assert base.difference is None
        for member in members:
            here, there = member.facts(), base.facts()
            assert here.keys() == there.keys()
            differing = [fact for fact in here if here[fact] != there[fact]]
            said = member.difference
            assert said is not None
            assert differing == [(said.thing, said.kind)]
            assert (said.base, said.here) == (there[differing[0]], here[differing[0]])


def test_scenes_of_a_group_are_all_different(groups: list[list[Scene]]) -> None:
    for group in groups:
        facts = [tuple(sorted(scene.facts().items())) for scene in group]
        assert len(set(facts)) == len(group) == 4


def test_every_kind_of_difference_and_number_of_objects_occurs(groups: list[list[Scene]]) -> None:
    kinds = {scene.difference.kind for group in groups for scene in group if scene.difference}
    assert kinds == {*ATTRIBUTES, "relation"}
    assert {len(scene.things) for group in groups for scene in group} == {2, 3, 4, 5}


def test_relations_hold_on_the_board(groups: list[list[Scene]]) -> None:
    forward = {"left": (0, -1), "right": (0, 1), "above": (-1, 0), "below": (1, 0)}
    for scene in (scene for group in groups for scene in group):
        assert len(set(scene.cells)) == len(scene.things)
        places = np.array([divmod(cell, GRID) for cell in scene.cells])
        for relation in scene.relations:
            step = places[relation.subject] - places[relation.reference]
            along = step @ forward[relation.side]
            assert along > 0
            assert along > np.abs(step).sum() - along


def test_colour_and_shape_single_out_each_object(groups: list[list[Scene]]) -> None:
    for scene in (scene for group in groups for scene in group):
        assert len({(thing.colour, thing.shape) for thing in scene.things}) == len(scene.things)


def test_a_group_depends_on_its_key_alone() -> None:
    assert make_group(3, 1, 7, 4) == make_group(3, 1, 7, 4)
    assert make_group(3, 1, 7, 4)[:2] == make_group(3, 1, 7, 2)
    others = [make_group(4, 1, 7, 1), make_group(3, 0, 7, 1), make_group(3, 1, 8, 1)]
    assert all(other != make_group(3, 1, 7, 1) for other in others)
