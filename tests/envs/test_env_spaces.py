"""Are observations, actions, masks and spaces the same on the way in and on the way out?"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces as gs
from gymnasium.vector.utils import concatenate, create_empty_array
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.envs.checks import Bounds, Rows
from shoal.errors import SpaceError
from shoal.spaces.axes import image
from shoal.spaces.base import ACTION_MASK
from shoal.spaces.gym import GymSpaces
from shoal.spaces.json import from_json, to_json

QUICK = settings(max_examples=60, deadline=None)
ANY_ACTION = gs.Discrete(2)
ANY_OBS = gs.Box(-1, 1, (2,), np.float32)

shapes = st.lists(st.integers(1, 3), max_size=3).map(tuple)
float_boxes = st.builds(
    lambda shape, dtype, low, high: gs.Box(
        np.full(shape, low, dtype), np.full(shape, high, dtype), dtype=dtype
    ),
    shapes,
    st.sampled_from([np.float32, np.float64]),
    st.sampled_from([-np.inf, -2.0, -0.5]),
    st.sampled_from([np.inf, 1.0, 7.25]),
)
int_boxes = st.builds(
    lambda shape, dtype: gs.Box(0, 100, shape, dtype),
    shapes,
    st.sampled_from([np.uint8, np.int16, np.int64]),
)
discretes = st.builds(
    lambda n, start: gs.Discrete(n, start=start), st.integers(1, 9), st.integers(-3, 3)
)
multidiscretes = st.builds(
    lambda shape, n, start: gs.MultiDiscrete(
        np.full(shape or (2,), n), start=np.full(shape or (2,), start)
    ),
    shapes,
    st.integers(1, 5),
    st.integers(-2, 2),
)
multibinaries = shapes.map(lambda shape: gs.MultiBinary(shape if len(shape) > 1 else 3))
leaves = st.one_of(float_boxes, int_boxes, discretes, multidiscretes, multibinaries)
observations = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from("abcxyz"), inner, min_size=1, max_size=3).map(gs.Dict),
        st.lists(inner, min_size=1, max_size=3).map(gs.Tuple),
    ),
    max_leaves=6,
)
actions = st.one_of(float_boxes, discretes, multidiscretes, multibinaries)


def same(left: Any, right: Any) -> None:
    """Of the same structure, and with the same numbers."""
    if isinstance(left, dict):
        assert list(left) == list(right)
        for key in left:
            same(left[key], right[key])
    elif isinstance(left, tuple):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            same(one, other)
    else:
        np.testing.assert_array_equal(left, right)


@QUICK
@given(observations, st.integers(0, 2**31 - 1))
def test_nest_undoes_flatten_for_one_and_for_a_batch(space: gs.Space, seed: int) -> None:
    spaces = GymSpaces(space, ANY_ACTION)
    space.seed(seed)
    samples = [space.sample() for _ in range(3)]
    flats = [spaces.flatten(sample) for sample in samples]
    for sample, flat in zip(samples, flats, strict=True):
        same(sample, spaces.nest(flat))
    batch = concatenate(space, samples, create_empty_array(space, n=3))
    flat = spaces.flatten(batch)
    same(batch, spaces.nest(flat))
    assert list(flat) == [leaf.path for leaf in spaces.leaves]
    for leaf in spaces.leaves:
        assert flat[leaf.path].dtype == leaf.dtype
        np.testing.assert_array_equal(flat[leaf.path], np.stack([f[leaf.path] for f in flats]))
        for limit in leaf.n:
            assert flat[leaf.path].min() >= 0 and flat[leaf.path].max() < limit


@QUICK
@given(actions, st.integers(0, 2**31 - 1))
def test_any_policy_output_becomes_an_action_of_the_space(space: gs.Space, seed: int) -> None:
    spaces, rng = GymSpaces(ANY_OBS, space), np.random.default_rng(seed)
    if spaces.action_kind == "box":
        policy = rng.normal(scale=3, size=(4, spaces.action_dim)).astype(np.float32)
    else:
        policy = rng.integers(0, spaces.action_n, (4, len(spaces.action_n)))
        policy = policy[:, 0] if spaces.action_kind == "discrete" else policy
    batch = spaces.to_env(policy)
    for row, action in zip(policy, batch, strict=True):
        np.testing.assert_array_equal(spaces.to_env(row), action)
        assert np.asarray(action).dtype == space.dtype
        assert space.contains(action)


@QUICK
@given(st.floats(-1e6, 1e6, width=32), st.floats(2**-10, 1e6, width=32))
def test_rescaling_stays_within_the_bounds(low: float, span: float) -> None:
    """Rounding must not carry an action over the edge."""
    box = gs.Box(np.float32([low]), np.float32([low + span]))
    ends = GymSpaces(ANY_OBS, box).to_env(np.float32([[-1], [1]]))
    assert box.contains(ends[0]) and box.contains(ends[1])
    np.testing.assert_allclose(ends, [box.low, box.high], atol=1e-6 * (abs(low) + span))


@QUICK
@given(observations, st.integers(0, 2**31 - 1))
def test_rows_written_one_by_one_are_what_flatten_gives(space: gs.Space, seed: int) -> None:
    """The fast path of later writes as well as the full check of the first."""
    spaces = GymSpaces(space, ANY_ACTION)
    rows = Rows(spaces, 2)
    space.seed(seed)
    for turn in range(3):
        sample = space.sample()
        rows.write(turn % 2, sample, {})
        for path, x in spaces.flatten(sample).items():
            np.testing.assert_array_equal(rows.arrays[path][turn % 2], x)


@QUICK
@given(observations, actions)
def test_json_round_trip(observation: gs.Space, action: gs.Space) -> None:
    spaces = GymSpaces(observation, action)
    told = json.loads(json.dumps(spaces.to_json(), allow_nan=False))
    back = GymSpaces.from_json(told)
    assert back == spaces and back.leaves == spaces.leaves
    assert back.to_json() == told


def test_leaves_of_a_nested_space() -> None:
    space = gs.Dict(
        {
            "camera": gs.Box(0, 255, (4, 5, 3), np.uint8),
            "joints": gs.Dict({"left": gs.Box(-1, 1, (2,), np.float64)}),
            "pair": gs.Tuple((gs.Discrete(3, start=5), gs.MultiDiscrete([[2, 3]]))),
        }
    )
    leaves = GymSpaces(space, ANY_ACTION).leaves
    assert [(leaf.path, leaf.kind, leaf.shape, leaf.dtype.name, leaf.n) for leaf in leaves] == [
        ("camera", "box", (4, 5, 3), "uint8", ()),
        ("joints/left", "box", (2,), "float64", ()),
        ("pair/0", "discrete", (), "int64", (3,)),
        ("pair/1", "multidiscrete", (2,), "int64", (2, 3)),
    ]
    assert [image(leaf) for leaf in leaves] == [True, False, False, False]
    assert [leaf.path for leaf in GymSpaces(ANY_OBS, ANY_ACTION).leaves] == ["obs"]


def test_rescaling_golden() -> None:
    """[-1, 1] to [low, high] where both are finite; others pass, up to a bound they have."""
    box = gs.Box(np.float32([-2, 0, -np.inf, 1]), np.float32([2, 10, np.inf, np.inf]))
    spaces = GymSpaces(ANY_OBS, box)
    policy = np.float32([[-1, -1, -9, 0], [0, 0, 0, 1], [0.5, 0.5, 5, 2], [3, 3, 30, 3]])
    expected = np.float32([[-2, 0, -9, 1], [0, 5, 0, 1], [1, 7.5, 5, 2], [2, 10, 30, 3]])
    np.testing.assert_array_equal(spaces.to_env(policy), expected)
    # A bound that is as large as the dtype allows is none.
    huge = np.finfo(np.float32).max
    free = GymSpaces(ANY_OBS, gs.Box(-huge, huge, (1,), np.float32))
    assert free.to_env(np.float32([3.5])) == 3.5
    # The policy's [-1, 1] is the space itself: nothing but the clip may touch the bits.
    unit = GymSpaces(ANY_OBS, gs.Box(-1, 1, (1,), np.float32))
    assert unit.to_env(np.float32([0.1]))[0] == np.float32(0.1)


def test_discrete_actions_golden() -> None:
    assert GymSpaces(ANY_OBS, gs.Discrete(3, start=-1)).to_env(np.array([0, 2])).tolist() == [-1, 1]
    one = GymSpaces(ANY_OBS, gs.Discrete(3)).to_env(np.array(2))
    assert {one: "usable as a key"}[2]
    grid = GymSpaces(ANY_OBS, gs.MultiDiscrete([[2, 3], [4, 5]], start=[[0, 1], [0, 0]]))
    assert (grid.action_kind, grid.action_n, grid.action_dim) == ("multidiscrete", (2, 3, 4, 5), 4)
    assert grid.to_env(np.array([1, 1, 3, 4])).tolist() == [[1, 2], [3, 4]]
    bits = GymSpaces(ANY_OBS, gs.MultiBinary(3))
    assert (bits.action_kind, bits.action_n) == ("multidiscrete", (2, 2, 2))
    assert bits.to_env(np.array([1, 0, 1])).dtype == np.int8


def masked(mask: gs.Space, action: gs.Space) -> GymSpaces:
    return GymSpaces(gs.Dict({"x": ANY_OBS, ACTION_MASK: mask}), action)


def test_masks_of_every_form_become_one_array() -> None:
    two = gs.MultiDiscrete([2, 3])
    expected = [True, False, True, True, False]
    flat = np.array(expected, np.int8)
    parts = (flat[:2], flat[2:])
    for space, value in [
        (gs.MultiBinary(5), flat),
        (gs.Box(0, 1, (5,), np.float32), flat.astype(np.float32)),
        (gs.Box(0, 1, (1, 5), bool), flat[None] != 0),
        (gs.Tuple((gs.MultiBinary(2), gs.MultiBinary(3))), parts),
    ]:
        spaces = masked(space, two)
        assert spaces.masked and [leaf.path for leaf in spaces.leaves] == ["x"]
        x = np.zeros(2, np.float32)
        out = spaces.flatten({"x": x, ACTION_MASK: value})
        assert out[ACTION_MASK].tolist() == expected and out[ACTION_MASK].dtype == bool
        stack = tuple(np.stack([p, p]) for p in value) if isinstance(value, tuple) else value
        batch = stack if isinstance(value, tuple) else np.stack([value, value])
        out = spaces.flatten({"x": np.stack([x, x]), ACTION_MASK: batch})
        assert out[ACTION_MASK].tolist() == [expected, expected]
        assert spaces.nest(out)[ACTION_MASK] is out[ACTION_MASK]
    told = GymSpaces(ANY_OBS, two, masked=True)
    assert told.flatten_mask(parts).tolist() == told.flatten_mask(flat).tolist() == expected


@pytest.mark.parametrize(
    ("observation", "action", "words"),
    [
        (gs.Text(5), ANY_ACTION, ("Text", "obs", "Box, Discrete")),
        (gs.Dict({"a": gs.Sequence(ANY_OBS)}), ANY_ACTION, ("Sequence", "'a'")),
        (gs.Dict(), ANY_ACTION, ("nothing to observe",)),
        (gs.Tuple(()), ANY_ACTION, ("nothing to observe",)),
        (gs.Box(0, 1, (0,)), ANY_ACTION, ("0 numbers",)),
        (gs.Discrete(2**40), ANY_ACTION, ("choices",)),
        (gs.Dict({"a/b": ANY_OBS, "a": gs.Dict({"b": ANY_OBS})}), ANY_ACTION, ("'a/b'", "rename")),
        (ANY_OBS, gs.Box(0, 5, (2,), np.int32), ("int32", "MultiDiscrete")),
        (ANY_OBS, gs.Dict({"a": ANY_ACTION}), ("Dict", "action")),
        (ANY_OBS, gs.Tuple((ANY_ACTION,)), ("Tuple", "action")),
        (gs.Dict({"action_mask": gs.MultiBinary(2)}), ANY_ACTION, ("nothing to observe",)),
    ],
)
def test_what_is_not_supported_is_named(observation: Any, action: Any, words: tuple) -> None:
    with pytest.raises(SpaceError) as caught:
        GymSpaces(observation, action)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_masks_that_do_not_fit() -> None:
    with pytest.raises(SpaceError, match=r"3 entries.*2 choices"):
        masked(gs.MultiBinary(3), gs.Discrete(2))
    with pytest.raises(SpaceError, match="action mask"):
        masked(gs.MultiBinary(2), gs.Box(-1, 1, (2,)))
    with pytest.raises(SpaceError, match="not a mask"):
        masked(gs.Discrete(2), gs.Discrete(2))


@pytest.mark.parametrize(
    "obs", [np.zeros(3), np.zeros((2, 3)), "text", None, {"a": 1}, [[1, 2, 3]]]
)
def test_flatten_refuses_what_does_not_fit(obs: Any) -> None:
    with pytest.raises(SpaceError, match="expected float32"):
        GymSpaces(ANY_OBS, ANY_ACTION).flatten(obs)
    with pytest.raises(SpaceError, match="no entry 'a'"):
        GymSpaces(gs.Dict({"a": ANY_OBS, "b": ANY_OBS}), ANY_ACTION).flatten({"b": obs})


VALID = GymSpaces(
    gs.Dict({"a": gs.Tuple((gs.Box(-1, np.inf, (2, 2)), gs.Discrete(3))), "b": gs.MultiBinary(3)}),
    gs.MultiDiscrete([2, 3]),
).to_json()
BOX = to_json(gs.Box(0, 1, (2,)))


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "box",
        {},
        {"kind": ["box"]},
        {"kind": "graph"},
        {**BOX, "extra": 1},
        {**BOX, "dtype": "object"},
        {**BOX, "dtype": "O"},
        {**BOX, "dtype": "datetime64"},
        {**BOX, "shape": [2**40]},
        {**BOX, "shape": [-2]},
        {**BOX, "shape": [True, 2]},
        {**BOX, "shape": [2.0]},
        {**BOX, "shape": [1] * 99},
        {**BOX, "low": [0, 0, 0]},
        {**BOX, "low": "nan"},
        {**BOX, "low": float("nan")},
        {**BOX, "low": 2},
        {**BOX, "low": None},
        {**BOX, "high": 10**400},
        {**BOX, "high": 1e300},
        {**BOX, "dtype": "uint8", "low": -1},
        {**BOX, "dtype": "uint8", "low": 0, "high": 10**30},
        {"kind": "discrete", "n": 0, "start": 0, "dtype": "int64"},
        {"kind": "discrete", "n": True, "start": 0, "dtype": "int64"},
        {"kind": "discrete", "n": [2], "start": 0, "dtype": "int64"},
        {"kind": "discrete", "n": 10**30, "start": 0, "dtype": "int64"},
        {"kind": "discrete", "n": 3, "start": 0, "dtype": "float32"},
        {"kind": "multidiscrete", "nvec": [[1], [1, 2]], "start": [0], "dtype": "int64"},
        {"kind": "multidiscrete", "nvec": [-1], "start": [0], "dtype": "int64"},
        {"kind": "multibinary", "shape": [0]},
        {"kind": "dict", "spaces": {"a": BOX}},
        {"kind": "dict", "spaces": [["a", BOX], ["a", BOX]]},
        {"kind": "dict", "spaces": [[1, BOX]]},
        {"kind": "tuple", "spaces": []},
        {"kind": "tuple", "spaces": [{**BOX, "shape": [4096, 4096]}] * 1000},
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_hostile_json_is_refused(value: Any) -> None:
    with pytest.raises(SpaceError):
        from_json(value)


def test_deep_json_is_refused() -> None:
    value: Any = BOX
    for _ in range(200):
        value = {"kind": "tuple", "spaces": [value]}
    with pytest.raises(SpaceError, match="nested"):
        from_json(value)


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["kind", "shape", "n", "spaces"]), inner, max_size=3)
    ),
    max_leaves=4,
)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_space_is_read_or_refused(data: st.DataObject) -> None:
    """One value anywhere in a valid tree is replaced by junk."""
    tree = json.loads(json.dumps(VALID))
    at: Any = tree
    while True:
        key = data.draw(st.sampled_from(list(at) if isinstance(at, dict) else range(len(at))))
        if not isinstance(at[key], dict | list) or not at[key] or data.draw(st.booleans()):
            break
        at = at[key]
    at[key] = data.draw(junk)
    try:
        spaces = GymSpaces.from_json(tree)
    except SpaceError:
        return
    assert GymSpaces.from_json(spaces.to_json()) == spaces


# ---------------------------------------------------------------------------- bounds


@pytest.mark.parametrize(
    ("space", "rows", "outside"),
    [
        (gs.Box(-1.0, 1.0, (2,)), [[0, 1], [1.000001, 0], [0, 1.1], [-2, 2]], 2),
        (gs.Box(np.float32([0, -np.inf]), np.float32([np.inf, 1])), [[-1, 0], [9, -9], [9, 2]], 2),
        (gs.Box(0.0, np.float32(3.4028235e38), (1,)), [[1e38], [-1]], 1),
        (gs.Box(-np.inf, np.inf, (1,)), [[1e38], [-1e38]], 0),
        (gs.Box(0, 3, (1,), np.uint8), [[3], [4]], 1),
        (gs.Box(0, 255, (1,), np.uint8), [[255], [0]], 0),
        (gs.Box(0, 2**63 - 1, (1,), np.int64), [[2**63 - 1], [-1]], 1),
    ],
)
def test_observations_out_of_bounds_are_counted(space: Any, rows: Any, outside: int) -> None:
    bounds = Bounds(GymSpaces(gs.Dict({"x": space, "y": gs.Discrete(2)}), gs.Discrete(2)))
    obs = {"x": np.array(rows, space.dtype)[:, None], "y": np.ones((len(rows), 1), np.int64)}
    valid = np.ones((len(rows), 1), bool)
    assert bounds.outside(obs, valid) == ({"x": outside} if outside else {})
    assert bounds.outside(obs, ~valid) == {}
