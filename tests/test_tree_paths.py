"""Paths of leaves: how keys, indices and attributes are spelled, and maps over them."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest

from deeplearn.tree_paths import map_arrays, map_paths, path_name


class Moments(NamedTuple):
    mean: object
    variance: object


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class State:
    params: object


@pytest.mark.parametrize(
    ("tree", "paths"),
    [
        ({"params": {"Dense_0": {"bias": 0, "kernel": 1}}}, ["bias", "kernel"]),
        ({"params": {"Dense_0": [0, 1]}}, ["0", "1"]),
        ({"params": {"Dense_0": Moments(0, 1)}}, ["mean", "variance"]),
        (State({"Dense_0": (0, 1)}), ["0", "1"]),
    ],
    ids=["dict", "list", "NamedTuple", "dataclass"],
)
def test_a_path_is_its_keys_joined_by_slashes(tree, paths):
    found = [path_name(path) for path, _ in jax.tree.leaves_with_path(tree)]
    assert found == [f"params/Dense_0/{last}" for last in paths]


def test_the_path_of_a_tree_that_is_one_leaf_is_empty():
    assert map_paths(lambda path: path, 1) == ""


def test_maps_keep_the_tree_and_hand_on_the_path_and_the_leaf():
    tree = {"layers": [jnp.ones(2), jnp.ones((3, 4))], "moments": Moments(jnp.ones(1), None)}
    assert map_paths(str.upper, tree) == {
        "layers": ["LAYERS/0", "LAYERS/1"],
        "moments": Moments("MOMENTS/MEAN", None),
    }
    assert map_arrays(lambda path, array: (path, array.shape), tree) == {
        "layers": [("layers/0", (2,)), ("layers/1", (3, 4))],
        "moments": Moments(("moments/mean", (1,)), None),
    }
