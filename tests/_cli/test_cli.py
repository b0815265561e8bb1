"""The command line: what its commands do, print and exit with."""

import importlib.metadata
import io
import json
import logging
import os
import pathlib
import re
import signal
import subprocess
import sys
import tomllib
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zarr

import igjax
from igjax._cli import _attribute, _data, _doctor, _exits, _facts, _named, command
from igjax.dataset import _creation, _progress, _store, attribute_dataset
from igjax.dataset._format import BOOKKEEPING

ROOT = pathlib.Path(__file__).parents[2]
XS = np.linspace(-1, 2, 60, dtype=np.float32).reshape(20, 3)
SCALES = np.linspace(1, 2, 20, dtype=np.float32)
RULE = igjax.quadrature.gregory(16)
FAST = ("--batch-size", "4", "--nodes", "16")  # to compile

# What users may have in my_module.


def score(x):
    return jnp.sum(jnp.sin(x)) * x[0]


def scaled(x, scale):
    return score(x) * scale


def masked(x, *, mask):
    return jnp.sum(jnp.where(mask, jnp.sin(x), 0))


def vector(x):
    return x


def rugged(x):
    raise RuntimeError("too rugged\nto stand on")


def leaving(x=None):
    sys.exit(0)


attribution = igjax.integrated_grad(score, rule=RULE, has_report=True)


def slopes(x):
    return {"slopes": jax.grad(score)(x)}


def quadratic(baseline, x, alpha):
    return baseline + alpha**2 * (x - baseline)


def upside_down(x):
    return -x


def examples(of=XS):
    return list(of)


def needy(stop):
    return XS[:stop]


def ragged():
    return [np.ones(n, np.float32) for n in (2, 5, 3)]


class Nested:
    xs = XS
    one = np.ones(3, np.float32)
    endless = type("Endless", (), {"__len__": lambda _: 10**13, "__getitem__": lambda *_: XS[0]})()
    signal_number = signal.SIGINT


class Interrupted:
    """Sends its process a signal when the last of its examples is read."""

    def __len__(self):
        return 4000

    def __getitem__(self, index):
        if index == 3999:
            os.kill(os.getpid(), Nested.signal_number)
        return XS[index % 20]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty folder to be in, with a module to import."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "my_module", sys.modules[__name__])
    monkeypatch.setattr(sys, "path", list(sys.path))
    level = logging.getLogger("igjax").level
    yield tmp_path
    logging.getLogger("igjax").setLevel(level)


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a command; gives its code and what it wrote."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["igjax", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_info:
            command()
        written = capsys.readouterr()
        return exit_info.value.code or 0, written.out, written.err

    return call


def stored(name="attributions", out="attr.zarr"):
    return np.asarray(zarr.open_group(out, mode="r")[name])


def settings(out="attr.zarr"):
    return zarr.open_group(out, mode="r").attrs


def expected(fun, *arrays, **keywords):
    return jax.jit(jax.vmap(igjax.integrated_grad(fun, **{"rule": RULE, **keywords})))(*arrays)


def save_npz():
    np.savez("data.npz", zebra=XS, ant=SCALES)  # in this order


def save_group():
    group = zarr.open_group("data.zarr", mode="w")
    group.create_array("scales", data=SCALES)
    group.create_array("a_first", data=XS)
    (pathlib.Path("data.zarr") / "notes").mkdir()


def save_two():
    np.save("xs.npy", XS)
    np.save("scales.npy", SCALES)


ONE = {
    "a .npy file": (lambda: np.save("xs.npy", XS), "xs.npy"),
    "a Zarr v3 array": (lambda: zarr.save_array("xs.zarr", XS, zarr_format=3), "xs.zarr"),
    "a Zarr v2 array": (lambda: zarr.save_array("xs.zarr", XS, zarr_format=2), "xs.zarr"),
    "a .npz file of one array": (lambda: np.savez("xs.npz", XS), "xs.npz"),
    "an array": (lambda: None, "my_module:XS"),
    "an attribute of an attribute": (lambda: None, "my_module:Nested.xs"),
    "a function": (lambda: None, "my_module:examples"),
}
TWO = {
    "a .npz file": (save_npz, ["data.npz"]),
    "a Zarr group": (save_group, ["data.zarr"]),
    "two files": (save_two, ["xs.npy", "scales.npy"]),
}


@pytest.mark.parametrize("kind", ONE)
def test_attributes_data_of_every_kind(kind, run):
    save, data = ONE[kind]
    save()
    code, out, err = attribute(run, data=data)
    assert code == 0, err
    assert "20 of 20 examples attributed, in attr.zarr" in out
    np.testing.assert_allclose(stored(), expected(score, XS), rtol=1e-4, atol=1e-6)


