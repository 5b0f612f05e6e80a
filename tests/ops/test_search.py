"""Does a search weigh moves as the paper says, and walk as a textbook's does?"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest

from shoal.ops.kernels import ndarray
from shoal.ops.search import (
    NONE,
    Puct,
    Tree,
    dirichlet,
    legal_softmax,
    rate,
    score,
    visit_policy,
)

B, A, DEPTH, SIMULATIONS = 40, 5, 6, 60


def test_golden_scores() -> None:
    n, w, p = np.array([10.0, 5.0, 0.0]), np.array([6.0, 1.0, 0.0]), np.array([0.5, 0.3, 0.2])
    weight = rate(15.0, 19652.0, 1.25)
    assert weight / math.sqrt(15.0) == pytest.approx(1.250814, abs=1e-6)
    assert rate(800.0, 19652.0, 1.25) / math.sqrt(800.0) == pytest.approx(1.289950, abs=1e-6)
    expected = [0.820199, 0.442219, 0.968876]
    assert score(w, n, p, weight) == pytest.approx(expected, abs=1e-6)
    q = w / np.maximum(n, 1)
    assert score(w, n, p, weight) - q == pytest.approx([0.220199, 0.242219, 0.968876], abs=1e-6)


# ------------------------------------------------------------------ the textbook


@dataclass
class World:
    """A random game: positions are numbers, and tables say all about them."""

    prior: ndarray
    legal: ndarray
    value: ndarray
    over: ndarray
    mover: ndarray

    @classmethod
    def random(cls, rng: np.random.Generator, size: int = 4096) -> World:
        legal = rng.random((size, A)) < 0.7
        legal[np.arange(size), rng.integers(A, size=size)] = True
        logits = rng.standard_normal((size, A)).astype(np.float32)
        value = rng.uniform(-1, 1, size).astype(np.float32)
        over = rng.random(size) < 0.15
        mover = rng.integers(2, size=size).astype(np.int8)  # players may move twice
        return cls(legal_softmax(logits, legal), legal, value, over, mover)

    def child(self, position: ndarray, action: ndarray) -> ndarray:
        return (position * 31 + action * 977 + 11) % len(self.value)


@dataclass
class Node:
    """Silver et al.'s pseudocode, in its own words."""

    position: int
    prior: float
    visits: int = 0
    total: float = 0.0  # for the player who moved here
    children: dict[int, Node] = field(default_factory=dict)


def textbook(world: World, root: int, simulations: int) -> list[int]:
    """Visits of the root's moves."""

    def expand(node: Node) -> float:
        at = node.position
        if not world.over[at]:
            for a in np.flatnonzero(world.legal[at]).tolist():
                child = int(world.child(np.array(at), np.array(a)))
                node.children[a] = Node(child, float(world.prior[at, a]))
        return float(world.value[at])

    def ucb(parent: Node, child: Node) -> float:
        c = math.log((1 + parent.visits + 19652) / 19652) + 1.25
        u = c * math.sqrt(parent.visits) * child.prior / (1 + child.visits)
        return u + (child.total / child.visits if child.visits else 0.0)

    top = Node(root, 1.0, visits=1)
    expand(top)
    for _ in range(simulations):
        path = [top]
        while path[-1].children:
            node = path[-1]
            path.append(max(node.children.values(), key=lambda child: ucb(node, child)))
        v, who = expand(path[-1]), world.mover[path[-1].position]
        for parent, node in zip([None, *path], path, strict=False):
            node.visits += 1
            if parent is not None:
                node.total += v if world.mover[parent.position] == who else -v
    return [top.children[a].visits if a in top.children else 0 for a in range(A)]


