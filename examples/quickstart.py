"""Why did the network say so? Integrated gradients of an ImageNet network, beside plain gradients.

    pip install "igjax[examples]"
    python -m examples.quickstart

EfficientNet-Lite0 classifies photos. As in the paper, the probability (after the softmax) of the
class that it finds most likely is attributed to the pixels, against a black image, as well as it
takes for an error of 5 %. That takes about two minutes on two cores, prints how far each answer can
be trusted, and draws quickstart.png.

The photos are the last six of twenty, in the order of their file names: a stretch where the two
methods differ clearly. `--photos 20` shows all, and so those where they do not. Note the dung
beetle: what is black already gets nothing against a black baseline (`igjax.baselines` has others).
The photos come with the `foolbox` package; igjax has no rights in them. Or name files of your own:

    python -m examples.quickstart my_cat.jpg my_dog.jpg
"""

import argparse
import os
import pathlib
import sys
import time
import webbrowser
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

if not __package__:  # run by its path, not with -m: Python doesn't look in the root then
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

try:
    import PIL.Image
    import PIL.ImageOps
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from rich import box
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Table

    from examples.models import efficientnet_lite0 as network
except ModuleNotFoundError as error:
    message = f'{error.name} is not installed: pip install "igjax[examples]"'
    raise ModuleNotFoundError(message, name=error.name) from None

import igjax

Image = NDArray[np.float32]  # (224, 224, 3)


class Result(NamedTuple):
    """What there is to tell about one photo."""

    image: Image
    class_name: str  # of the predicted class
    gradient: Image
    attributions: Image
    report: igjax.Report
    seconds: float  # for attributions and report, compilation not counted


def probability(image: jax.Array, label: jax.Array, params: network.Params) -> jax.Array:
    """The probability that the network gives to a class: the function that is explained."""
    return jax.nn.softmax(network.logits(params, image))[label]


def explain(
    images: Sequence[Image],
    rule: igjax.quadrature.Rule | igjax.quadrature.Tolerance,
    progress: Progress,
) -> list[Result]:
    """Attributes the probability of each image's most likely class to its pixels."""
    params = network.load()
    predict = jax.jit(lambda image: jnp.argmax(network.logits(params, image)))
    methods = (
        jax.jit(jax.grad(probability)),
        jax.jit(
            igjax.integrated_grad(
                probability,
                baseline=igjax.baselines.constant(-127 / 128),  # black, as the network scales it
                rule=rule,
                batch_size=8,
                has_report=True,
            )
        ),
    )

    # Compiled ahead, so that the first photo takes no longer than the others.
    example = (images[0], predict(images[0]), params)
    gradient, integrated_gradient = (
        method.lower(*example).compile()
        for method in progress.track(methods, description="Compiling")
    )

    def explain_one(image: Image) -> Result:
        label = predict(image)
        start = time.perf_counter()
        answer = integrated_gradient(image, label, params)
        attributions, report = jax.tree.map(np.asarray, answer)  # waits until it is there
        seconds = time.perf_counter() - start
        return Result(
            image,
            network.class_name(int(label)),
            np.asarray(gradient(image, label, params)),
            attributions,
            report,
            seconds,
        )

    return [explain_one(image) for image in progress.track(images, description="Attributing")]


def main(arguments: Sequence[str] | None = None) -> list[Result]:
    """Runs the example: explains the photos, prints the table, writes the figure."""
    options = _parse(arguments)
    options.out.parent.mkdir(parents=True, exist_ok=True)  # to fail now, if it must
    photos = options.images or [pixels for _, pixels, _ in network.photos()[-options.photos :]]
    images = [network.preprocess(photo) for photo in photos]

    console = Console()
    columns = (TextColumn("{task.description:<11}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        results = explain(images, options.rule, progress)

    console.print(tabulate(results))
    draw(results).savefig(options.out)
    console.print(f"Figure: {options.out}", soft_wrap=True, highlight=False, markup=False)
    _open_on_a_desktop(options.out)
    return results


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.quickstart",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "images",
        type=_photo,
        nargs="*",
        metavar="image",
        help="files of photos to explain instead of those that come with the example",
    )
    parser.add_argument(
        "--photos", type=int, default=6, choices=range(1, 21), metavar="1-20", help="how many (6)"
    )
    how_good = parser.add_mutually_exclusive_group()
    how_good.add_argument(
        "--error",
        type=_rule(float, igjax.quadrature.to_tolerance),
        default=igjax.quadrature.to_tolerance(0.05),
        dest="rule",
        help="how good the attributions are to be: their relative L1 error (0.05)",
    )
    how_good.add_argument(
        "--nodes",
        type=_rule(int, igjax.quadrature.gregory),
        dest="rule",
        help="so many gradients per photo instead; an even number, to have an error estimate",
    )
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path("quickstart.png"),
        help="the figure's file (quickstart.png)",
    )
    options = parser.parse_args(arguments)
    if options.out.suffix[1:] not in (known := Figure().canvas.get_supported_filetypes()):
        parser.error(f"--out must end in one of {', '.join(known)}; got {options.out}")
    return options


def _rule(number: Callable[[str], Any], make: Callable[[Any], Any]) -> Callable[[str], Any]:
    """Returns how to read a rule from what stands on the command line."""

    def rule(text: str) -> Any:
        try:
            return make(number(text))
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return rule