@pytest.mark.versions
@pytest.mark.parametrize("kind", TWO)
def test_several_arrays_are_several_arguments(kind, run):
    save, data = TWO[kind]
    save()
    options = [word for name in data for word in ("--data", name)]
    code, _, err = run("attribute", "my_module:scaled", *options, "--out", "attr.zarr", *FAST)
    assert code == 0, err
    np.testing.assert_allclose(stored(), expected(scaled, XS, SCALES), rtol=1e-4, atol=1e-6)


def attribute(run, *options, function="score", data="my_module:XS", out="attr.zarr", fast=FAST):
    return run("attribute", f"my_module:{function}", "--data", data, "--out", out, *fast, *options)


def test_arrays_are_read_from_files_when_they_are_needed():
    save_two()
    (mapped,) = _data.source(["xs.npy"])
    assert isinstance(mapped, np.memmap)
    zarr.save_array("xs.zarr", XS)
    (array,) = _data.source(["xs.zarr"])
    assert (array.shape, array.dtype, array.nbytes) == (XS.shape, XS.dtype, XS.nbytes)
    np.testing.assert_array_equal(array[7], XS[7])


def test_objects_are_taken_as_they_are_and_functions_called():
    assert _data.source(["my_module:XS"]) is XS
    assert isinstance(_data.source(["my_module:Interrupted"]), Interrupted)
    assert len(_data.source(["my_module:examples"])) == 20


def test_a_tolerance_is_what_is_asked_for(run):
    words = ["--rtol", "0.001", "--atol", "1e-5", "--max-evals", "80"]
    code, _, _ = attribute(run, *words, fast=())
    assert code == 0
    rule = igjax.quadrature.to_tolerance(0.001, 1e-5, 80)
    np.testing.assert_allclose(stored(), expected(score, XS, rule=rule), rtol=1e-4, atol=1e-6)
    _, report = expected(score, XS, rule=rule, has_report=True)
    np.testing.assert_array_equal(stored("num_evals"), report.num_evals)


def test_a_fixed_rule_is_gregorys(run):
    code, _, _ = attribute(run, fast=("--nodes", "32"))
    assert code == 0
    assert np.all(stored("num_evals") == 34)  # and two observers
    rule = igjax.quadrature.gregory(32)
    np.testing.assert_allclose(stored(), expected(score, XS, rule=rule), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "baseline"),
    [
        ("-0.5", igjax.baselines.constant(-0.5)),
        ("zeros", igjax.baselines.zeros),
        ("my_module:upside_down", upside_down),
        ("my_module:Nested.one", Nested.one),
    ],
)
def test_baselines_are_numbers_or_names(text, baseline, run):
    code, _, err = attribute(run, "--baseline", text)
    assert code == 0, err
    found = expected(score, XS, baseline=baseline)
    np.testing.assert_allclose(stored(), found, rtol=1e-4, atol=1e-6)


def test_a_path_is_a_name(run):
    code, _, _ = attribute(run, "--path", "my_module:quadratic")
    assert code == 0
    found = expected(score, XS, path=quadratic)
    np.testing.assert_allclose(stored(), found, rtol=1e-4, atol=1e-6)
    code, _, err = attribute(run)
    assert code == 2
    assert "another attribution: by another path, or with other options" in err


def test_only_the_fields_asked_for_are_stored(run):
    code, _, _ = attribute(run, "--field", "value", "--field", "error")
    assert code == 0
    assert set(zarr.open_group("attr.zarr")) == {"value", "error", *BOOKKEEPING}


def test_buckets_take_inputs_of_different_length(run):
    code, _, err = attribute(
        run, "--bucket", "3", "--bucket", "6", function="masked", data="my_module:ragged"
    )
    assert code == 0, err
    np.testing.assert_array_equal(stored("length"), [2, 5, 3])
    assert settings()["buckets"] == [3, 6]


def test_an_attribution_is_called_as_it_is(run):
    code, _, err = attribute(run, function="attribution", fast=())
    assert code == 0, err
    np.testing.assert_allclose(stored(), expected(score, XS), rtol=1e-4, atol=1e-6)
    assert settings()["attribution"]["name"] == "integrated_grad(score)"
    code, out, err = attribute(run, "--as-is", function="slopes", fast=(), out="b.zarr")
    assert code == 0, err
    assert "gradients" not in out
    found = stored("attributions.slopes", "b.zarr")
    np.testing.assert_allclose(found, jax.vmap(jax.grad(score))(XS), rtol=1e-5)


