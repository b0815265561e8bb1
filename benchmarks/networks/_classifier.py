"""``classifier``: a network that is attributed for the score of the label that it predicts."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from benchmarks.networks._network import Network


def classifier(
    name: str,
    params: Any,
    xs: NDArray[np.float32],
    baselines: NDArray[np.float32],
    logits: Callable[[Any, Any], Any],
    torch_logits: Callable[[Any], Callable[[Any], Any]],
) -> Network:
    """A network whose outputs are the logit and the probability of its predicted label.

    Args:
      name: what the tables call it.
      params: the weights, a pytree of float32 arrays.
      xs: the inputs, shape ``(count, ...)``.
      baselines: like ``xs``.
      logits: ``(params, x) -> (classes,)`` of one example, in JAX.
      torch_logits: makes of ``params`` the same function of a batch in torch.

    Returns:
      The network; the label of each example is its one extra.
    """

    def torch_outputs() -> Mapping[str, Callable[..., Any]]:
        scores = torch_logits(params)
        return {
            "logit": lambda x, label: _torch_pick(scores(x), label),
            "probability": lambda x, label: _torch_pick(scores(x).softmax(1), label),
        }

    scores = jax.jit(jax.vmap(logits, in_axes=(None, 0)))(params, xs)
    return Network(
        name=name,
        params=params,
        outputs={
            "logit": lambda params, x, label: logits(params, x)[label],
            "probability": lambda params, x, label: jax.nn.softmax(logits(params, x))[label],
        },
        xs=xs,
        baselines=baselines,
        extras=(np.asarray(scores).argmax(1).astype(np.int32),),
        torch_outputs=torch_outputs,
    )


def _torch_pick(scores: Any, label: Any) -> Any:
    """Of each row the score of its label; or of one label for all."""
    return scores.gather(1, label.long().expand(len(scores))[:, None])[:, 0]
