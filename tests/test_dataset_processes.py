"""``attribute_dataset`` as a process: killed, stopped, out of disk, beside others, for long."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import zarr

ROOT = pathlib.Path(__file__).parents[1]
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

    def start(self, **more: Any) -> subprocess.Popen[str]:
        """Starts a process."""
        self._logs.append(self._folder / f"read{len(self._logs)}")
        config = {**self._config, "out": str(self.out), "log": str(self._logs[-1]), **more}
        command = [sys.executable, str(ROOT / "tests" / "attributing.py"), json.dumps(config)]
        return subprocess.Popen(command, env=self._env, stderr=subprocess.PIPE, text=True)

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
        if not (self.out / "zarr.json").exists():
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
def begin(tmp_path: pathlib.Path, env: dict[str, str]) -> Callable[..., Run]:
    """From a configuration to a run with it."""
    return lambda **config: Run(tmp_path, env, **config)


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, env: dict[str, str]
) -> Callable[[int], dict[str, np.ndarray]]:
    """From a number of examples to the results of a run that nothing has happened to."""
    known: dict[int, dict[str, np.ndarray]] = {}

    def results(length: int) -> dict[str, np.ndarray]:
        if length not in known:
            run = Run(tmp_path_factory.mktemp("undisturbed"), env, length=length)
            run.finish()
            assert run.reads() == list(range(length))
            known[length] = run.contents()
        return known[length]

    return results


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Asserts that all bits are equal."""
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape, name
        assert found[name].tobytes() == array.tobytes(), name


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


def test_a_folder_that_cannot_be_written_likewise(begin, undisturbed):
    run = begin(length=400)
    run.finish()
    shutil.rmtree(run.out / "value" / "c")
    (run.out / "value" / "c").touch()  # a file where there should be a folder
    assert_cannot_write(run)
    (run.out / "value" / "c").unlink()
    run.finish()
    assert_same(run.contents(), undisturbed(400))