def save_flawed():
    flawed = XS.copy()
    flawed[[3, 5]] = np.nan
    np.save("flawed.npy", flawed)


def test_failed_examples_are_recorded_and_told(run):
    save_flawed()
    code, out, err = attribute(run, data="flawed.npy")
    assert code == 1
    assert "18 of 20 examples attributed" in out
    assert "2 failed: igjax inspect attr.zarr tells why." in out
    assert not err
    assert attribute(run, data="flawed.npy")[0] == 1  # they have not got better


def test_it_stops_at_an_example_that_fails_if_asked_to(run):
    save_flawed()
    code, _, err = attribute(run, "--on-error", "raise", data="flawed.npy")
    assert code == 2
    assert err.startswith("Error: example ")
    assert "not finite" in err


BAD = {
    "a function without a module": (["score"], "must be module:name"),
    "a module that is not there": (["no_such_module:score"], "No module named 'no_such_module'"),
    "a name that is not there": (["my_module:scour"], "the module my_module has no 'scour'"),
    "no function": (["my_module:XS"], "function"),
    "a function to an array": (["my_module:vector"], "scalar"),
    "a function that raises": (["my_module:rugged"], "RuntimeError: too rugged (--debug"),
    "no file": (["--data", "none.npy"], "--data none.npy: there is none"),
    "a file of another kind": (["--data", "xs.txt"], "must be a .npy or .npz file"),
    "a .npy file that is none": (["--data", "fake.npy"], "magic string"),
    "a .npz file that is none": (["--data", "fake.npz"], "is no .npz file"),
    "a folder that is no Zarr": (["--data", "folder"], "no Zarr array, nor a group"),
    "an object beside a file": (["--data", "xs.npy", "--data", "my_module:XS"], "must be alone"),
    "a function in need": (["--data", "my_module:needy"], "must need no arguments: missing a"),
    "no source": (["--data", "my_module:ROOT"], "source must be"),
    "lengths that differ": (["--data", "xs.npy", "--data", "few.npy"], "equally long"),
    "two rules": (["--nodes", "8", "--max-evals", "80"], "or --max-evals, for a tolerance"),
    "no tolerance": (["--rtol", "0"], "rtol or atol must be above 0"),
    "a negative tolerance": (["--rtol", "-1"], "rtol must be at least 0"),
    "no nodes": (["--nodes", "0"], "at least 1"),
    "a baseline in need of settings": (["--baseline", "blurred"], "a number, zeros or module:name"),
    "a baseline that nobody knows": (["--baseline", "black"], "a number, zeros or module:name"),
    "a rule beside an attribution": (
        ["my_module:attribution", "--max-evals", "9"],
        "my_module:attribution is an attribution, and has a method of its own: --max-evals is for",
    ),
    "a baseline beside an attribution": (
        ["my_module:slopes", "--as-is", "--baseline", "zeros"],
        "--baseline is for a function to be attributed",
    ),
    "a path that is none": (["--path", "my_module:XS"], "path must be a function"),
    "no batch": (["--batch-size", "0"], "auto or a number of at least 1"),
    "a batch in words": (["--batch-size", "many"], "auto or a number of at least 1"),
    "a field that nobody knows": (["--field", "colour"], "fields must be some of"),
    "a bucket that is none": (["--bucket", "0"], "a bucket must be at least 1"),
    "a module beside none": ([".my_module:score"], "must be module:name"),
    "a tolerance without end": (["--rtol", "inf"], "--rtol must be at most 1.79"),
    "an absolute one": (["--rtol", "0.1", "--atol", "1e400"], "--atol must be at most 1.79"),
    "more nodes than memory": (["--nodes", f"{10**10}"], "--nodes must be at most 100000;"),
    "more gradients": (["--max-evals", f"{10**18}"], "--max-evals must be at most 100000;"),
    "a baseline that is no number": (["--baseline", "nan"], "--baseline must be finite; got nan"),
    "more examples than can be": (
        ["--data", "my_module:Nested.endless"],
        "source must have at most 10000000000 examples; its length is 10000000000000.",
    ),
    "a function that ends all": (["my_module:leaving"], "ended by sys.exit(0): not all is done"),
    "data that ends all": (["--data", "my_module:leaving"], "ended by sys.exit(0)"),
    "a pipe": (["--data", "pipe.npy"], "--data pipe.npy is neither a file nor a folder"),
    "a packed pipe": (["--data", "pipe.npz"], "is neither a file nor a folder"),
    "more than memory holds": (["--data", "bomb.npz"], "bomb.npz unpacks to 5.0 GiB of memory"),
    "pickled objects": (["--data", "objects.npz"], "Object arrays cannot be loaded"),
    "less than is claimed": (["--data", "torn.npz"], "torn.npz is damaged: x.npy lacks data"),
    "large chunks": (["--data", "large.zarr"], "has chunks of 3.73e+04 GiB"),
    "metadata that is none": (["--data", "torn.zarr"], "has a zarr.json that is damaged"),
}


