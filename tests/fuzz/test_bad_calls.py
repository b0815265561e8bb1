"""Bad values for every parameter of every public function: refused by igjax, in its own words.

What is public enters by itself, and has to be told here how it is called. A call that is refused by
something that igjax calls, and not by igjax, is an error that nobody understands; one that is not
refused at all ends in a number that nobody should trust.
"""

import functools
import inspect
import math
import pathlib
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

import igjax
from igjax._engine.options import PathOptions
from igjax.quadrature import gregory

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Python iterable type:DeprecationWarning"),  # JAX's, of trees
]

X = jnp.array([1.0, 2.0, 3.0])
IMAGE = jnp.ones((4, 4, 1))
IDS = jnp.array([1, 2, 0])
TABLE = jnp.arange(8.0).reshape(4, 2)
KEY = jax.random.key(0)


def score(x):
    return jnp.sum(jnp.tanh(checkpoint_name(x * x, "layer")))


def features(x):
    return jnp.tanh(checkpoint_name(x * x, "layer"))


def of_ids(ids):
    return jnp.sum(jnp.tanh(checkpoint_name(TABLE[ids], "embedding")))


# What is bad almost everywhere, by name.
POOL: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "text": lambda: "a",
    "bytes": lambda: b"a",
    "-1": lambda: -1,
    "0": lambda: 0,
    "huge": lambda: 10**30,
    "half": lambda: 0.5,
    "nan": lambda: math.nan,
    "inf": lambda: math.inf,
    "complex": lambda: 1j,
    "True": lambda: True,
    "empty": lambda: (),
    "dict": lambda: {3: 4},
    "object": object,
    "function": lambda: lambda *_: 3,
    "date": lambda: np.datetime64("2026-01-01"),
    "texts": lambda: np.array(["a", "b", "c"]),
    "complexes": lambda: np.array([1j, 2j, 3j]),
    "masked": lambda: np.ma.array([1.0, 2.0, 3.0], mask=[False, True, False]),
    "objects": lambda: np.array([None, 1.0, 2.0], object),
    "structured": lambda: np.zeros(3, "f4,i4"),
    "long double": lambda: np.zeros(3, np.longdouble),
    "keys": lambda: jax.random.split(KEY, 3),
    "wrong shape": lambda: np.zeros((5, 7), np.float32),
    "generator": lambda: (i for i in ()),
}
# What is not finite ends in attributions that are not, and a report that says so.
ANY = {"-1", "0", "half", "nan", "inf", "long double"}
AXES = {"0", "empty", "generator"}
SPECIAL = {"-1", "0", "empty", "generator"}


class Call(NamedTuple):
    """How a public function is called.

    Attributes:
      valid: an argument for each parameter that needs one.
      use: what is done with what it returns, for what is checked late.
      legal: of parameters, the names of values in the pool that are good ones there.
    """

    valid: Mapping[str, Any]
    use: Callable[[Any], Any] = lambda result: result
    legal: Mapping[str, set[str]] = {}


def traced(*args: Any) -> Callable[[Any], Any]:
    """Traces an attribution: for what is bad, no program need be compiled."""
    return lambda attribution: jax.eval_shape(attribution, *args)


def as_baseline(x: Any = X) -> Callable[[Any], Any]:
    of = lambda x: jnp.sum(jnp.tanh(x))
    return lambda baseline: traced(x)(igjax.integrated_grad(of, baseline=baseline, rule=RULE))


def as_path(x: Any = X) -> Callable[[Any], Any]:
    of = lambda x: jnp.sum(jnp.tanh(x))
    return lambda path: traced(x)(igjax.integrated_grad(of, path=path, rule=RULE))


def as_rule(rule: Any) -> Any:
    return traced(X)(igjax.integrated_grad(score, rule=rule))


RULE = gregory(2)
FLAGS: dict[str, set[str]] = {
    name: {"True"}
    for name in (
        "has_aux",
        "multiply_by_inputs",
        "has_report",
        "affine_prefix",
        "per_token",
        "relu",
    )
}
OPTIONS = {
    **FLAGS,
    "argnums": {"0", "-1"},
    "batch_size": {"None", "huge"},
    "sharding": {"None"},
    "baseline": set(),
}
METHOD = functools.partial(igjax.integrated_grad, rule=RULE)
LAYER = Call({"fun": score, "name": "layer", "rule": RULE}, traced(X), OPTIONS)
NEURON = Call(
    {"fun": score, "name": "layer", "neuron": 0, "rule": RULE},
    traced(X),
    OPTIONS | {"neuron": {"0", "-1"}},
)