def grow(tree: Tree, world: World, roots: ndarray, simulations: int, leaves: int = 1) -> ndarray:
    """The trees of these positions, grown; positions of their nodes [B, nodes]."""
    held = np.zeros(tree.count.shape, np.int64)

    def put(at: ndarray, nodes: ndarray, positions: ndarray) -> None:
        held[at, nodes] = positions
        over, p = world.over[positions], positions
        tree.end(at[over], nodes[over], world.value[p[over]], world.mover[p[over]])
        at, nodes, p = at[~over], nodes[~over], p[~over]
        with np.errstate(divide="ignore"):  # of illegal moves
            logits = np.log(world.prior[p])
        known = logits, world.legal[p], world.value[p], world.mover[p]
        tree.expand(at, nodes, *known)

    put(np.arange(len(roots)), np.zeros(len(roots), np.int64), roots)
    tree.count[:, 0] = 1
    for _ in range(simulations // leaves):
        at, parent, action, leaf = tree.descend(leaves)
        put(at, leaf, world.child(held[at, parent], action))
        tree.backup()
    return held


def roots_of(world: World, rng: np.random.Generator) -> ndarray:
    return rng.choice(np.flatnonzero(~world.over), B)


def test_visits_are_those_of_the_textbook() -> None:
    rng = np.random.default_rng(0)
    world = World.random(rng)
    roots = roots_of(world, rng)
    tree = Tree(B, SIMULATIONS + 1, A)
    grow(tree, world, roots, SIMULATIONS)
    expected = [textbook(world, int(root), SIMULATIONS) for root in roots]
    assert tree.root_visits().tolist() == expected


@pytest.mark.parametrize("leaves", [1, 4])
def test_what_a_tree_holds_adds_up(leaves: int) -> None:
    rng = np.random.default_rng(1)
    world = World.random(rng)
    tree = Tree(B, SIMULATIONS + 1, A, Puct(virtual_loss=3.0))
    held = grow(tree, world, roots_of(world, rng), SIMULATIONS, leaves)
    assert (tree.root_visits().sum(-1) == SIMULATIONS).all()  # no virtual loss is left
    for b in range(B):
        for node in range(tree.size[b]):
            if not tree.expanded[b, node]:
                assert not tree.visits[b, node].any()
                continue
            assert tree.count[b, node] - tree.visits[b, node].sum() >= 1  # its own evaluations
            legal = world.legal[held[b, node]]
            assert not tree.visits[b, node][~legal].any()
            for a, child in enumerate(tree.children[b, node]):
                if child != NONE:
                    assert tree.visits[b, node, a] == tree.count[b, child]
                    same = tree.mover[b, node] == tree.mover[b, child]
                    own = tree.count[b, child] - tree.visits[b, child].sum()
                    total = tree.total[b, child].sum() + own * tree.value[b, child]
                    expected = total if same else -total
                    assert tree.total[b, node, a] == pytest.approx(expected, abs=1e-4)


def test_leaves_of_one_tree_are_others_with_virtual_loss() -> None:
    rng = np.random.default_rng(2)
    world = World.random(rng)
    world.over[:] = False
    tree = Tree(B, SIMULATIONS + 1, A)
    grow(tree, world, roots_of(world, rng), 40, 4)
    without = Tree(B, SIMULATIONS + 1, A, Puct(virtual_loss=0.0))
    grow(without, world, roots_of(world, rng), 40, 4)
    assert tree.size.mean() > 1.5 * without.size.mean()


# ------------------------------------------------------------------ noise and temperature


def test_noise_falls_on_legal_moves_only() -> None:
    rng = np.random.default_rng(3)
    legal = rng.random((5000, 7)) < 0.5
    legal[:, 0] = True
    for alpha in (0.01, 1.0, None):
        noise = dirichlet(rng, legal, alpha)
        assert noise.sum(-1) == pytest.approx(1.0, abs=1e-5)
        assert not noise[~legal].any()
    full = np.ones((20000, 4), bool)
    assert dirichlet(rng, full, 0.5).mean(0) == pytest.approx(0.25, abs=0.01)
    # Var of a symmetric Dirichlet's component: (K - 1) / (K^2 (K alpha + 1)).
    assert dirichlet(rng, full, 0.5).var(0) == pytest.approx(3 / (16 * 3.0), rel=0.05)
    assert dirichlet(rng, full, None).var(0) == pytest.approx(3 / (16 * 11.0), rel=0.05)


def test_temperature() -> None:
    visits = np.array([[10.0, 30.0, 0.0], [5.0, 5.0, 90.0]], np.float32)
    assert visit_policy(visits, 1.0)[0] == pytest.approx([0.25, 0.75, 0.0])
    assert visit_policy(visits, 0.5)[0] == pytest.approx([0.1, 0.9, 0.0])
    assert visit_policy(visits, np.array([0.0, 1.0])).tolist()[0] == [0.0, 1.0, 0.0]
    assert visit_policy(visits, np.array([0.0, 1.0]))[1] == pytest.approx([0.05, 0.05, 0.9])
    assert visit_policy(visits, 1e-3)[1] == pytest.approx([0.0, 0.0, 1.0])  # nothing overflows


def test_illegal_moves_have_no_mass() -> None:
    logits = np.array([[50.0, 1.0, 1.0]], np.float32)
    legal = np.array([[False, True, True]])
    assert legal_softmax(logits, legal).tolist() == [[0.0, 0.5, 0.5]]
