"""Chunks of a sweep, and programs that are compiled side by side."""

from threading import Barrier, Event
from types import SimpleNamespace

import pytest

from jaxann.training import chunks
from jaxann.training.chunks import compile_ahead, largest_chunk


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr(chunks.os, "cpu_count", lambda: 2)


def program(make):
    return lambda: SimpleNamespace(compile=make)


def test_programs_are_compiled_side_by_side_and_come_in_order():
    both, events = Barrier(2, timeout=20), [Event() for _ in range(3)]

    def compile_first():
        both.wait()
        assert events[1].wait(20)
        return "first"

    def compile_second():
        both.wait()
        events[1].set()
        return "second"

    programs = compile_ahead([program(compile_first), program(compile_second), program(lambda: "third")])
    assert [future.result() for future in programs] == ["first", "second", "third"]


def test_what_goes_wrong_is_raised_when_it_is_the_programs_turn():
    def fail():
        raise ValueError("no such program")

    programs = compile_ahead([program(lambda: 0), fail, program(fail), program(lambda: 3)])
    assert next(programs).result() == 0
    for _ in range(2):
        with pytest.raises(ValueError, match="no such program"):
            next(programs).result()
    assert next(programs).result() == 3
    assert list(programs) == []


def test_only_as_many_programs_are_ahead_as_there_are_cores():
    lowered = []
    programs = compile_ahead(lambda i=i: lowered.append(i) or SimpleNamespace(compile=lambda: i) for i in range(9))
    next(programs)
    assert lowered == [0, 1, 2]
    programs.close()
    assert lowered == [0, 1, 2]


@pytest.mark.parametrize(
    ("platform", "members", "devices", "size"),
    [("cpu", 10, 1, 10), ("cpu", 33, 1, 17), ("cpu", 100, 2, 50), ("cpu", 3, 2, 4), ("gpu", 100, 1, 100)],
)
def test_chunks_have_about_as_many_members(platform, members, devices, size):
    assert largest_chunk(members, [SimpleNamespace(platform=platform)] * devices) == size
