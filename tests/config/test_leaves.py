from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.errors import ConfigError
from config.leaves import Given, chosen, expand, flatten, is_off, merge, nest

names = st.text("abc", min_size=1, max_size=3)
values = st.integers() | st.lists(names, max_size=2) | st.booleans()
trees = st.dictionaries(
    names, st.recursive(values, lambda inner: st.dictionaries(names, inner, min_size=1), max_leaves=4)
)


@given(trees)
def test_nest_undoes_flatten(tree: dict) -> None:
    assert nest(flatten(tree, "here")) == tree


@given(trees, trees)
def test_every_leaf_of_the_upper_layer_survives_a_merge(below: dict, above: dict) -> None:
    merged = merge(flatten(below, "below"), flatten(above, "above"))
    assert merged.items() >= flatten(above, "above").items()
    assert flatten(nest(merged), "").keys() == merged.keys()


def test_the_last_layer_wins_leaf_by_leaf() -> None:
    below = flatten({"optim": {"a": 1, "b": 2}}, "base.json")
    merged = merge(below, flatten({"optim": {"b": 3}}, "--b"))
    assert merged == {"optim.a": Given(1, "base.json"), "optim.b": Given(3, "--b")}


def test_another_matcher_starts_anew_and_the_same_one_does_not() -> None:
    below = flatten({"matcher": {"hidden_size": 64}, "optim": {"a": 1}}, "x")
    assert "matcher.hidden_size" not in merge(below, flatten({"matcher": {"name": "towers"}}, "y"))
    assert "matcher.hidden_size" in merge(below, flatten({"matcher": {"name": "uniter"}}, "y"))


def test_a_setting_of_one_kind_only_chooses_it_over_the_default_one() -> None:
    below = flatten({"objective": {"name": "hinge", "margin": 0.3}}, "x")
    merged = merge(below, flatten({"objective.IAIS": "singular"}, "--IAIS"))
    assert chosen(merged, "objective") == Given("iais", "--IAIS")
    assert chosen(merge(merged, flatten({"objective.name": "infonce"}, "y")), "objective").value == "infonce"


@pytest.mark.parametrize("value", ["off", "none", "", False, None])
def test_a_setting_that_is_off_chooses_the_default_kind(value: object) -> None:
    assert is_off(value)
    below = flatten({"objective": {"name": "iais", "IAIS": "singular"}}, "x")
    assert chosen(merge(below, {"objective.IAIS": Given(value, "y")}), "objective") == Given("hinge", "y")


@pytest.mark.parametrize("value", ["singular", "False", 0, True])
def test_other_values_are_judged_and_not_taken_for_off(value: object) -> None:
    assert not is_off(value)


def test_going_back_to_the_default_kind_drops_what_chose_another() -> None:
    below = flatten({"objective": {"IAIS": "singular"}}, "x")
    assert chosen(merge(below, flatten({"objective.name": "hinge"}, "y")), "objective") == Given("hinge", "y")


def test_a_section_replaced_by_a_value_is_gone() -> None:
    assert merge(flatten({"data": {"a": 1}}, "x"), flatten({"data": 3}, "y")) == {"data": Given(3, "y")}
    assert merge(flatten({"data": 3}, "x"), flatten({"data": {"a": 1}}, "y")) == {"data.a": Given(1, "y")}


def test_a_value_and_a_section_of_one_name_in_one_layer_are_refused() -> None:
    with pytest.raises(ConfigError, match="data was given as a value too"):
        nest({"data": Given(3, "--set data"), "data.a": Given(1, "--set data.a")})


def test_variables_are_expanded_in_texts_and_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORES", "/s")
    leaves = flatten({"a": "${STORES}/x", "b": ["${STORES}", "$y"], "c": 1}, "f")
    assert nest(expand(leaves)) == {"a": "/s/x", "b": ["/s", "$y"], "c": 1}


def test_an_unset_variable_is_named_with_its_key_and_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STORES", raising=False)
    with pytest.raises(
        ConfigError, match=r"data\.a = '\$\{STORES\}/x' \(f\.json\): the variable STORES is not set"
    ):
        expand(flatten({"data": {"a": "${STORES}/x"}}, "f.json"))
