"""``attribute_dataset`` as a process: killed, stopped, out of disk, beside others, for long."""

import contextlib
import functools
import itertools
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import zarr
from closeness import assert_close
from slowly import all_slow_but

ROOT = pathlib.Path(__file__).parents[2]
PATIENCE = 300  # seconds, until a process that does not get anywhere fails the test


class Run:
    """A run of ``attributing.py``, by any number of processes one after the other.

    Args:
      folder: a new one, for the store and the logs of what is read.
      env: of the processes.
      config: of all of them.
    """

    def __init__(self, folder: pathlib.Path, env: dict[str, str], **config: Any):
        self.out, self._folder, self._env, self._config = folder / "out", folder, env, config
        self._logs: list[pathlib.Path] = []
        self._processes: list[subprocess.Popen[str]] = []

    def start(self, **more: Any) -> subprocess.Popen[str]:
        """Starts a process."""
        self._logs.append(self._folder / f"read{len(self._logs)}")
        config = {**self._config, "out": str(self.out), "log": str(self._logs[-1]), **more}
        command = [sys.executable, str(ROOT / "tests" / "attributing.py"), json.dumps(config)]
        process = subprocess.Popen(command, env=self._env, stderr=subprocess.PIPE, text=True)
        self._processes.append(process)
        return process

    def close(self) -> None:
        """Ends what a test that has failed has left."""
        for process in self._processes:
            process.kill()
            process.wait()
            assert process.stderr is not None
            process.stderr.close()

    def start_together(self, count: int) -> list[subprocess.Popen[str]]:
        """Starts processes that share the work."""
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        common = {"coordinator_address": address, "num_processes": count}
        beat = {"heartbeat_timeout_seconds": 10}
        return [self.start(distributed={**common, **beat, "process_id": i}) for i in range(count)]

    def finish(self, *processes: subprocess.Popen[str]) -> None:
        """Waits until they have done all that is left; by default one that is started for that."""
        for process in processes or [self.start()]:
            errors = process.communicate(timeout=PATIENCE)[1]
            assert process.returncode == 0, errors

    def reads(self, start: int = -1) -> list[int]:
        """What a process has read, by default that which was started last."""
        log = self._logs[start]
        raw = log.read_bytes() if log.exists() else b""
        return np.frombuffer(raw[: len(raw) // 4 * 4], np.int32).tolist()

    def wait_for_reads(self, count: int, process: subprocess.Popen[str], start: int = -1) -> None:
        """Waits until a process has read that many examples."""
        end = time.monotonic() + PATIENCE
        while len(self.reads(start)) < count:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < end
            time.sleep(0.002)

    def contents(self) -> dict[str, np.ndarray]:
        """The arrays of the store."""
        group = zarr.open_group(self.out, mode="r")
        return {name: np.asarray(array[...]) for name, array in group.arrays()}

    def done(self) -> set[int]:
        """Which examples are in the store."""
        if not (self.out / "status" / "zarr.json").exists():
            return set()
        return set(np.flatnonzero(zarr.open_group(self.out, mode="r")["status"][...]).tolist())


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of processes that share what they compile."""
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


@pytest.fixture
def begin(tmp_path: pathlib.Path, env: dict[str, str]) -> Iterator[Callable[..., Run]]:
    """From a configuration to a run with it."""
    with contextlib.ExitStack() as runs:
        yield lambda **config: runs.enter_context(contextlib.closing(Run(tmp_path, env, **config)))


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, env: dict[str, str]
) -> Callable[..., dict[str, np.ndarray]]:
    """From a number of examples to the results of a run that nothing has happened to."""

    @functools.cache
    def results(length: int, **config: Any) -> dict[str, np.ndarray]:
        run = Run(tmp_path_factory.mktemp("undisturbed"), env, length=length, **config)
        run.finish()
        assert run.reads() == list(range(length))
        return run.contents()

    return results


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Asserts that all bits are equal."""
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape, name
        assert found[name].tobytes() == array.tobytes(), name


def assert_same_by_others(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Asserts that all are equal up to rounding.

    In one of several processes XLA may make a program that rounds otherwise than one that is alone.
    """
    assert found.keys() == expected.keys()
    for name in expected.keys() - {"checksum"}:  # gaps and errors are differences of values
        array = expected[name]
        assert_close(found[name], array, size=float(np.abs(expected["value"]).max()))


@pytest.mark.parametrize(
    ("kills", "length", "most", "long"),
    [
        (3, 400, 120, 0.0),
        pytest.param(20, 4000, 120, 0.0, marks=pytest.mark.slow),
        pytest.param(4, 4000, 1500, 1e6, marks=pytest.mark.slow),  # 31 times as many in a program
    ],
)
def test_kills_lose_nothing_that_is_written(begin, undisturbed, kills, length, most, long):
    rng = np.random.default_rng(0)
    expected = undisturbed(length, long=long)
    run = begin(length=length, delay=0.002, chunks=length // 10, long=long)
    done, grown = run.done(), 0
    for kill in range(kills):
        process = run.start(flush_every=[0.05, 60.0][kill % 2])
        if kill % 5 < 4:
            run.wait_for_reads(int(rng.integers(1, most)), process)
            time.sleep(rng.uniform(0, 0.02))
        else:  # at any moment, before the work begins too
            time.sleep(rng.uniform(0, 1.5))
        assert process.poll() is None, "it has finished before it was killed"
        process.kill()
        process.communicate()
        now = run.done()
        assert not done & set(run.reads())  # what was written has not been done again
        assert done <= now  # and is still there
        done, grown = now, grown + (now > done)
    assert grown >= kills // 3 and len(done) < length
    run.finish()
    assert sorted(run.reads()) == sorted(set(range(length)) - done)
    assert_same(run.contents(), expected)


@pytest.mark.parametrize("number", all_slow_but([signal.SIGINT], [signal.SIGTERM, signal.SIGINT]))
def test_a_signal_ends_it_when_what_is_done_is_written(begin, undisturbed, number):
    run = begin(length=400, delay=0.005, chunks=1)  # one block, which is not full until the end
    process = run.start()
    run.wait_for_reads(150, process)
    process.send_signal(number)
    errors = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == -number
    done = run.done()
    assert 0 < len(done) < 400
    assert f"{len(done)} of 400 examples" in errors
    assert f"They are in {run.out}: the same call goes on from there." in errors
    assert ("KeyboardInterrupt: " in errors) == (number == signal.SIGINT)
    run.finish()
    assert sorted(run.reads()) == sorted(set(range(400)) - done)
    assert_same(run.contents(), undisturbed(400))


@pytest.mark.slow
def test_damaged_chunks_are_noticed_and_done_again(begin, undisturbed):
    run = begin(length=400)
    run.finish()
    names = sorted(run.contents())
    block, rng = 25, np.random.default_rng(0)

    def chunk(name: str, number: int) -> pathlib.Path:
        path = run.out / name / "c" / str(number)
        return path / "0" if path.is_dir() else path

    for number, name in enumerate(names):  # a bit of each array, the status among them
        raw = bytearray(chunk(name, number).read_bytes())
        raw[rng.integers(len(raw))] ^= 1 << int(rng.integers(8))
        chunk(name, number).write_bytes(raw)
    cut, gone, unknown = range(len(names), len(names) + 3)  # the last of 16 blocks
    torn = chunk("attributions", cut)
    os.truncate(torn, torn.stat().st_size // 2)
    os.truncate(chunk("value", cut), 0)
    chunk("attributions", gone).unlink()
    chunk("num_evals", gone).unlink()
    chunk("status", unknown).unlink()
    damaged = [*range(len(names)), cut, gone, unknown]
    process = run.start()
    errors = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 0
    of_status = {names.index("status"), unknown}  # as if they had never been done
    for number in set(damaged) - of_status:
        assert f"block {number} is damaged, and is done again." in errors
    again = [i for n in damaged for i in range(n * block, (n + 1) * block)]
    assert sorted(run.reads()) == again
    assert_same(run.contents(), undisturbed(400))
    run.finish()
    assert run.reads() == []


@pytest.mark.slow
def test_what_a_kill_leaves_beside_chunks_does_not_get_into_them(begin, undisturbed):
    run = begin(length=400)
    run.finish()
    for name in ("status", "value"):
        chunk = run.out / name / "c" / "3"
        chunk.unlink()
        chunk.with_name("3.__lock").write_bytes(bytes(10_000))
    run.finish()
    assert run.reads() == list(range(75, 100))
    assert_same(run.contents(), undisturbed(400))


@pytest.fixture
def ballast(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A file that fills a disk of 1 MB, where a run has its folder."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path],
        check=False,
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"may not mount a small disk: {mounted.stderr.strip()}")
    file = tmp_path / "ballast"
    file.write_bytes(bytes(2**20 - 4096))  # the folder takes a page
    yield file
    subprocess.run(["umount", tmp_path], check=True)


def assert_cannot_write(run: Run) -> None:
    """Asserts that a process says that, and what to do."""
    process = run.start()
    errors = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 1
    assert errors.splitlines()[-1].startswith(f"OSError: results can't be written to {run.out}: ")
    assert errors.endswith("The same call goes on when they can.\n")


def test_a_full_disk_is_an_error_that_can_be_gone_on_from(ballast, begin, undisturbed):
    run = begin(length=400)
    assert_cannot_write(run)  # not even an empty store
    assert run.done() == set()
    os.truncate(ballast, 700_000)
    assert_cannot_write(run)
    done = run.done()
    assert 0 < len(done) < 400
    ballast.unlink()
    run.finish()
    assert sorted(run.reads()) == sorted(set(range(400)) - done)
    assert_same(run.contents(), undisturbed(400))


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_likewise(begin, undisturbed):
    run = begin(length=400)
    run.finish()
    shutil.rmtree(run.out / "value" / "c")
    (run.out / "value" / "c").touch()  # a file where there should be a folder
    process = run.start()
    errors = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 1
    assert f"FileExistsError: {run.out / 'value' / 'c'} lies where results are to be" in errors
    (run.out / "value" / "c").unlink()
    run.finish()
    assert_same(run.contents(), undisturbed(400))


@pytest.mark.versions
@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_share_the_work(begin, undisturbed, count):
    length = 200 * count
    run = begin(length=length)
    run.finish(*run.start_together(count))
    reads = [run.reads(process) for process in range(count)]
    assert sorted(itertools.chain(*reads)) == list(range(length))
    assert min(map(len, reads)) > 180
    assert_same_by_others(run.contents(), undisturbed(length))


@pytest.mark.parametrize(("count", "then"), [(2, 1), pytest.param(4, 2, marks=pytest.mark.slow)])
def test_the_others_finish_when_one_is_killed(begin, undisturbed, count, then):
    length, victim = 200 * count, 1
    run = begin(length=length, delay=0.01)
    processes = run.start_together(count)
    run.wait_for_reads(150, processes[victim], start=victim)
    processes[victim].kill()
    processes.pop(victim).communicate()
    run.finish(*processes)
    done, block = run.done(), zarr.open_group(run.out, mode="r").attrs["block"]
    left = set(range(length)) - done
    assert 0 < len(left) < 200
    assert {i // block % count for i in left} == {victim}
    again = [run.start()] if then == 1 else run.start_together(then)
    run.finish(*again)
    assert sorted(itertools.chain(*(run.reads(-1 - i) for i in range(then)))) == sorted(left)
    assert_same_by_others(run.contents(), undisturbed(length))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_examples(begin):
    status = pathlib.Path("/proc/self/status")
    if not status.exists():
        pytest.skip("there is no /proc to read the memory of a process from")
    run = begin(length=40_000, width=32)
    process = run.start()
    run.wait_for_reads(2_000, process)  # more than 1000 are done: few are between the two
    sizes = []
    while process.poll() is None:
        sizes += resident(process.pid)
        time.sleep(0.1)
    run.finish(process)
    assert len(run.done()) == 40_000
    assert max(sizes) < 1.1 * sizes[0], [size >> 20 for size in sizes[:: len(sizes) // 20]]


def resident(pid: int) -> list[int]:
    """The bytes of memory that a process has; none when it has just ended."""
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return [1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS:")]
