"""The ways of LangTable's experts around blocks are the cheapest there are on their grid."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

from wm_gym.envs.sims.langtable.path import _neighbours, _shortest, next_waypoint

LAST = 6
SIZE = 2 * LAST + 1


@pytest.mark.parametrize("seed", range(5))
def test_the_search_finds_what_dijkstra_finds(seed):
    rng = np.random.default_rng(seed)
    cost = np.where(rng.random(SIZE**2) < 0.3, 26.0, 1.0) + rng.random(SIZE**2)
    edges = [(a, b, way * cost[b]) for a, row in enumerate(_neighbours(LAST)) for b, way in row]
    a, b, weight = map(np.array, zip(*edges, strict=True))
    graph = csr_array((weight, (a, b)), shape=(SIZE**2, SIZE**2))
    first, goal = rng.choice(SIZE**2, 2, replace=False).tolist()
    way = _shortest(first, goal, cost.tolist(), LAST)
    assert (way[0], way[-1]) == (goal, first)
    steps = {(x, y): z for x, y, z in edges}
    total = sum(steps[before, after] for after, before in pairwise(way))
    assert total == pytest.approx(dijkstra(graph, indices=first)[goal])


def test_the_ends_of_a_grid_have_fewer_neighbours():
    assert [len(_neighbours(LAST)[cell]) for cell in (0, 1, SIZE + 1)] == [3, 5, 8]


def test_a_wall_is_passed_where_it_is_open():
    wall = np.array([[x, 0.0] for x in (-0.15, -0.1, -0.05, 0.0, 0.05)])
    start, end = np.array([0.0, -0.1]), np.array([0.0, 0.1])
    assert next_waypoint(start, end, wall, 0.04, 0.18)[0] > 0.03
    assert next_waypoint(start, end, wall * (-1, 1), 0.04, 0.18)[0] < -0.03
    np.testing.assert_array_equal(next_waypoint(start, end, wall[:0], 0.04, 0.18), end)
    shut = np.array([[x, 0.0] for x in np.linspace(-0.18, 0.18, 13)])
    assert np.abs(next_waypoint(start, end, shut, 0.04, 0.18)).max() <= 0.18  # through, at a price
