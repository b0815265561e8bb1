"""The benchmark's own parts, on networks of a few weights; nothing here is timed."""

import itertools
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

pytest.importorskip("rich", reason="rich is in the extra bench")
pytest.importorskip("matplotlib", reason="matplotlib is in the extra bench")

from benchmarks import __main__ as command
from benchmarks import _machine, _render, _results, _timing, networks, reference
from benchmarks.measures import MEASURES, _answers, _measure, accuracy, tolerance
from benchmarks.measures._measure import Claim, Settings
from benchmarks.networks import Network
from igjax import quadrature

SIZE = 3


def tiny(count, scale=1.0):
    """exp(a · x) and (a · x)², whose integrated gradients along a line from 0 are known."""
    rng = np.random.default_rng(0)
    params = jnp.asarray(rng.uniform(0.5, 1.0, SIZE) * scale, jnp.float32)
    xs = rng.uniform(0.5, 2.0, (count, SIZE)).astype(np.float32)

    def torch_outputs():
        import torch

        weights = torch.tensor(np.asarray(params))
        return {
            "probability": lambda x, offset: torch.exp(x @ weights + offset),
            "logit": lambda x, offset: (x @ weights + offset) ** 2,
        }

    return Network(
        name="Tiny",
        params=params,
        outputs={
            "probability": lambda params, x, offset: jnp.exp(
                checkpoint_name(params * x, "products").sum() + offset.astype(x.dtype)
            ),
            "logit": lambda params, x, offset: (params @ x + offset.astype(x.dtype)) ** 2,
        },
        xs=xs,
        baselines=np.zeros_like(xs),
        extras=(np.linspace(0.0, 0.5, count, dtype=np.float32),),
        torch_outputs=torch_outputs,
    )


def exact(network, index):
    """In closed form: the part of ``F(x) - F(0)`` in proportion to ``a_i x_i``."""
    products = np.asarray(network.params, np.float64) * network.xs[index].astype(np.float64)
    total, offset = products.sum(), float(network.extras[0][index])
    share = products / total
    return {
        "probability": share * (math.exp(total + offset) - math.exp(offset)),
        "logit": share * ((total + offset) ** 2 - offset**2),
    }


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def tiny_everywhere(cache, monkeypatch):
    """Every measure gets the tiny network, and those of the D-MPNN its references."""
    monkeypatch.setattr(networks, "load", lambda name, count: tiny(count))
    _measure.load.cache_clear()
    _answers._answers.clear()
    nodes = _answers._OTHER_QUICK_NODES
    reference.fill("dmpnn", tiny(_answers.INPUTS[1]), nodes, lambda line: None)
    yield
    _measure.load.cache_clear()
    _answers._answers.clear()


def no_track(items, description):
    return items


# Timing


def test_functions_are_timed_in_turn_and_every_second_round_backwards():
    calls = []
    functions = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = _timing.interleaved(functions, rounds=3)
    assert "".join(calls) == "abc" + "abc" + "cba" + "abc"  # the first to warm up
    assert {name: len(column) for name, column in times.items()} == {"a": 3, "b": 3, "c": 3}


