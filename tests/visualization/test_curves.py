import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from detkit.visualization import plot_curves, read_metrics
from detkit.visualization.curves import smooth


def write(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def test_metrics_are_read_as_series(tmp_path):
    rows = [
        {"iteration": 0, "total_loss": 2.0, "lr": 0.1, "note": "text", "flag": True},
        {"iteration": 1, "total_loss": math.nan},
        {"iteration": 1, "box/AP": 0.5},
    ]
    series = read_metrics(write(tmp_path / "m.jsonl", rows))
    assert series.keys() == {"total_loss", "lr", "box/AP"}
    assert series["total_loss"][0] == [0, 1]
    assert math.isnan(series["total_loss"][1][1])
    assert series["box/AP"] == ([1], [0.5])


def test_lines_done_again_after_a_resume_replace_the_old_ones(tmp_path):
    rows = [{"iteration": i, "loss": v} for i, v in ((0, 5), (1, 4), (2, 3), (1, 40), (2, 30))]
    assert read_metrics(write(tmp_path / "m.jsonl", rows))["loss"] == ([0, 1, 2], [5, 40, 30])


def test_a_cut_off_last_line_is_left_out_and_a_broken_one_is_named(tmp_path):
    path = write(tmp_path / "m.jsonl", [{"iteration": 0, "loss": 1}])
    path.write_text(path.read_text() + '{"iteration": 1, "lo')
    assert read_metrics(path)["loss"] == ([0], [1])
    whole = path.read_text()
    for broken in ('{"iter', "[1]", "null", '{"iteration": "x"}', '{"iteration": 1}{"iteration": 2}', "[" * 9999):
        path.write_text(f"{broken}\n{whole}")
        with pytest.raises(ValueError, match=r"line 1 is .*remove the line"):
            read_metrics(path)


def test_numbers_beyond_all_bounds_are_no_values(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text(
        '{"iteration": 1, "a": 1e999, "b": ' + "9" * 5000 + ', "c": null, "d": 3}\n{"iteration": 1e999, "a": 1}\n'
    )
    series = read_metrics(path)
    assert series.keys() == {"a", "b", "c", "d"}
    assert np.isnan([series[name][1][0] for name in "abc"]).all()


def ink(path):
    """How much of the picture is not white, in each third of its width."""
    dark = (np.array(Image.open(path).convert("L")) < 250).mean(0)
    return [part.mean() for part in np.array_split(dark, 3)]


def test_curves_are_drawn(tmp_path):
    rows = [{"iteration": i, "total_loss": 3 / (i + 1), "loss_cls": 1 / (i + 1), "lr": 0.1} for i in range(60)]
    rows += [{"iteration": i, "box/AP": i / 100, "box/AP50": -1, "box/per_class/x": 0.1} for i in (20, 40)]
    out = plot_curves(write(tmp_path / "m.jsonl", rows), tmp_path / "new" / "curves.png")
    assert out == tmp_path / "new" / "curves.png"
    assert all(part > 0.01 for part in ink(out))
    assert np.array(Image.open(out)).shape[1] > 2000  # three panels


@pytest.mark.parametrize(
    "rows", [[], [{"iteration": 0, "total_loss": 1.0, "lr": 0.1}], [{"iteration": 3, "box/AP": -1}]]
)
def test_little_or_nothing_to_draw(tmp_path, rows):
    assert plot_curves(write(tmp_path / "m.jsonl", rows), tmp_path / "c.png").stat().st_size > 0


def test_no_global_plotting_state(tmp_path):
    plot_curves(write(tmp_path / "m.jsonl", [{"iteration": 0, "loss": 1}]), tmp_path / "c.png")
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "nonsense"])
def test_pictures_and_curves_are_drawn_whatever_backend_a_notebook_has_set(tmp_path, backend):
    write(tmp_path / "m.jsonl", [{"iteration": i, "total_loss": 1.0, "lr": 0.1} for i in range(3)])
    code = f"""
import os
from detkit.visualization import plot_curves
from detkit.visualization.fonts import load_font
assert load_font(12).getbbox("a")
plot_curves({str(tmp_path / "m.jsonl")!r}, {str(tmp_path / "curves.png")!r})
assert os.environ["MPLBACKEND"] == {backend!r}
"""
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "MPLBACKEND": backend}, check=True)
    assert all(part > 0.001 for part in ink(tmp_path / "curves.png"))


def test_smoothing_keeps_lines_and_bridges_gaps():
    line = [0.5 * i for i in range(200)]
    assert smooth(line) == pytest.approx(line)
    noisy = np.random.default_rng(0).normal(1, 1, 400)
    assert np.std(smooth(noisy)) < 0.5 * np.std(noisy)
    gap = [1.0] * 200
    gap[100] = math.nan
    assert smooth(gap) == pytest.approx([1.0] * 200)
    assert smooth([]) == []