CALLS: dict[str, Call] = {
    "igjax.integrated_grad": Call({"fun": score, "rule": RULE}, traced(X), OPTIONS),
    "igjax.integrated_jacobian": Call({"fun": features, "rule": RULE}, traced(X), OPTIONS),
    "igjax.token_integrated_grad": Call(
        {"fun": of_ids, "embedding": "embedding", "baseline": 0, "rule": RULE},
        traced(IDS),
        OPTIONS | {"special": SPECIAL, "baseline": {"-1", "0", "function"}},  # -1 is seen in values
    ),
    "igjax.layer_integrated_grad": LAYER,
    "igjax.layer_conductance": LAYER,
    "igjax.internal_influence": LAYER,
    "igjax.layer_gradient_x_activation": Call({"fun": score, "name": "layer"}, traced(X)),
    "igjax.grad_cam": Call(
        {"fun": score, "name": "layer"}, traced(IMAGE), FLAGS | {"channel_axis": {"0", "-1"}}
    ),
    "igjax.neuron_integrated_grad": NEURON,
    "igjax.neuron_conductance": NEURON,
    "igjax.at_layer": Call({"method": METHOD, "name": "layer"}, lambda at: traced(X)(at(score))),
    "igjax.at_neuron": Call(
        {"method": METHOD, "name": "layer", "neuron": 0},
        lambda at: traced(X)(at(score)),
        {"neuron": {"0", "-1"}},
    ),
    "igjax.at_tokens": Call(
        {"method": METHOD, "embedding": "embedding"},
        lambda at: traced(IDS)(at(of_ids, baseline=0)),
        FLAGS | {"special": SPECIAL},
    ),
    "igjax.from_arguments": Call({"make": lambda x: (METHOD(score), (x,))}, traced(X)),
    "igjax.layer_names": Call(
        {"fun": score, "args": X}, legal={"args": {*POOL}, "fun": {"function"}}
    ),
    "igjax.split_at": Call({"fun": score, "name": "layer"}, lambda two: traced(X)(two[0])),
    "igjax.baselines.constant": Call({"value": 1.0}, as_baseline(), {"value": ANY}),
    "igjax.baselines.blurred": Call(
        {"sigma": 1.0},
        as_baseline(IMAGE),
        {"sigma": {"0", "half"}, "axes": {"0", "empty", "generator"}},
    ),
    "igjax.baselines.farthest": Call(
        {"low": 0.0, "high": 1.0}, as_baseline(), {"low": ANY, "high": ANY}
    ),
    "igjax.baselines.gaussian": Call({"key": KEY, "sigma": 1.0}, as_baseline(), {"sigma": ANY}),
    "igjax.baselines.uniform": Call({"key": KEY}, as_baseline(), {"low": ANY, "high": ANY}),
    "igjax.baselines.max_entropy": Call(
        {"predict": jax.nn.softmax, "steps": 2},
        as_baseline(),
        {"steps": {"0"}, "low": ANY, "high": ANY, "optimizer": {"None"}},
    ),
    "igjax.baselines.mean_of": Call({"data": jnp.ones((5, 3))}, as_baseline()),
    "igjax.baselines.embedding": Call(
        {"value": jnp.zeros(2)},
        lambda baseline: traced(IDS)(
            igjax.token_integrated_grad(of_ids, "embedding", baseline=baseline, rule=RULE)
        ),
        {"value": ANY},
    ),
    "igjax.paths.polyline": Call({"points": jnp.ones((2, 3))}, as_path()),
    "igjax.paths.blur": Call(
        {"max_sigma": 1.0},
        as_path(IMAGE),
        {"max_sigma": {"0", "half"}, "axes": {"0", "empty", "generator"}},
    ),
    "igjax.paths.latent": Call({"encode": jnp.sinh, "decode": jnp.arcsinh}, as_path()),
    "igjax.paths.reparametrize": Call(
        {"path": igjax.paths.straight_line, "schedule": jnp.square},
        as_path(),
        {"schedule": {"function"}},
    ),
    "igjax.paths.check": Call(
        {"path": igjax.paths.straight_line, "baseline": jnp.zeros(3), "x": X},
        legal={"rtol": {"0", "half"}},
    ),
    "igjax.quadrature.Rule": Call(
        {"nodes": np.array([0.25, 0.75]), "weights": np.array([0.5, 0.5])},
        as_rule,
        {"embedded_weights": {"None"}},
    ),
    "igjax.quadrature.Tolerance": Call(
        {"rtol": 0.1, "atol": 0.0, "max_evals": 34},
        as_rule,
        {"rtol": {"half"}, "atol": {"0", "half"}},
    ),
    "igjax.quadrature.to_tolerance": Call(
        {"rtol": 0.1}, as_rule, {"rtol": {"half"}, "atol": {"0", "half"}}
    ),
    "igjax.quadrature.composite": Call({"rule": gregory(4), "panels": 2}, as_rule),
    **{
        f"igjax.quadrature.{name}": Call({"n": 8}, as_rule)
        for name in igjax.quadrature.__all__
        if [*inspect.signature(getattr(igjax.quadrature, name)).parameters] == ["n"]
    },
    "igjax.quadrature.gauss_kronrod": Call({"n": 7}, as_rule),  # of odd numbers
}