def save_hostile(folder):
    """Files that claim what they do not have, or never end."""
    for name in ("pipe.npy", "pipe.npz"):
        os.mkfifo(folder / name)
    header = io.BytesIO()
    claimed = {"descr": "<f4", "fortran_order": False, "shape": (10**10,)}
    np.lib.format.write_array_header_1_0(header, claimed)
    with zipfile.ZipFile(folder / "torn.npz", "w") as archive:
        for name in ("x.npy", "y.npy"):
            archive.writestr(name, header.getvalue())
    packed = bytearray((folder / "torn.npz").read_bytes())
    for entry in re.finditer(b"PK\x01\x02", packed):  # of the list at the end, each has a size
        packed[entry.start() + 24 : entry.start() + 28] = (5 * 2**29).to_bytes(4, "little")
    (folder / "bomb.npz").write_bytes(packed)
    np.savez(folder / "objects.npz", x=np.full(100, None))
    zarr.save_array(folder / "large.zarr", XS, zarr_format=3)
    metadata = json.loads((folder / "large.zarr" / "zarr.json").read_text())
    metadata["shape"][0] = 10**13
    metadata["chunk_grid"]["configuration"]["chunk_shape"] = [10**13, 1]
    (folder / "large.zarr" / "zarr.json").write_text(json.dumps(metadata))
    (folder / "torn.zarr").mkdir()
    (folder / "torn.zarr" / "zarr.json").write_text(10**5 * "[")


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_told_in_a_line(what, run, folder):
    options, message = BAD[what]
    save_two()
    np.save("few.npy", SCALES[:3])
    (folder / "folder").mkdir()
    save_hostile(folder)
    for name in ("xs.txt", "fake.npy", "fake.npz"):
        (folder / name).write_text("nothing that it should be")
    function = [] if ":" in options[0] or options[0] == "score" else ["my_module:score"]
    data = [] if "--data" in options else ["--data", "xs.npy"]
    code, out, err = run("attribute", *function, *options, *data, "--out", "attr.zarr")
    assert code == 2
    assert not out
    assert err.startswith("Error: ") and err.count("\n") == 1, err
    assert message in err


def test_usage_is_told_in_a_line(run):
    for arguments in (["attribute", "my_module:score"], ["paint"], ["inspect", "a", "--colour"]):
        code, _, err = run(*arguments)
        assert code == 2
        assert err.splitlines()[-1].startswith("Error: ")


def test_debug_shows_the_traceback(run):
    code, _, err = run(
        "attribute", "my_module:rugged", "--data", "my_module:XS", "--out", "attr.zarr", "--debug"
    )
    assert code == 2
    assert "Traceback" in err and "to stand on" in err


def test_the_same_command_goes_on_unless_told_not_to(run):
    assert attribute(run)[0] == 0
    code, out, _ = attribute(run)
    assert code == 0
    assert "in this run 0" in out
    code, _, err = attribute(run, "--no-resume")
    assert code == 2
    assert err.startswith("Error: attr.zarr holds attributions already")


def test_a_store_is_not_made_over_something_else(run, folder):
    (folder / "papers" / "error").mkdir(parents=True)
    (folder / "papers" / "error" / "thesis.tex").write_text("ten years")
    (folder / "papers" / "zarr").mkdir()
    code, _, err = attribute(run, out="papers")
    assert code == 2 and err.count("\n") == 1
    assert err.startswith("Error: papers is not empty, and no store that igjax has begun: it holds")
    assert (folder / "papers" / "error" / "thesis.tex").read_text() == "ten years"
    (folder / "notes.txt").write_text("mine")
    code, _, err = attribute(run, out="notes.txt")
    assert code == 2 and err.startswith("Error: notes.txt is a file, or in the place of a folder")
    assert attribute(run)[0] == 0
    (folder / "attr.zarr" / "zarr.json").write_text("")
    for options in ((), ("--no-resume",)):
        code, _, err = attribute(run, *options)
        assert code == 2 and err.startswith("Error: attr.zarr holds a zarr.json that is damaged")
    assert run("inspect", "attr.zarr")[0] == 2


def test_what_cannot_be_written_has_a_code_of_its_own(run, monkeypatch):
    def write(*_):
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(_store.Store, "write", write)
        code, _, err = attribute(run)
    assert code == 3
    assert err == "Error: the disk is full\n"
    assert attribute(run)[0] == 0