def test_there_are_more_rounds_until_the_seconds_are_up(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(_timing.time, "perf_counter", lambda: float(next(clock)))
    times = _timing.interleaved({"a": lambda: None}, rounds=2, at_least=14.0, warm_up=False)
    # The clock is looked at once before all, twice in each round, and once before those after the
    # second: at 0; 1, 2; 3, 4; 5, 6, 7; 8, 9, 10; 11, 12, 13; and 14 is too late.
    assert times["a"] == [1.0] * 5


def test_ratios_are_those_of_the_rounds():
    times = {"a": [1.0, 10.0, 3.0], "b": [2.0, 20.0, 1.0]}
    assert _timing.ratio(times, "a", "b") == 0.5
    assert _timing.medians(times) == {"a": 3.0, "b": 2.0}


# What is compared


def test_what_is_written_by_hand_agrees_with_igjax():
    network = tiny(2)
    output, rule = network.outputs["probability"], quadrature.gregory(64)
    args = (network.params, *_measure.example(network, 1))
    igjax = jax.jit(_measure.by_igjax(output, rule=rule))(*args)
    np.testing.assert_allclose(igjax, exact(network, 1)["probability"], rtol=1e-5)
    np.testing.assert_allclose(jax.jit(_measure.by_hand(output, rule))(*args), igjax, rtol=1e-5)
    np.testing.assert_allclose(_measure.by_loop(output, rule, 4)(*args), igjax, rtol=1e-5)
    mapped = _measure.mapped(_measure.by_hand(output, rule), network)
    batch = mapped(network.params, *_measure.batch(network, 2))
    np.testing.assert_allclose(batch[1], igjax, rtol=1e-5)


def test_the_main_output_is_the_probability_or_the_first():
    outputs = {"cosine": 1, "probability": 2}
    assert _measure.main_output(SimpleNamespace(outputs=outputs)) == 2
    assert _measure.main_output(SimpleNamespace(outputs={"cosine": 1, "logit": 3})) == 1


def test_gauss_legendre_is_restarted_until_two_answers_agree():
    answers = {16: 2.0, 32: 1.2, 64: 1.0, 128: 1.01}
    asked = []

    def attributions(nodes):
        asked.append(nodes)
        return {"logit": np.array([answers[nodes]])}

    evals, agreed, answer = tolerance.restart(attributions, "logit", 0.05, 1024)
    assert (evals, agreed, answer.item()) == (16 + 32 + 64 + 128, True, 1.01)
    assert asked == [16, 32, 64, 128]
    assert tolerance.restart(attributions, "logit", 0.05, 64)[:2] == (16 + 32 + 64, False)


def test_the_rule_of_both_ends_is_that_of_saliency():
    rule = accuracy.both_ends(5)
    np.testing.assert_array_equal(rule.nodes, [0.0, 0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(rule.weights, 0.2)


@pytest.mark.parametrize(
    ("failing", "enough", "looks"), [(0, True, 20), (1, True, 20), (2, False, 2)]
)
def test_19_of_20_are_enough_and_no_more_is_looked_at_than_need_be(failing, enough, looks):
    seen = []

    def error(index):
        seen.append(index)
        return math.nan if index < failing else 0.01

    assert accuracy._enough(error, 20) is enough
    assert len(seen) == looks


def test_the_time_to_accuracy_is_that_of_answers_that_are_accurate():
    def records(network, output, ratio, within=1.0):
        own = {"network": network, "output": output, "within": within}
        return [
            own | {"library": accuracy.ASKED, "seconds": 1.0},
            own | {"library": accuracy.RESTARTED, "seconds": ratio},
        ]

    assert accuracy.claims(records("mlp", "logit", 5.0)) == []  # real networks alone count
    found = records("dmpnn", "logit", 2.0) + records("dmpnn", "probability", 8.0)
    found += records("marian", "logit", 1.0)
    claims = {claim.text.rpartition(", ")[2]: claim for claim in accuracy.claims(found)}
    assert claims["dmpnn"].measured == pytest.approx(4.0)
    assert claims["dmpnn"].met
    assert not claims["marian"].met
    assert claims["geometric mean of the networks"].measured == pytest.approx(2.0)
    found += records("minilm", "logit", 100.0, within=0.9)
    claims = {claim.text.rpartition(", ")[2]: claim for claim in accuracy.claims(found)}
    assert claims["minilm"].measured is None
    assert claims["geometric mean of the networks"].measured is None


# References


def test_a_reference_is_exact_and_knows_by_how_much_half_the_nodes_change_it():
    network = tiny(1)
    with jax.enable_x64(True):
        found = reference.compute(network, 0, 250)
        coarse = reference.compute(network, 0, 6)  # less than a chunk
    for name, attributions in exact(network, 0).items():
        assert found[name].dtype == np.float64
        np.testing.assert_allclose(found[name], attributions, rtol=1e-7)
    total, six = network.params @ network.xs[0], quadrature.gregory(6)
    values = np.exp(float(total) * six.nodes)
    of_three, of_six = six.embedded_weights @ values, six.weights @ values
    np.testing.assert_allclose(coarse["change"][0], abs(of_three / of_six - 1), rtol=1e-4)


def test_references_are_saved_one_by_one_and_gone_on_with(cache, monkeypatch):
    network, computed, compute = tiny(3), [], reference.compute

    def counting(network, index, *args):
        if len(computed) == 2:
            raise KeyboardInterrupt
        computed.append(index)
        return compute(network, index, *args)

    monkeypatch.setattr(reference, "compute", counting)
    with pytest.raises(KeyboardInterrupt):
        reference.fill("tiny", network, 16, lambda line: None)
    assert computed == [0, 1]
    computed.clear()
    lines = []
    reference.fill("tiny", network, 16, lines.append)
    assert computed == [2]
    assert [line.partition(":")[0] for line in lines] == ["tiny 0", "tiny 1", "tiny 2"]

    monkeypatch.delattr(reference.subprocess, "Popen")  # all are there: no process is started
    found = reference.references("tiny", network, 16, no_track)
    for index in range(3):
        np.testing.assert_allclose(found[index]["logit"], exact(network, index)["logit"], rtol=1e-5)


def test_references_of_other_weights_or_inputs_do_not_count(cache):
    reference.fill("tiny", tiny(2), 16, lambda line: None)
    path = reference._path("tiny", "reference-16", 1)
    assert reference._load(path, tiny(2), 1) is not None
    assert reference._load(path, tiny(2, scale=1.001), 1) is None
    assert reference._load(path, tiny(2), 0) is None
    rounded = tiny(2)._replace(params=tiny(2).params * np.float32(1 + 2e-7))
    assert reference._load(path, rounded, 1) is not None


def test_answers_by_fixed_rules_are_kept_too(cache, monkeypatch):
    network = tiny(1)
    first = reference.by_rule("tiny", network, quadrature.gauss_legendre)(0, 20)
    np.testing.assert_allclose(first["probability"], exact(network, 0)["probability"], rtol=1e-5)
    monkeypatch.delattr(reference, "_integrals")  # what is there is not computed
    again = reference.by_rule("tiny", network, quadrature.gauss_legendre)(0, 20)
    np.testing.assert_array_equal(again["logit"], first["logit"])


# The measures


@pytest.mark.parametrize(
    "name",
    [
        "overhead",
        "chunking",
        "scaling",
        "affine",
        "layers",
        "tolerance",
        "families",
        pytest.param("gradient", marks=pytest.mark.slow),
        pytest.param("accuracy", marks=pytest.mark.slow),
        pytest.param("dataset", marks=pytest.mark.slow),
    ],
)
def test_a_measure_makes_records_that_its_tables_and_claims_can_read(
    name, tiny_everywhere, tmp_path, monkeypatch
):
    if name in ("gradient", "accuracy", "dataset"):
        pytest.importorskip("torch", reason="torch is in the extra bench")
    if name in ("accuracy", "dataset"):
        pytest.importorskip("captum", reason="captum is in the extra bench")
    monkeypatch.setattr(_measure.Settings, "seconds", 0.0)
    measure = MEASURES[name]
    network = "dmpnn" if "dmpnn" in measure.NETWORKS else measure.NETWORKS[0]
    run = _results.new_run({"date": "today", "quick": True, "machine": {}, "versions": {}})
    _results.add({}, name, run, network, measure.run(Settings(network, True), no_track))
    _results.write(tmp_path / "results.json", {name: [run]})
    found = _results.records(_results.read(tmp_path / "results.json")[name])
    (table,) = measure.tables(found)
    assert table.rows
    assert {len(row) for row in table.rows} == {len(table.header)}
    assert all(claim.measured is not None for claim in measure.claims(found))


def test_a_claim_is_met_or_missed():
    assert Claim("", 1.0, 1.0).met
    assert not Claim("", 1.1, 1.0).met
    assert Claim("", 1.1, 1.0, at_least=True).met
    assert not Claim("", 0.9, 1.0, at_least=True).met
    assert not Claim("", None, 1.0).met


# Results


def about(**changes):
    machine = {"cpu": "A CPU", "cores": "2", "memory": "8 GiB", "platform": "Linux x86_64"}
    return {"date": "2026-01-02", "quick": False, "machine": machine, "versions": {}} | changes


def import_record(ratio):
    return {"seconds": {"jax": 1.0, "igjax": ratio}, "ratio": ratio}


def test_a_later_run_replaces_what_it_measures_anew_and_keeps_the_rest():
    results = {}
    first = _results.new_run(about())
    for network in ("mlp", "cnn"):
        _results.add(results, "affine", first, network, [{"value": 1}])
    second = _results.new_run(about())
    _results.add(results, "affine", second, "cnn", [{"value": 2}, {"value": 3}])
    assert _results.records(results["affine"]) == [
        {"network": "mlp", "value": 1},
        {"network": "cnn", "value": 2},
        {"network": "cnn", "value": 3},
    ]
    third = _results.new_run(about())
    _results.add(results, "affine", third, "mlp", "an error")
    # The error is told, and does not throw away what there is.
    assert {"network": "mlp", "value": 1} in _results.records(results["affine"])
    assert results["affine"][-1]["errors"] == {"mlp": "an error"}
    fourth = _results.new_run(about())
    _results.add(results, "affine", fourth, "mlp", [{"value": 4}])
    assert results["affine"] == [second, fourth]  # nothing is left of the others


def test_results_are_read_as_they_were_written(tmp_path):
    path = tmp_path / "results.json"
    assert _results.read(path) == {}
    run = _results.new_run(about())
    record = {
        "nan": math.nan,
        "pi": math.pi,
        "nested": [{"inf": math.inf}],
        "name": "x",
        "n": 10**6,
    }
    results = _results.add({}, "affine", run, "mlp", [record])
    _results.write(path, results | {"empty": []})
    (found,) = _results.read(path)["affine"]
    assert found == run | {
        "records": [
            {"network": "mlp", "nan": None, "pi": 3.142, "nested": [{"inf": None}]}
            | {"name": "x", "n": 10**6}
        ]
    }
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


@pytest.fixture
def results():
    """Two measures, on two machines."""
    chunking = {"rounds": 9, "best": "igjax 8", "best_loop": "loop 8", "difference": 1e-7}
    chunking["seconds"] = dict.fromkeys(("igjax 8", "igjax 16", "loop 8", "loop 16"), 0.25)
    run = _results.new_run(about())
    found = _results.add({}, "chunking", run, "mlp", [chunking | {"ratio": 1.1}])
    _results.add(found, "chunking", run, "cnn", [chunking | {"ratio": 1.5}])
    _results.add(found, "chunking", run, "transformer", "ValueError: no\n`such` | thing")
    elsewhere = _results.new_run(about(machine=about()["machine"] | {"cpu": "Another"}, quick=True))
    return _results.add(found, "import_time", elsewhere, "none", [import_record(1.25)])


def test_the_markdown_says_which_claims_are_met_and_where_it_was_measured(results, monkeypatch):
    missed = "chunks in one program / Python loop, cnn"
    text = _render.markdown(results)
    assert "## Claims: 1 of 2 met" in text
    assert "| chunks in one program / Python loop, mlp | ≤ 1.15 | 1.100 | met |  |" in text
    assert f"| {missed} | ≤ 1.15 | 1.500 | MISSED | not explained yet |" in text
    assert "| cnn | 250 | 250 | 250 | 250 | 1.500 | 1e-07 | 9 |" in text
    assert "**Error** on transformer: `ValueError: no 'such' | thing`" in text
    assert "*2026-01-02, on A, 0.0 min: mlp, cnn.*" in text
    assert "*2026-01-02, on B, a quick run, 0.0 min.*" in text
    assert "A: A CPU, 2 cores" in text
    assert "B: Another, 2 cores" in text
    assert "results.png" not in text  # there is nothing to draw
    assert _render.draw(results) is None
    monkeypatch.setattr(_render, "REASONS", {missed: "convolutions"})
    assert f"| {missed} | ≤ 1.15 | 1.500 | MISSED | convolutions |" in _render.markdown(results)


def test_the_screen_shows_a_table_for_each_measure_and_the_claims(results):
    tables = list(_render.screen_tables(results))
    assert [table.title for table in tables] == ["Chunking", "Import", "Claims"]
    assert [table.row_count for table in tables] == [2, 1, 2]


def test_the_picture_shows_what_there_is(tmp_path):
    timing = {"output": "logit", "library": "igjax", "seconds": 2.0}
    timings = [timing, timing | {"library": "captum", "seconds": 9.0}]
    case = {"rtol": 0.1, "error": 0.05, "converged": True}
    records = {
        "accuracy": timings,
        "tolerance": [case, case | {"rtol": 0.01}],
        "overhead": [{"ratio": 1.01}],
    }
    results = {}
    for name, found in records.items():
        _results.add(results, name, _results.new_run(about()), "mlp", found)
    figure = _render.draw(results)
    assert [axes.get_title() for axes in figure.axes] == [
        "Time to accuracy",
        "Honest tolerance",
        "Overhead",
    ]
    figure.savefig(tmp_path / "results.png")


def test_the_machine_is_known():
    assert set(_machine.machine()) == {"cpu", "cores", "memory", "platform"}
    assert all(_machine.machine().values())
    versions = _machine.versions()
    assert versions["jax"] == jax.__version__
    assert _machine._version("no-such-package") == "none"


# The command


@pytest.fixture
def fake(monkeypatch):
    """One measure in the place of that of the imports, which fails on "cnn"."""

    def run(settings, track):
        if settings.network == "cnn":
            raise ValueError("does not work")
        return [import_record(1.5 if settings.quick else 1.25) for _ in track([1], "once")]

    measure = SimpleNamespace(
        TITLE="Fake",
        __doc__="A fake.",
        NETWORKS=("mlp", "cnn", "dmpnn"),
        run=run,
        claims=lambda records: [Claim("worst", max(r["ratio"] for r in records), 1.3)],
        tables=MEASURES["import_time"].tables,
    )
    measures = {"fake": measure}
    monkeypatch.setattr(command, "MEASURES", measures)
    monkeypatch.setattr(_render, "MEASURES", measures)
    monkeypatch.setattr(command, "_use_all_cores", lambda: None)


def test_a_failure_is_told_and_the_rest_is_measured(fake, tmp_path, capsys):
    assert command.main(["--out", str(tmp_path / "new"), "--networks", "mlp", "cnn", "dmpnn"]) == 1
    (run,) = _results.read(tmp_path / "new" / "results.json")["fake"]
    assert [record["network"] for record in run["records"]] == ["mlp", "dmpnn"]
    text = (tmp_path / "new" / "RESULTS.md").read_text(encoding="utf-8")
    assert "**Error** on cnn: `ValueError: does not work`" in text
    assert "| worst | ≤ 1.3 | 1.250 | met |  |" in text
    assert "does not work" in capsys.readouterr().out


def test_a_part_is_measured_again_and_the_rest_kept(fake, tmp_path):
    out = ["--out", str(tmp_path)]
    assert command.main([*out, "--networks", "mlp", "dmpnn"]) == 0
    assert command.main([*out, "--quick", "--networks", "mlp", "--only", "fake"]) == 0
    records = _results.records(_results.read(tmp_path / "results.json")["fake"])
    assert {r["network"]: r["ratio"] for r in records} == {"mlp": 1.5, "dmpnn": 1.25}
    (tmp_path / "RESULTS.md").unlink()
    assert command.main([*out, "--only"]) == 0  # nothing is measured
    text = (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    assert "| worst | ≤ 1.3 | 1.500 | MISSED | not explained yet |" in text


def test_a_quick_run_does_not_write_over_the_results():
    assert command._parse([]).out == command.HERE
    assert command.HERE not in [command._parse(["--quick"]).out]
