"""Facts about stored keys and values: what a row may see, and what is shared or copied."""

from __future__ import annotations

import numpy as np
import torch

from wm_gym.dynamics.kv_cache import KVCache, row_batches


def written(rows: int, capacity: int, frames: int) -> KVCache:
    """One layer; the key of row r at position p is 100 r + p."""
    cache = KVCache(rows, capacity)
    for position in range(frames):
        content = (100.0 * torch.arange(rows) + position).view(rows, 1, 1, 1).expand(-1, 2, 1, 4)
        cache.write([(content, -content)], position, np.arange(rows))
    return cache


def visible(cache: KVCache, position: int, length: int, rows: slice) -> list[list[float]]:
    """Keys each row may attend to, sorted."""
    numbers = [[] for _ in range(rows.stop - rows.start)]
    for layers, mask in cache.context(position, length, rows):
        keys, values = layers[0]
        assert torch.equal(keys, -values)
        repeat = len(numbers) // len(keys)
        for row, found in enumerate(numbers):
            allowed = (mask.expand(len(numbers), -1, -1, -1)[row, 0, 0] == 0).nonzero().flatten()
            found += keys[row // repeat, 0, allowed, 0].tolist()
    return [sorted(found) for found in numbers]


def test_a_row_sees_the_frames_inside_the_band_only():
    cache = written(2, capacity=3, frames=7)
    assert visible(cache, 7, 4, slice(0, 2)) == [[4, 5, 6], [104, 105, 106]]
    assert visible(cache, 7, 3, slice(1, 2)) == [[105, 106]]
    assert cache.nbytes() == 2 * 3 * 2 * 4 * 4 * 2  # rows, slots, L, E, float32, keys and values


def test_a_restarted_row_forgets_and_its_neighbour_does_not():
    cache = written(2, capacity=3, frames=7)
    cache.forget(np.array([0]))
    content = torch.full((1, 2, 1, 4), 55.0)
    cache.write([(content, -content)], 6, np.array([0]))
    assert visible(cache, 7, 4, slice(0, 2)) == [[55], [104, 105, 106]]


def test_equal_groups_share_their_prefix_and_go_on_separately():
    parent = written(3, capacity=3, frames=5)
    child = parent.select(np.array([2, 2, 0, 0]))
    assert [len(part.layers[0][0]) for part in child.prefixes] == [2]
    content = torch.arange(4.0).view(4, 1, 1, 1).expand(-1, 2, 1, 4)
    child.write([(content, -content)], 5, np.arange(4))
    seen = [[0, 203, 204], [1, 203, 204], [2, 3, 4], [3, 3, 4]]
    assert visible(child, 6, 4, slice(0, 4)) == seen
    for row in range(4):
        assert visible(child, 6, 4, slice(row, row + 1)) == [seen[row]]
    assert visible(child, 6, 4, slice(1, 3)) == seen[1:3]  # across groups
    assert visible(parent, 5, 4, slice(2, 3)) == [[202, 203, 204]]
    child.drop_expired(8, 4)
    assert not child.prefixes


def test_unequal_groups_are_copied_row_by_row():
    child = written(3, capacity=3, frames=5).select(np.array([2, 0, 0]))
    assert not child.prefixes
    assert visible(child, 5, 4, slice(0, 3)) == [[202, 203, 204], [2, 3, 4], [2, 3, 4]]


def test_state_round_trip():
    cache = written(3, capacity=3, frames=5).select(np.array([1, 1, 2, 2]))
    tensors, facts = cache.state()
    restored = KVCache.from_state(tensors, facts)
    assert visible(restored, 5, 4, slice(0, 4)) == visible(cache, 5, 4, slice(0, 4))


def test_batches_cover_the_chosen_rows_once():
    everyone = np.ones(5, bool)
    assert row_batches(everyone, None) == [slice(0, 5)]
    assert row_batches(everyone, 2) == [slice(0, 2), slice(2, 4), slice(4, 5)]
    some = row_batches(np.array([True, False, True, True]), 2)
    assert [batch.tolist() for batch in some] == [[0, 2], [3]]
    assert row_batches(np.zeros(3, bool), None) == []
