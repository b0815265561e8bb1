"""Signals while a dataset is attributed: none is lost, and none has to wait for the source."""

import contextlib
import os
import pathlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zarr
from jax.sharding import Mesh

import igjax
from igjax.dataset import attribute_dataset
from igjax.dataset._batches import ReadAhead
from igjax.dataset._interrupts import SIGNALS, Interrupted, Signals, noted
from igjax.quadrature import gregory


def send(number: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


@contextlib.contextmanager
def handled(number: signal.Signals, handler: Any) -> Iterator[None]:
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@contextlib.contextmanager
def interrupted(match: str | None = None) -> Iterator[Signals]:
    with pytest.raises(KeyboardInterrupt, match=match), noted() as signals:
        yield signals


@pytest.fixture(autouse=True)
def _handlers_are_as_before() -> Iterator[None]:
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_signal_ends_what_is_not_held_at_once() -> None:
    with interrupted():
        send()
        pytest.fail("went on")


def test_what_a_callback_has_swallowed_is_raised_again() -> None:
    with interrupted() as signals:
        with contextlib.suppress(KeyboardInterrupt):  # as a callback of the garbage collection
            send()
        signals.check()
        pytest.fail("went on")
    with interrupted(), contextlib.suppress(KeyboardInterrupt):
        send()  # raised at the end, if nobody checks


def test_a_signal_is_held_until_somebody_checks_and_the_second_is_not() -> None:
    with interrupted("all is saved") as signals:
        with signals.held():
            send()
            assert signals.came == signal.SIGINT
            with pytest.raises(Interrupted):
                signals.check()
            with pytest.raises(KeyboardInterrupt):
                send()
        raise Interrupted("all is saved")


def test_what_is_ignored_stays_so() -> None:
    with handled(signal.SIGINT, signal.SIG_IGN), noted() as signals:
        send()
        assert signals.came is None


def test_a_handler_of_ones_own_is_called() -> None:
    seen: list[int] = []
    with (
        handled(signal.SIGTERM, lambda number, _: seen.append(number)),
        interrupted("all is saved") as signals,
        signals.held(),
    ):
        send(signal.SIGTERM)
        assert not seen
        raise Interrupted("all is saved")
    assert seen == [signal.SIGTERM]


def test_reading_is_left_while_an_item_is_awaited_and_ends_with_that() -> None:
    go_on, read = threading.Event(), list[int]()

    def slow() -> Iterator[int]:
        for number in range(5):
            read.append(number)
            yield number
            assert go_on.wait(60)

    def check() -> None:
        raise Interrupted

    reader = ReadAhead(lambda reader: reader.wanted(slow()), check)
    assert next(reader) == 0
    with pytest.raises(Interrupted):
        next(reader)
    closing = threading.Timer(0.1, go_on.set)
    closing.start()
    reader.close()
    closing.join()
    reader._thread.join(60)
    assert read == [0, 1]


class Stuck:
    """Examples one of which is not read before all is over; another process asks to end it."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> Any:
        if index == 40 and threading.current_thread() is not threading.main_thread():
            send()
            assert self.over.wait(60)
        return np.full(3, index, np.float32)


def test_a_slow_source_is_not_waited_for(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = Stuck()
    attribution = igjax.integrated_grad(lambda x: jnp.sum(x**2), rule=gregory(4))
    mesh = Mesh(np.array(jax.devices()[:1]), ("example",))
    settings: dict[str, Any] = {"mesh": mesh, "batch_size": 4, "progress": False}
    with pytest.raises(KeyboardInterrupt, match=r"of 64 examples.* They are in .*the same call"):
        attribute_dataset(attribution, source, out=tmp_path, **settings)
    assert not source.over.is_set()
    source.over.set()
    assert caplog.messages == ["A signal has come: what is done is written, and then all ends."]
    status = np.asarray(zarr.open_group(tmp_path, mode="r")["status"])
    done = int(np.sum(status == 1))
    assert 0 < done <= 40
    source = Stuck()
    source.over.set()
    again = attribute_dataset(attribution, [source[i] for i in range(64)], out=tmp_path, **settings)
    assert (again.done, again.new) == (64, 64 - done)
