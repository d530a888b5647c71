import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from detkit import command_line
from detkit.checkpoint import Checkpointer
from detkit.commands import visualize_model
from detkit.config import to_yaml
from detkit.experiment import load_experiment
from detkit.structures import Instances

SMALL = ["data.train_dataset.num_images=4", "data.test_dataset.num_images=3"]
STAGES = ["1_input", "2_anchors", "3_proposals", "4_regions", "5_detections"]
PADDED = "data.test_augmentations=[{name: ResizeAndPad, min_size: 128, max_size: 192, mode: square}]"


@pytest.fixture(scope="module")
def config(pytestconfig):
    return str(pytestconfig.rootpath / "configs/quick_start/mask_rcnn_shapes.yaml")


@pytest.fixture(scope="module")
def look(config):
    """Stages of the first test image, by overrides, with untrained weights."""

    def make(*overrides):
        args = visualize_model.parse_arguments(["--config-file", config, *SMALL, *overrides])
        exp = load_experiment(args.config_file, args.overrides)
        predictor = visualize_model.load(exp, None)
        (_, sample), *_ = visualize_model.samples_of(exp, predictor, args)
        with torch.no_grad():
            return visualize_model.Stages(predictor, sample, args)

    return make


def test_every_stage_of_the_test_images(config, tmp_path, capsys):
    assert visualize_model.main(["--config-file", config, "--num", "2", f"train.output_dir={tmp_path}", *SMALL]) == 0
    folders = sorted((tmp_path / "stages").iterdir())
    assert len(folders) == 2
    for folder in folders:
        assert sorted(file.stem for file in folder.iterdir()) == STAGES
        width, height = Image.open(folder / "1_input.png").size
        assert (width, height > 640) == (640, True)  # enlarged, and a title above
        assert Image.open(folder / "2_anchors.png").size[0] > 3 * 640
        for stage in STAGES[2:]:
            assert Image.open(folder / f"{stage}.png").size[0] > 2 * 640
    assert "10 pictures" in capsys.readouterr().out


def test_an_image_of_ones_own_has_the_stages_that_need_no_ground_truth(config, tmp_path):
    file = tmp_path / "my photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 140, 3)).astype(np.uint8)).save(file)
    assert visualize_model.main([config, "--image", str(file), "--output", str(tmp_path / "out"), *SMALL]) == 0
    (folder,) = (tmp_path / "out").iterdir()
    assert folder.name == "0000_my_photo"
    assert sorted(file.stem for file in folder.iterdir()) == ["1_input", "3_proposals", "5_detections"]


@torch.no_grad()
def test_weights_are_those_of_the_file_and_the_target_is_where_the_model_sees_it(config, tmp_path, look):
    stages = look(PADDED)
    names = stages.names
    torch.save({"model": stages.model.state_dict(), "class_names": list(names)}, tmp_path / "w.pth")
    args = visualize_model.parse_arguments(["--config-file", config, *SMALL])
    exp = load_experiment(args.config_file, args.overrides)
    again = visualize_model.load(exp, str(tmp_path / "w.pth"))
    for name, value in stages.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name
    assert again.class_names == names
    assert stages.image.shape == (3, 192, 192)
    assert stages.images.valid_region(0) != (0, 0, 192, 192)
    x1, y1, x2, y2 = stages.images.valid_region(0)
    assert (stages.image.int() - stages.sample.image.int()).abs().max() <= 1
    boxes = stages.target.boxes.tensor
    assert (boxes >= torch.tensor([x1, y1, x1, y1])).all()
    assert (boxes <= torch.tensor([x2, y2, x2, y2])).all()
    crowd = Instances((192, 192), boxes=stages.sample.target.boxes, crowd=torch.ones(len(boxes), dtype=torch.bool))
    crowd = crowd.with_fields(classes=stages.sample.target.classes)
    flagged = dataclasses.replace(stages.sample, target=crowd)
    assert len(visualize_model.Stages(visualize_model.Predictor(stages.model), flagged, args).target) == 0


@torch.no_grad()
def test_the_titles_count_what_the_model_labels(look, monkeypatch):
    stages, titles = look(), []
    monkeypatch.setattr(visualize_model, "side_by_side", lambda pictures, words: titles.extend(words) or pictures[0])
    for _ in stages.pictures():
        pass
    counts = dict(title.split(": ", 1) for title in titles if title.count(": ") == 1)
    generator = stages.model.proposal_generator
    counted = [title for title in titles if title.startswith("positive anchors")]
    positive = int(counted[0].split(": ")[1].split(",")[0])
    assert positive >= 1
    assert positive + int(counts["negative anchors"]) == generator.sampling.batch_size_per_image
    assert int(counts["foreground regions"]) >= len(stages.target)  # the ground truth is among the proposals
    assert "best 50 of 100 proposals before NMS" in titles
    assert any(title.endswith("proposals after NMS") for title in titles)
    assert generator.selection.nms_thresh == 0.7


def test_help_has_examples_and_mistakes_end_with_their_message(config, capsys):
    with pytest.raises(SystemExit):
        visualize_model.main(["--help"])
    assert "examples:" in capsys.readouterr().out
    assert command_line.run(lambda: visualize_model.main([config, "--weights", "nowhere.pth"])) == 2
    assert "nowhere.pth" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        visualize_model.main(["--config-file", config, "--num", "0"])
    for mistake, words in (
        (["--score-thresh", "30"], "between 0 and 1, got 30"),
        (["--num", "2", "--image", "a.png"], "give one of them"),
    ):
        with pytest.raises(SystemExit):
            visualize_model.main(["--config-file", config, *mistake])
        assert words in capsys.readouterr().err


def test_a_runs_stages_are_those_of_its_weights(config, tmp_path, monkeypatch):
    exp = load_experiment(config, SMALL)
    (tmp_path / "config.yaml").write_text(to_yaml(exp.tree))
    model = exp.build_model()
    torch.nn.init.constant_(model.roi_heads.box_head.cls_score.bias, 7)
    Checkpointer(tmp_path).save("model_final", model, config=exp.tree)
    seen = []
    make = visualize_model.load
    monkeypatch.setattr(visualize_model, "load", lambda *given: seen.append(make(*given)) or seen[-1])
    assert visualize_model.main([str(tmp_path), "--num", "1"]) == 0
    assert (seen[0].model.roi_heads.box_head.cls_score.bias == 7).all()
    assert (tmp_path / "stages").is_dir()
