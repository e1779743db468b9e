"""Writes that wait: in order, bounded, and never waited for by those who offer them."""

import threading

from hypothesis import given
from hypothesis import strategies as st

from cache.write_queue import Write, WriteQueue

SMALL = Write("k", b"x" * 44)  # charged 300


def test_writes_are_taken_in_the_order_they_were_offered() -> None:
    queue = WriteQueue(10_000)
    writes = [Write("a", b"1"), Write("a", None), Write("b", b"2")]
    assert all(queue.offer(write) for write in writes)
    assert queue.take(10_000) == writes


def test_a_batch_is_bounded_by_bytes_but_never_empty() -> None:
    queue = WriteQueue(10_000)
    for _ in range(3):
        queue.offer(SMALL)
    assert [len(queue.take(600)), len(queue.take(1))] == [2, 1]


def test_what_does_not_fit_is_refused_until_something_is_done() -> None:
    queue = WriteQueue(700)
    assert [queue.offer(SMALL), queue.offer(SMALL), queue.offer(SMALL)] == [True, True, False]
    assert not queue.wait_room(44, 0)
    batch = queue.take(300)
    assert not queue.offer(SMALL)  # taken, but not done: it still takes memory
    queue.done(batch)
    assert queue.wait_room(44, 0)
    assert queue.offer(SMALL)


def test_a_closed_queue_refuses_new_writes_and_gives_out_what_waits() -> None:
    queue = WriteQueue(10_000)
    queue.offer(SMALL)
    queue.close()
    assert not queue.offer(SMALL)
    assert not queue.wait_room(0, 0)
    assert queue.take(10_000) == [SMALL]
    assert queue.take(10_000) == []


def test_taking_waits_for_a_write_or_the_end() -> None:
    queue, taken = WriteQueue(10_000), list[int]()

    def take() -> None:
        while batch := queue.take(10_000):
            taken.append(len(batch))
            queue.done(batch)

    thread = threading.Thread(target=take)
    thread.start()
    queue.offer(SMALL)
    assert queue.wait_empty(30)
    queue.close()
    thread.join()
    assert sum(taken) == 1


def test_waiting_for_the_end_gives_up_in_time() -> None:
    queue = WriteQueue(10_000)
    assert queue.wait_empty(0)
    queue.offer(SMALL)
    assert not queue.wait_empty(0)


@given(st.lists(st.one_of(st.none(), st.binary(max_size=800)), max_size=30), st.integers(0, 3000), st.integers(1, 2000))
def test_nothing_accepted_is_lost_and_the_bound_holds(data: list[bytes | None], capacity: int, batch_bytes: int) -> None:
    queue = WriteQueue(capacity)
    accepted = [write for number, each in enumerate(data) if queue.offer(write := Write(str(number), each))]
    assert sum(write.num_bytes for write in accepted) <= capacity
    queue.close()
    taken: list[Write] = []
    while batch := queue.take(batch_bytes):
        taken += batch
        queue.done(batch)
    assert taken == accepted
    assert queue.wait_empty(0)


def test_room_can_be_waited_for() -> None:
    queue = WriteQueue(700)
    queue.offer(SMALL)
    queue.offer(SMALL)
    assert not queue.wait_room(44, 0.01)
    batch = queue.take(10_000)
    found: list[bool] = []
    waiting = threading.Thread(target=lambda: found.append(queue.wait_room(44, 30)))
    waiting.start()
    queue.done(batch)
    waiting.join()
    assert found == [True]
    queue.close()
    assert not queue.wait_room(0, 30)


def test_a_value_in_parts_weighs_what_its_parts_do() -> None:
    queue = WriteQueue(1000)
    assert not queue.offer(Write("k", b"head", parts=(("k.0", bytes(400)), ("k.1", bytes(400)))))
    assert queue.offer(Write("k", b"head", parts=(("k.0", bytes(300)), ("k.1", bytes(300)))))
    assert not queue.wait_room(300, 0)
