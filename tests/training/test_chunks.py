"""Chunks of a sweep, and programs that are compiled side by side."""

from threading import Barrier, Event
from types import SimpleNamespace

import pytest

from jaxann.training.chunks import compile_ahead, largest_chunk


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

    programs = compile_ahead([program(compile_first), program(compile_second), program(lambda: "third")], 2)
    assert [future.result() for future in programs] == ["first", "second", "third"]


def test_what_goes_wrong_is_raised_when_it_is_the_programs_turn():
    def fail():
        raise ValueError("no such program")

    programs = compile_ahead([program(lambda: 0), fail, program(fail), program(lambda: 3)], 2)
    assert next(programs).result() == 0
    for _ in range(2):
        with pytest.raises(ValueError, match="no such program"):
            next(programs).result()
    assert next(programs).result() == 3
    assert list(programs) == []


@pytest.mark.parametrize("ahead", [0, 2])
def test_only_so_many_programs_are_compiled_ahead_and_none_after_the_end(ahead):
    lowered, end = [], Event()
    compiled = SimpleNamespace(compile=lambda: end.wait(20))
    programs = compile_ahead([lambda i=i: lowered.append(i) or compiled for i in range(9)], ahead)
    next(programs)
    assert lowered == list(range(ahead + 1))
    programs.close()  # does not wait for what is being compiled
    assert lowered == list(range(ahead + 1))
    end.set()


@pytest.mark.parametrize(
    ("platform", "members", "devices", "size"),
    [("cpu", 10, 1, 10), ("cpu", 33, 1, 17), ("cpu", 100, 2, 50), ("cpu", 3, 2, 4), ("gpu", 100, 1, 100)],
)
def test_chunks_have_about_as_many_members(platform, members, devices, size):
    assert largest_chunk(members, [SimpleNamespace(platform=platform)] * devices) == size