def test_ctrl_c_has_the_code_of_shells_and_the_same_command_goes_on(run, monkeypatch):
    code, _, err = attribute(run, data="my_module:Interrupted")
    assert code == 130
    assert err.startswith("Interrupted: the same command goes on.")
    monkeypatch.setattr(Interrupted, "__getitem__", lambda self, index: XS[index % 20])
    code, out, _ = attribute(run, data="my_module:Interrupted")
    assert code == 0
    assert "4000 of 4000 examples attributed" in out


def test_an_interrupt_before_anything_is_written_promises_nothing(run, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["my_module"], "examples", interrupted)
    code, _, err = attribute(run, data="my_module:examples")
    assert (code, err) == (130, "Interrupted.\n")


def test_progress_is_logged_unless_it_is_to_be_quiet(run, monkeypatch, caplog):
    monkeypatch.setattr(_progress, "LOG_EVERY", 0.0)
    assert attribute(run, "--quiet")[0] == 0
    assert not caplog.messages
    assert attribute(run, out="b.zarr")[0] == 0
    assert "20 of 20 examples" in caplog.messages[-1]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("too few"), "too few"),
        (ValueError(), "ValueError"),
        (KeyError("x"), "KeyError: 'x'"),
        (TypeError("no\nnumber"), "no (--debug shows more)"),
        (OSError(600 * "a"), 500 * "a" + " … (--debug shows more)"),
        (SystemExit(0), "what was loaded or called ended by sys.exit(0): not all is done."),
    ],
)
def test_errors_are_told_in_a_line(error, line):
    assert _exits.one_line(error) == line


# In a process of its own.

MODULE = """
import jax.numpy as jnp
import numpy as np
import os, signal

def score(x):
    return jnp.sum(x**2)

class Terminated:
    number = signal.SIGTERM

    def __len__(self):
        return 4000

    def __getitem__(self, index):
        if index == 3999:
            os.kill(os.getpid(), self.number)
        return np.ones(3, np.float32)

class Interrupted(Terminated):
    number = signal.SIGINT
"""


def process(*arguments, cwd):
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
    )


