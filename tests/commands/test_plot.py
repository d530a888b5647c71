"""plot_metrics: runs in one picture, whatever state their files are in, and the mistakes one can make."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detkit.commands import plot as plot_command
from detkit.registry import DataError
from detkit.visualization.colors import LINE_COLORS
from detkit.visualization.compare_runs import axis_label, matching_metrics, plot_runs, read_runs, short_names

ROOT = Path(__file__).resolve().parents[2]


def write_run(folder, height=1.0, torn=""):
    """60 lines of losses falling from ``height``, two evaluations; ``torn``: what stands at the end of the file."""
    folder.mkdir(parents=True)
    rows = [{"iteration": i, "total_loss": height / (i + 1), "lr": 0.1, "step_time": 0.2} for i in range(60)]
    rows += [{"iteration": i, "box/AP": height * i / 100, "box/APl": -1} for i in (20, 40)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + torn)
    return folder


def rgb(color):
    return np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])


def has_color(picture, color):
    """Whether some pixels are of the colour."""
    return (np.abs(np.asarray(picture, dtype=int) - rgb(color)).sum(-1) < 12).sum() > 20


def test_two_runs_come_out_in_two_colours(tmp_path, capsys):
    runs = [write_run(tmp_path / "a"), write_run(tmp_path / "b", 2.0, torn='{"iteration": 60, "total_l')]
    out = tmp_path / "new" / "both.png"
    assert plot_command.main([*map(str, runs), "--output", str(out)]) == 0
    picture = Image.open(out).convert("RGB")
    assert has_color(picture, LINE_COLORS[0])
    assert has_color(picture, LINE_COLORS[1])
    assert not has_color(picture, LINE_COLORS[2])
    assert capsys.readouterr().out.strip() == f"{out}: total_loss, box/AP, lr of a, b"


def test_runs_that_are_the_same_are_both_seen(tmp_path):
    runs = {name: {"lr": ([0.0, 1.0], [0.1, 0.02])} for name in "ab"}
    picture = Image.open(plot_runs(runs, ["lr"], tmp_path / "x.png")).convert("RGB")
    below = picture.crop((0, picture.height // 5, picture.width, picture.height))  # without the legend
    assert has_color(below, LINE_COLORS[0])
    assert has_color(below, LINE_COLORS[1])


def test_a_run_that_is_still_writing_is_read_up_to_its_last_whole_line(tmp_path):
    whole = read_runs([write_run(tmp_path / "whole")])["whole"]
    cut_character = '{"iteration": 99, "x": "\xe4'.encode()[:-1]
    for number, torn in enumerate((b'{"iteration": 99, "total_loss": 5', b'{"', cut_character)):
        folder = write_run(tmp_path / f"torn_{number}")
        with (folder / "metrics.jsonl").open("ab") as file:
            file.write(torn)
        assert read_runs([folder])[folder.name] == whole


@pytest.mark.parametrize(
    ("content", "words"), [(None, "no such file"), ("", "no metrics yet"), ('{"a": \n{"iteration": 1}\n', "line 1")]
)
def test_files_that_cannot_be_drawn_are_named(tmp_path, content, words):
    path = tmp_path / "run" / "metrics.jsonl"
    path.parent.mkdir()
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=words) as error:
        plot_command.main([str(path.parent)])
    assert "run" in str(error.value)


def test_an_unknown_metric_is_answered_with_those_there_are(tmp_path):
    run = str(write_run(tmp_path / "a"))
    with pytest.raises(DataError, match=r"'total_los'. Did you mean 'total_loss'\? There are: lr, .*box/AP"):
        plot_command.main([run, "--metric", "total_los"])
    with pytest.raises(DataError, match=r"no run has a metric 'mask/\*'"):
        plot_command.main([run, "--metric", "lr", "mask/*"])


def test_patterns_choose_metrics_in_their_order():
    runs = {"a": {"lr": ([], []), "box/AP": ([], [])}, "b": {"box/AP50": ([], []), "loss_x": ([], [])}}
    assert matching_metrics(runs, ["box/*", "lr", "box/AP"]) == ["box/AP", "box/AP50", "lr"]
    assert matching_metrics(runs, []) == ["loss_x", "box/AP", "lr"]
    with pytest.raises(DataError, match="there are: x"):
        matching_metrics({"a": {"x": ([], [])}}, [])


def test_names_are_as_short_as_can_be():
    def names(*files):
        return short_names([Path(f) for f in files])

    assert names("/out/a/metrics.jsonl", "/out/b/metrics.jsonl") == ["a", "b"]
    assert names("/x/run/metrics.jsonl", "/y/run/metrics.jsonl") == ["x/run", "y/run"]
    assert names("/x/old.jsonl", "/x/run/metrics.jsonl") == ["old.jsonl", "run"]
    with pytest.raises(DataError, match="given twice"):
        names("/x/run/metrics.jsonl", "/x/run/metrics.jsonl")


def test_axes_say_what_is_measured():
    assert axis_label("total_loss") == axis_label("loss_mask") == axis_label("val/loss_cls") == "loss"
    assert axis_label("data_time") == "seconds a step"
    assert axis_label("max_rss_mb") == "MB"
    assert axis_label("mask/AP50").startswith("average precision")
    assert axis_label("lr") == "learning rate"
    assert axis_label("box_head/accuracy") == ""


def test_the_tool_can_draw_anything_that_is_there(tmp_path):
    run = str(write_run(tmp_path / "a"))
    out = tmp_path / "x.png"
    for metric in (["box/APl"], ["step_time", "lr"], ["*"]):
        assert plot_command.main([run, "--metric", *metric, "--output", str(out), "--smooth", "0"]) == 0
        assert out.stat().st_size > 5000
    runs = {f"run_{n}": {"loss": ([0.0, 1.0], [math.nan, n])} for n in range(9)}  # more than there are colours
    plot_runs(runs, ["loss"], out)


def test_smoothing_is_a_part_of_the_run(tmp_path, capsys):
    run = str(write_run(tmp_path / "a"))
    for value in ("1", "-0.1", "nan"):
        with pytest.raises(SystemExit):
            plot_command.main([run, "--smooth", value])
        assert "--smooth" in capsys.readouterr().err
    with pytest.raises(ValueError, match="smooth"):
        plot_runs({}, ["lr"], tmp_path / "x.png", smooth_share=1.0)


@pytest.mark.parametrize("name", ["picture", "picture.xyz"])
def test_a_picture_whose_name_does_not_say_its_kind_is_refused(tmp_path, name):
    run = write_run(tmp_path / "a")
    with pytest.raises(DataError, match=r"its suffix says the kind of picture: .*\.png"):
        plot_command.main([str(run), "--output", str(tmp_path / name)])
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