# What functions return, and callers do not make; and plain arithmetic, which the transforms call
# with what they have checked.
OTHERS = {"Report", "Reason", "PathCheck", "Embedding", "zeros", "straight_line"}


def public() -> Iterator[tuple[str, Any]]:
    for module in (igjax, igjax.baselines, igjax.paths, igjax.quadrature):
        names = getattr(module, "__all__", None) or [n for n in vars(module) if n[0] != "_"]
        for name in sorted(names):
            found = getattr(module, name)
            ours = getattr(found, "__module__", "").startswith("igjax")
            if callable(found) and ours and name not in OTHERS:
                yield f"{module.__name__}.{name}", found


def test_every_public_function_is_called():
    assert {name for name, _ in public()} == CALLS.keys()


def parameters(fun: Any) -> list[str]:
    found = []
    for name, parameter in inspect.signature(fun).parameters.items():
        if parameter.kind == parameter.VAR_KEYWORD and "Any" not in str(parameter.annotation):
            found += [key for key in PathOptions.__annotations__ if key not in found]
        elif parameter.kind not in (parameter.VAR_KEYWORD,):
            found.append(name)
    return found


PLACE = str(pathlib.Path(igjax.__file__).parent)


@pytest.fixture(scope="module", autouse=True)
def all_frames():
    """Has JAX leave its own frames in errors: the last one says who raised it."""
    before = jax.config.jax_traceback_filtering
    jax.config.update("jax_traceback_filtering", "off")
    yield
    jax.config.update("jax_traceback_filtering", before)


def raised_by_us(error: BaseException) -> bool:
    """Tells whether an error was raised by igjax itself."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return last.filename.startswith(PLACE) and str(last.line).lstrip().startswith("raise")


def call(fun: Any, valid: Mapping[str, Any]) -> Any:
    signature = inspect.signature(fun).parameters
    flat = [n for n, p in signature.items() if p.kind == p.VAR_POSITIONAL]
    positional = [valid[n] for n in signature if n in valid and _goes_first(signature, n, flat)]
    keywords = {n: v for n, v in valid.items() if not _goes_first(signature, n, flat)}
    return fun(*positional, **keywords)


def _goes_first(signature: Mapping[str, Any], name: str, flat: list[str]) -> bool:
    if name not in signature:
        return False
    return bool(flat) or signature[name].kind == inspect.Parameter.POSITIONAL_ONLY


@pytest.mark.parametrize("name", CALLS)
def test_bad_values_are_refused_by_name(name):
    fun, (valid, use, legal) = dict(public())[name], CALLS[name]
    use(call(fun, valid))  # so it is not the others that are refused
    raw, accepted = [], []
    for parameter in parameters(fun):
        for label, make in POOL.items():
            if label in legal.get(parameter, ()):
                continue
            try:
                use(call(fun, {**valid, parameter: make()}))
            except Exception as error:
                if not raised_by_us(error):
                    raw.append(f"{parameter}={label}: {type(error).__name__}: {str(error)[:90]}")
            else:
                accepted.append(f"{parameter}={label}")
    assert not accepted and not raw, f"accepted: {accepted}\nraw: " + "\n".join(raw)