def _photo(path: str) -> PIL.Image.Image:
    try:
        with PIL.Image.open(path) as image:
            return PIL.ImageOps.exif_transpose(image).convert("RGB")  # upright, as it was taken
    except OSError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _open_on_a_desktop(path: pathlib.Path) -> None:
    """Shows a file to a person, if there is one: at a terminal, with a display."""
    has_display = sys.platform in ("win32", "darwin") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
    if sys.stdout.isatty() and has_display:
        webbrowser.open(path.resolve().as_uri())  # leaves the choice of the viewer to the desktop


def tabulate(results: Sequence[Result]) -> Table:
    """One row a photo: the values at both ends of the path, and how good the attributions are."""
    table = Table(
        title="Integrated gradients of the predicted class's probability F",
        caption="x: the photo; x': a black image; gap: sum - (F(x) - F(x'))\n"
        "error: estimated relative L1 error of the attributions (see --error);\n"
        "* where it is more than was asked for",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("predicted\nclass")
    for header in (
        "F(x)",
        "F(x')",
        "sum of\nattributions",
        "completeness\ngap",
        "error",
        "gradients",
        "time",
    ):
        table.add_column(header, justify="right", vertical="bottom", no_wrap=True)
    for result in results:
        report = result.report
        table.add_row(
            result.class_name,
            f"{report.value:.3f}",
            f"{report.baseline_value:.4f}",
            f"{result.attributions.sum():.3f}",
            f"{report.completeness_gap:+.3f}",
            "-"
            if np.isnan(report.error)
            else f"{report.error:.1%}{'' if report.converged else '*'}",
            str(report.num_evals),
            f"{result.seconds:.1f} s",
        )
    return table


# The figure's measures, in inches.
_DPI = 200
_PANEL = 2 * network.SIZE / _DPI  # two dots a pixel: no pixel is drawn larger than another
_GAP = 0.08
_MARGIN = 0.35
_BLOCK = 3 * _PANEL + 2 * _GAP + _MARGIN
_ROW = _PANEL + 0.45
_TOP = 0.55
_BOTTOM = 0.5

_FAINT = "#606060"


def draw(results: Sequence[Result]) -> Figure:
    """Three panels a photo; two photos side by side, so that six of them fit a screen."""
    across = min(2, len(results))
    down = -(-len(results) // across)
    width, height = across * _BLOCK + _MARGIN, _TOP + down * _ROW + _BOTTOM
    figure = Figure(figsize=(width, height), dpi=_DPI)

    def add_panel(left: float, top: float) -> Axes:
        axes = figure.add_axes(
            (left / width, 1 - (top + _PANEL) / height, _PANEL / width, _PANEL / height)
        )
        axes.set_axis_off()
        return axes

    for number, result in enumerate(results):
        row, column = divmod(number, across)
        left, top = _MARGIN + column * _BLOCK, _TOP + row * _ROW
        panels = [add_panel(left + i * (_PANEL + _GAP), top) for i in range(3)]
        _draw_photo(panels, result)
        if row == 0:
            for axes, title in zip(
                panels, ("Photo", "Gradients", "Integrated gradients"), strict=True
            ):
                axes.set_title(title, fontsize=13, pad=7)
    figure.text(
        _MARGIN / width,
        0.6 * _BOTTOM / height,
        "F is the probability of the class named, x′ a black image.\nBrightness: |gradient| or "
        "|attribution|, summed over 2 × 2 pixels and the channels, up to its 99th percentile.",
        linespacing=1.5,
        va="center",
        fontsize=9,
        color=_FAINT,
    )
    return figure


def _draw_photo(panels: Sequence[Axes], result: Result) -> None:
    photo, gradient, integrated_gradient = panels
    photo.imshow(network.to_pixels(result.image), interpolation="nearest")
    # Alike for both methods, so that what differs is theirs. Magnitudes, because signs alternate
    # from pixel to pixel and cancel in the eye.
    for axes, values in ((gradient, result.gradient), (integrated_gradient, result.attributions)):
        axes.imshow(brightness(values), cmap="inferno", interpolation="nearest", vmin=0, vmax=1)

    value, baseline_value = result.report.value, result.report.baseline_value
    name = _caption(photo, result.class_name, 0, fontsize=12, weight="bold")
    photo.annotate(f"  {value:.0%}", (1, 0), xycoords=name, va="bottom", fontsize=12, color=_FAINT)
    sums = f"Σ attributions = {result.attributions.sum():.3f}    "
    sums += f"F(x) − F(x′) = {value - baseline_value:.3f}"
    _caption(integrated_gradient, sums, 1, ha="right", fontsize=10.5, color=_FAINT)


def _caption(axes: Axes, text: str, x: float, **style: Any) -> Annotation:
    """Writes just below a panel, at its left (0) or right (1) end."""
    return axes.annotate(
        text,
        (x, 0),
        xycoords="axes fraction",
        xytext=(0, -5),
        textcoords="offset points",
        va="top",
        **style,
    )


def brightness(values: Image) -> NDArray[np.float32]:
    """How much there is in each square of 2 × 2 pixels, whatever its sign: from 0 to 1."""
    height, width, _ = values.shape
    amount = np.abs(values).reshape(height // 2, 2, width // 2, 2, -1).sum((1, 3, 4))
    return np.minimum(amount / np.percentile(amount, 99), 1)


if __name__ == "__main__":
    main()
