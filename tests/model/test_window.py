"""Window: grows as far as answers stay fast, and no further."""

from __future__ import annotations

import heapq

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metafora_trio._model.window import Window


def use(window: Window, *, delay: float, service: float, requests: int) -> tuple[float, list[float]]:
    """Send requests to a server that answers one each `service` seconds, `delay` seconds later at least.

    Returns:
        The seconds until the last answer, and how long each took, in order of the answers.
    """
    now = free = 0.0
    under_way: list[tuple[float, float]] = []
    took: list[float] = []
    sent = 0
    while len(took) < requests:
        while sent < requests and len(under_way) < window.size:
            free = max(free, now) + service
            heapq.heappush(under_way, (free + delay, now))
            sent += 1
        now, begun = heapq.heappop(under_way)
        window.answered(begun, now)
        took.append(now - begun)
    return now, took


@pytest.mark.parametrize("delay", [0.02, 0.1, 0.5])
def test_a_far_broker_gets_many_at_a_time(delay: float) -> None:
    """If only distance makes answers slow, 2,000 requests take few round trips: 125 if there were 16 at a time."""
    window = Window(256)
    seconds, took = use(window, delay=delay, service=0.0, requests=2000)
    assert seconds <= 20 * delay
    assert max(took) == pytest.approx(delay)
    assert window.size == 256


@pytest.mark.parametrize("delay, service", [(0.005, 0.001), (0.05, 0.001), (0.05, 0.0004), (0.002, 0.002)])
def test_a_busy_broker_does_not_get_more_than_it_bears(delay: float, service: float) -> None:
    """Once the server is busy all the time, more requests only wait. Few wait long, and the server is kept busy."""
    window = Window(256)
    seconds, took = use(window, delay=delay, service=service, requests=4000)
    assert seconds <= 1.35 * 4000 * service + 30 * delay
    took.sort()
    assert took[int(0.99 * len(took))] <= 1.25 * max(0.02, 1.5 * (delay + service), delay + 16 * service)


def test_one_slow_answer_of_many_under_way_counts() -> None:
    """A request that was sent before the window shrank says nothing about its new size."""
    window = Window(256)
    for i in range(800):
        window.answered(i * 0.01, i * 0.01 + 0.01)
    assert window.size == 216
    for _ in range(100):
        window.answered(8.0, 9.0)
    assert window.size == 108
    window.slow(10.0, 11.0)
    assert window.size == 54


@given(st.integers(0, 300), st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10))))
def test_bounds(most: int, answers: list[tuple[float, float]]) -> None:
    """The size never leaves its bounds: at least 16 or the limit, at most the limit."""
    window, now = Window(most), 0.0
    for wait, took in answers:
        now += wait
        window.answered(now - took, now)
        assert min(16, most) <= window.size <= most