def test_a_module_of_the_current_folder_in_a_process_of_its_own(folder):
    (folder / "users.py").write_text(MODULE)
    np.save("xs.npy", XS)
    words = ["-m", "igjax", "attribute", "users:score", *FAST, "--out", "attr.zarr", "--data"]
    done = process(*words, "xs.npy", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "20 of 20 examples attributed" in done.stdout
    np.testing.assert_allclose(stored(), XS**2, rtol=1e-2, atol=1e-6)
    for name, number in {"Terminated": signal.SIGTERM, "Interrupted": signal.SIGINT}.items():
        ended = process(*words[:-2], f"{name}.zarr", "--data", f"users:{name}", cwd=folder)
        assert ended.returncode == -number  # of which shells make 143 and 130
        assert "the same call goes on" in ended.stderr


def test_help_imports_nothing_of_what_commands_need():
    script = """
import sys
import igjax._cli
assert "typer" not in sys.modules
try:
    igjax._cli.main()
except SystemExit as end:
    assert not end.code
print([m for m in ("igjax.dataset", "tensorstore", "igjax._cli._attribute") if m in sys.modules])
"""
    done = process("-c", script, "attribute", "--help", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "DATA holds the examples" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_tells_the_exit_codes(run):
    code, out, _ = run("--help")
    assert code == 0
    for number in (_exits.OK, _exits.SOME_FAILED, _exits.BAD_INPUT, _exits.NOT_WRITTEN, 130, 143):
        assert f"\n    {number} " in out


def test_without_typer_it_says_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "typer", None)
    code, out, err = run("inspect", "attr.zarr")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1 and "pip install 'igjax[dataset]'" in err
    assert "igjax doctor works without it" in err
    monkeypatch.setattr(_doctor, "results", lambda debug: iter([_doctor.Result("all", True, "")]))
    code, out, _ = run("doctor")
    assert code == 0 and "ok      all" in out


STEERING = "\x1b]0;title\x07\x1b[2Jboo\x9b\u202e"
SHOWN = r"\x1b]0;title\x07\x1b[2Jboo\x9b\u202e"


class Steering(list):
    """Examples that can't be read, for a reason that would steer a terminal."""

    def __getitem__(self, index):
        if index == 1:
            raise ValueError(STEERING)
        return super().__getitem__(index)


def test_nothing_from_outside_steers_a_terminal(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(sys.modules["my_module"], "examples", lambda: Steering(XS))
    name = "a\x1b[2Jb.zarr"
    code, out, err = attribute(run, data="my_module:examples", out=name)
    assert code == 1 and r"in a\x1b[2Jb.zarr" in out
    group = zarr.open_group(name)
    made = json.loads(json.dumps(group.attrs["made_with"]))
    made[0]["device"] = "[bold]" + STEERING
    group.attrs["made_with"] = made
    told = [out, err, *run("inspect", name)[1:]]
    assert SHOWN in told[2] and "[bold]" in told[2]
    (failure,) = facts_of(run, name)["failures"]
    assert failure["reason"] == f"ValueError: {STEERING}"  # as it is, in JSON's own escapes
    raised = attribute(run, "--on-error", "raise", data="my_module:examples", out="b.zarr")
    told += [*raised[1:], *run("inspect", name, "--json")[1:], *run("inspect", STEERING)[1:]]
    assert SHOWN in raised[2]
    told += attribute(run, "--debug", data=f"{STEERING}.npy", out="c.zarr")[1:]
    assert told[-1].count("\n") > 3  # the lines of a traceback
    assert all(char == "\n" or char.isprintable() for text in told for char in text)


def test_lines_of_the_log_do_not_steer_a_terminal_either():
    record = logging.LogRecord("igjax", logging.INFO, "", 0, "in %s", (f"{STEERING}\n",), None)
    assert _attribute._Lines("%(message)s").format(record) == rf"in {SHOWN}\n"


def test_no_color_means_none(run, flawed_store, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "\x1b" in run("inspect", flawed_store)[1]
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in run("inspect", flawed_store)[1]


def test_a_locale_without_the_letters_is_no_error(flawed_store, monkeypatch, capsys):
    stdout = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "argv", ["igjax", "inspect", str(flawed_store)])
    with capsys.disabled(), monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        with pytest.raises(SystemExit) as exit_info:
            command()
    stdout.seek(0)
    assert not exit_info.value.code
    assert "argument 0 is not finite." in stdout.read()


# inspect


@pytest.fixture(scope="module")
def flawed_store(tmp_path_factory):
    """A store with 20 examples, two of which have failed."""
    flawed = list(XS)
    flawed[3] = np.full(3, np.nan, np.float32)
    flawed[5] = np.ones(4, np.float32)
    out = tmp_path_factory.mktemp("stores") / "flawed.zarr"
    rule = igjax.quadrature.to_tolerance()
    tolerant = igjax.integrated_grad(score, rule=rule, has_report=True)
    attribute_dataset(tolerant, flawed, out=out, batch_size=4, progress=False)
    return out


def facts_of(run, out, *options):
    code, text, err = run("inspect", out, "--json", *options)
    assert code == 0, err
    return json.loads(text)


def test_inspect_tells_numbers(run, flawed_store):
    facts = facts_of(run, flawed_store)
    done = stored("status", flawed_store) == 1
    assert facts["progress"] == {"examples": 20, "done": 18, "failed": 2, "pending": 0}
    assert facts["versions"]["igjax"] == igjax.__version__
    assert facts["fingerprints"]["attribution"]["name"] == "integrated_grad(score)"
    assert facts["settings"]["batch_size"] == 4
    assert facts["converged"] == 1.0
    assert facts["reasons"] == {"max_evals": 0, "precision": 0, "not_finite": 0}
    error = stored("error", flawed_store)[done].astype(np.float64)
    found = facts["distributions"]["error"]
    assert found["not_finite"] == 0
    for name, share in _facts.QUANTILES.items():
        assert found[name] == pytest.approx(np.quantile(error, share))
    value, baseline_value, gap = (
        stored(name, flawed_store)[done].astype(np.float64)
        for name in ("value", "baseline_value", "completeness_gap")
    )
    largest = np.max(np.abs(gap) / np.abs(value - baseline_value))
    assert facts["distributions"]["relative_completeness_gap"]["max"] == pytest.approx(largest)
    evals = stored("num_evals", flawed_store)[done]
    assert facts["distributions"]["num_evals"]["median"] == np.median(evals)


def test_inspect_tells_failures(run, flawed_store):
    first, second = facts_of(run, flawed_store)["failures"]
    assert (first["example"], second["example"]) == (3, 5)
    assert first["reason"] == "argument 0 is not finite."
    assert "(4,)" in second["reason"]
    assert facts_of(run, flawed_store, "--failures", "1")["failures"] == [first]
    assert facts_of(run, flawed_store, "--failures", "0")["failures"] == []


def test_inspect_shows_tables(run, flawed_store, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    code, out, err = run("inspect", flawed_store, "--failures", "1")
    assert (code, err) == (0, "")
    for part in (
        "name integrated_grad(score)",
        "batch_size",
        "pending",
        "95%",
        "failures, 1 of 2",
        "not finite.",
    ):
        assert part in out


def test_inspect_tells_why_some_did_not_converge(run, monkeypatch):
    assert attribute(run, fast=("--rtol", "1e-6", "--max-evals", "18"))[0] == 0
    facts = facts_of(run, "attr.zarr")
    missing = round(20 * (1 - facts["converged"]))
    assert facts["reasons"]["max_evals"] == missing > 0
    assert f"ended by max evals {missing}" in " ".join(
        run("inspect", "attr.zarr")[1].replace("│", " ").split()
    )


def test_verify_attributes_rows_again(run):
    np.save("xs.npy", XS)
    assert attribute(run, data="xs.npy")[0] == 0
    again = ("--data", "xs.npy", "--nodes", "16")
    code, out, err = run("verify", "attr.zarr", "my_module:score", *again)
    assert (code, err) == (0, "")
    assert out.startswith("10 of 10 examples come out as they are in the store. ")
    np.save("xs.npy", np.where(np.arange(20)[:, None] == 7, 5, XS).astype(np.float32))
    code, out, _ = run("verify", "attr.zarr", "my_module:score", *again, "--examples", "20")
    assert code == 1
    assert out.startswith("19 of 20 examples come out")
    assert "example 7: distance " in out
    code, _, err = run("verify", "nowhere.zarr", "my_module:score", *again)
    assert code == 2
    assert "no store of attributions in nowhere.zarr" in err


def test_reasons_are_shown_as_they_are(run, monkeypatch):
    class Odd(list):
        def __getitem__(self, index):
            if index == 1:
                raise ValueError("[bold]ä" + 300 * "ö")
            return super().__getitem__(index)

    attribute_dataset(attribution, Odd(XS), out="attr.zarr", progress=False)
    monkeypatch.setenv("COLUMNS", "300")
    assert "ValueError: [bold]äö" in run("inspect", "attr.zarr")[1]
    (failure,) = facts_of(run, "attr.zarr")["failures"]
    assert failure["reason"].rstrip("ö") == "ValueError: [bold]ä"


def test_inspect_of_what_has_no_error_estimate(run):
    assert attribute(run, fast=("--nodes", "33"))[0] == 0
    facts = facts_of(run, "attr.zarr")
    assert facts["distributions"]["error"] == dict.fromkeys(_facts.QUANTILES) | {"not_finite": 20}
    assert facts["distributions"]["num_evals"]["max"] == 33.0
    rows = [line.split() for line in run("inspect", "attr.zarr")[1].splitlines()]
    assert [row[3] for row in rows if "max" in row] == ["-"]
    assert [row[4] for row in rows if "finite" in row] == ["20"]


def test_inspect_of_few_fields(run):
    assert attribute(run, "--field", "num_evals")[0] == 0
    facts = facts_of(run, "attr.zarr")
    assert list(facts["distributions"]) == ["num_evals"]
    assert facts["converged"] is None
    assert facts["reasons"] is None
    assert run("inspect", "attr.zarr")[0] == 0
    assert attribute(run, "--field", "attributions", out="b.zarr")[0] == 0
    assert facts_of(run, "b.zarr")["distributions"] == {}
    assert run("inspect", "b.zarr")[0] == 0


def test_inspect_of_several_outputs(run):
    both = igjax.integrated_jacobian(
        lambda x: {"sum": score(x), "all": jnp.sin(x)}, rule=RULE, has_report=True
    )
    attribute_dataset(both, XS, out="attr.zarr", batch_size=4, progress=False)
    found = facts_of(run, "attr.zarr")["distributions"]
    gap = "relative_completeness_gap"
    assert list(found) == ["error.all", f"{gap}.all", "error.sum", f"{gap}.sum", "num_evals"]
    assert found["error.sum"]["max"] == pytest.approx(stored("error.sum").max())
    assert run("inspect", "attr.zarr")[0] == 0


def test_inspect_of_a_run_that_is_not_done(run):
    assert attribute(run, data="my_module:Interrupted")[0] == 130
    progress = facts_of(run, "attr.zarr")["progress"]
    assert progress["done"] > 0 and progress["pending"] > 0
    assert progress["done"] + progress["pending"] == 4000
    assert run("inspect", "attr.zarr")[0] == 0


def test_inspect_of_a_stream_that_is_not_done(run):
    def stream():
        yield from XS
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attribute_dataset(attribution, stream(), out="attr.zarr", batch_size=4, progress=False)
    progress = facts_of(run, "attr.zarr")["progress"]
    assert (progress["examples"], progress["pending"]) == (None, None)
    assert "not known" in run("inspect", "attr.zarr")[1]


def test_inspect_of_a_store_with_nothing_done(run, flawed_store):
    attributes = _creation.found(str(flawed_store))
    field = {"dtype": "float32", "shape": []}
    attributes |= {"fields": {"error": field}, "length": 4, "block": 2}
    assert _creation.begin("attr.zarr", attributes)
    code, _, err = run("inspect", "attr.zarr")  # of what a run leaves that is killed early
    assert (code, err) == (2, "Error: there is no store of attributions in attr.zarr.\n")
    _creation.complete("attr.zarr", attributes)
    facts = facts_of(run, "attr.zarr")
    assert facts["progress"] == {"examples": 4, "done": 0, "failed": 0, "pending": 4}
    assert facts["distributions"]["error"]["max"] is None
    assert run("inspect", "attr.zarr")[0] == 0


def test_inspect_of_what_is_no_store(run, folder):
    code, _, err = run("inspect", "none.zarr")
    assert (code, err) == (2, "Error: there is no store of attributions in none.zarr.\n")
    assert not (folder / "none.zarr").exists()
    zarr.save_group("other.zarr", a=XS)
    code, _, err = run("inspect", "other.zarr")
    assert code == 2 and "none that igjax has made" in err


def test_gaps_are_relative_to_the_difference_of_the_values():
    gap, value = np.array([0.1, 0.0, 0.1, np.nan]), np.array([2.0, 1.0, 1.0, 1.0])
    found = _facts.relative_gap(gap, value, np.ones(4))
    np.testing.assert_array_equal(found, [0.1, 0.0, np.inf, np.nan])
    assert _facts.distribution(found)["not_finite"] == 2
    assert _facts.distribution(found)["median"] == 0.05


# doctor


def test_doctor_finds_that_all_is_well(run):
    code, out, err = run("doctor")
    assert (code, err) == (0, "")
    assert out.count("\nok ") == 6 and "failed" not in out
    assert "\n[dataset]    installed: attribute_dataset and verify, and the commands " in out
    for package in ("igjax", "jax", "tensorstore"):
        version = igjax.__version__ if package == "igjax" else importlib.metadata.version(package)
        assert f"{package:<12} {version}\n" in out


def test_doctor_says_what_an_extra_would_add(monkeypatch):
    extra = _doctor.Extra("the commands", ("jax", "no-such-package"))
    monkeypatch.setitem(_doctor.EXTRAS, "dataset", extra)
    assert _doctor._there("dataset", extra) == (
        "lacks no-such-package; pip install 'igjax[dataset]' adds the commands"
    )
    monkeypatch.setattr(_doctor, "_close", lambda *_: "")
    monkeypatch.setattr(_doctor, "integrated_grad", lambda *_, **__: lambda x: x)
    assert "attribute_dataset, temporary folder" not in [
        r.name for r in _doctor.results(debug=False)
    ]


def test_doctor_knows_the_extras():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name, extra in _doctor.EXTRAS.items():
        bounds = project["optional-dependencies"][name]
        assert [bound.partition(">")[0].partition("=")[0] for bound in bounds] == [*extra.packages]


def test_doctor_tells_what_is_wrong(run, monkeypatch):
    monkeypatch.setattr(_doctor, "PACKAGES", ("jax", "no-such-package"))
    monkeypatch.setattr(_doctor, "_expected", lambda x: 1.01 * x)
    code, out, err = run("doctor", "--debug")
    assert code == 1
    assert "no-such-package not installed" in out
    assert "failed  x64 on: off by" in out
    assert "Traceback" in err


def test_doctor_expects_what_the_definition_says():
    x = np.array([0.5, 1.0, 2.0])
    alphas = (np.arange(10_000) + 0.5) / 10_000
    gradients = np.exp(np.outer(alphas, _doctor._WEIGHTS * x).sum(axis=1))[:, None]
    defined = x * np.mean(gradients * _doctor._WEIGHTS, axis=0)
    np.testing.assert_allclose(_doctor._expected(x), defined, rtol=1e-6)


def test_names_are_loaded_from_the_current_folder(folder, monkeypatch):
    (folder / "only_here.py").write_text("class A:\n    b = 7\n")
    (folder / "colorsys.py").write_text("raise RuntimeError('in place of an installed one')")
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    assert _named.load("only_here:A.b") == 7
    assert _named.load("colorsys:hls_to_rgb")(0, 1, 0) == (1, 1, 1)
    assert sys.path[-1] == str(folder)


def test_baselines_that_take_x_alone_have_a_name():
    assert _attribute.baseline_of("zeros") is igjax.baselines.zeros
