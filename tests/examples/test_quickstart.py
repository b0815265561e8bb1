"""The quickstart, run for real on two photos with few nodes. (.ci/run runs it as a user would.)"""

import contextlib
import io
import pathlib
import runpy
import sys
import webbrowser

import numpy as np
import PIL.Image
import pytest

from examples import quickstart

ROOT = pathlib.Path(__file__).parents[2]
COLUMNS = ("predicted", "F(x)", "F(x')", "attributions", "completeness", "error", "gradients")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What two photos and 8 nodes give: the results, what was printed, the figure's path."""
    path = tmp_path_factory.mktemp("quickstart") / "new folder" / "figure.png"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        results = quickstart.main(["--photos=2", "--nodes=8", f"--out={path}"])
    return results, printed.getvalue(), path


def test_the_predicted_classes(run):
    assert [result.class_name for result in run[0]] == ["leafhopper", "dung beetle"]


def test_the_reports_are_those_of_the_attributions(run):
    for result in run[0]:
        report = result.report
        change = report.value - report.baseline_value
        np.testing.assert_allclose(
            report.completeness_gap, result.attributions.sum(dtype=np.float64) - change, atol=1e-5
        )
        assert 0 < report.baseline_value < 0.01 < report.value < 1
        assert 0 < report.error < 1
        assert report.num_evals == 10  # 8 and two observers
        assert result.seconds > 0
        assert result.attributions.shape == result.gradient.shape == result.image.shape


def test_the_baseline_is_black(run):
    images, attributions = (
        np.stack(arrays)
        for arrays in zip(*((r.image, r.attributions) for r in run[0]), strict=True)
    )
    is_black = quickstart.network.to_pixels(images) == 0  # in this channel
    assert is_black.any()
    assert not attributions[is_black].any()
    assert attributions[~is_black].all()


def test_the_table_has_a_row_for_each_photo(run):
    results, printed, _ = run
    assert all(column in printed for column in COLUMNS)
    lines = printed.splitlines()
    for result in results:
        (row,) = (line for line in lines if line.startswith(result.class_name))
        assert f" {result.attributions.sum():.3f} " in row
        assert f" {result.report.completeness_gap:+.3f} " in row
        assert f" {result.report.error:.1%} " in row


def test_the_figure_is_written(run):
    _, printed, path = run
    assert f"Figure: {path}" in printed
    assert path.read_bytes().startswith(b"\x89PNG")
    assert 100_000 < path.stat().st_size < 2_000_000


@pytest.mark.parametrize("number", [1, 3])
def test_any_number_of_photos_can_be_drawn(run, number):
    results = [*run[0], *run[0]][:number]
    assert len(quickstart.draw(results).axes) == 3 * number


def test_brightness_is_for_both_signs_alike_and_clips_one_percent():
    values = np.random.default_rng(0).normal(size=(200, 200, 3)).astype(np.float32)
    brightness = quickstart.brightness(values)
    assert brightness.shape == (100, 100)
    np.testing.assert_array_equal(brightness, quickstart.brightness(-values))
    assert brightness.min() > 0 and (brightness == 1).sum() == 100


def test_photos_of_the_user(tmp_path):
    PIL.Image.effect_noise((300, 400), 50).save(path := tmp_path / "mine.png")
    options = quickstart._parse([str(path)])
    assert [image.size for image in options.images] == [(300, 400)]


@pytest.mark.parametrize("bad", ["nowhere.jpg", "--nodes=0", "--out=figure.xyz"])
def test_a_bad_argument_is_named(capsys, bad):
    with pytest.raises(SystemExit):
        quickstart._parse([bad])
    assert bad.split("=")[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("platform", "is_terminal", "display", "opens"),
    [
        ("linux", True, ":0", True),
        ("linux", True, "", False),
        ("linux", False, ":0", False),
        ("darwin", True, "", True),
        ("win32", False, "", False),
    ],
)
def test_a_viewer_opens_only_on_a_desktop(monkeypatch, platform, is_terminal, display, opens):
    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    quickstart._open_on_a_desktop(pathlib.Path("quickstart.png"))
    assert opened == ([pathlib.Path("quickstart.png").resolve().as_uri()] if opens else [])


@pytest.mark.parametrize("package", ["rich", "matplotlib"])
def test_a_missing_package_names_the_extra(monkeypatch, package):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(sys, "path", [*sys.path])  # run by its path, the file adds to it
    with pytest.raises(ModuleNotFoundError, match=rf'{package}.*pip install "igjax\[examples\]"'):
        runpy.run_path(str(ROOT / "examples" / "quickstart.py"))
