"""Chunks of a sweep."""

from types import SimpleNamespace

import pytest

from jaxann.training.chunks import largest_chunk


@pytest.mark.parametrize(
    ("platform", "members", "devices", "size"),
    [("cpu", 10, 1, 10), ("cpu", 33, 1, 17), ("cpu", 100, 2, 50), ("cpu", 3, 2, 4), ("gpu", 100, 1, 100)],
)
def test_chunks_have_about_as_many_members(platform, members, devices, size):
    assert largest_chunk(members, [SimpleNamespace(platform=platform)] * devices) == size
