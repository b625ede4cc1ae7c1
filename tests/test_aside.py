"""Work beside sampling: in order, one piece at a time, and no error is lost."""

import threading
import time

import pytest

from overtone.pipelines.aside import Aside


def test_work_is_done_in_order_on_another_thread():
    done = []
    with Aside() as aside:
        for number in range(20):
            aside.do(lambda n=number: done.append((n, threading.current_thread().name)))
    assert [number for number, _ in done] == list(range(20))
    assert {name for _, name in done} == {"overtone-aside_0"}


def test_no_more_than_one_piece_waits():
    begun = threading.Event()
    go_on = threading.Event()

    def slow():
        begun.set()
        assert go_on.wait(10)

    with Aside() as aside:
        aside.do(slow)
        assert begun.wait(10)
        threading.Timer(0.1, go_on.set).start()
        began = time.perf_counter()
        aside.do(lambda: None)  # which waits for the first
        assert time.perf_counter() - began > 0.05


@pytest.mark.parametrize("more", [0, 1])
def test_its_error_is_raised_where_it_is_used(more):
    def broken():
        raise OSError("the disk is full")

    def use():
        with Aside() as aside:
            aside.do(broken)
            for _ in range(more):
                aside.do(lambda: None)

    with pytest.raises(OSError, match="the disk is full"):
        use()


def test_an_error_beside_it_is_the_one_that_is_raised():
    def broken():
        raise OSError("the disk is full")

    def use():
        with Aside() as aside:
            aside.do(broken)
            raise KeyError

    with pytest.raises(KeyError):
        use()
