import json
import shutil
import sys

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from detkit.checkpoint import Checkpointer, load_weights
from detkit.config import to_yaml
from detkit.data import Augmentation, Resize
from detkit.data.images import ImageReading
from detkit.experiment import load_experiment
from detkit.predictor import Predictor
from detkit.registry import ConfigError, DataError
from detkit.structures import BitMasks, Boxes, Instances, Prediction, Sample

ROOT_CONFIG = "configs/quick_start/mask_rcnn_shapes.yaml"


class Brightest(nn.Module):
    """Finds one object in every image: its score is the mean of the red channel, over 255."""

    class_names = ("thing", "other")

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, samples):
        assert not self.training
        assert not torch.is_grad_enabled()
        assert all(s.target is None for s in samples)
        self.calls.append([tuple(s.image.shape) for s in samples])
        return [self.one(s) for s in samples]

    def one(self, sample):
        h, w = sample.original_size
        red = sample.image[0].float().mean() / 255
        return Prediction(
            Instances(
                (h, w),
                boxes=Boxes([[0, 0, w, h]]),
                scores=red[None],
                classes=torch.zeros(1).long(),
                masks=BitMasks(torch.ones(1, h, w)),
            )
        )


def picture(red=255, h=20, w=30):
    out = np.zeros((h, w, 3), np.uint8)
    out[..., 0], out[..., 1] = red, 51
    return out


def score(predictor, image):
    return predictor(image).instances.scores.item()


def test_one_image_gives_a_prediction_and_a_list_gives_a_list():
    predictor = Predictor(Brightest().train())
    one = predictor(picture())
    assert isinstance(one, Prediction)
    assert one.instances.image_size == (20, 30)
    assert one.instances.scores.item() == pytest.approx(1.0)
    many = predictor([picture(), picture(0)])
    assert [m.instances.scores.item() for m in many] == pytest.approx([1.0, 0.0])
    assert predictor([]) == []
    assert predictor.class_names == ("thing", "other")


def test_lists_run_in_batches_and_in_order():
    model = Brightest()
    outputs = Predictor(model, batch_size=2)([picture(51 * i, h=10 + i) for i in range(5)])
    assert [len(call) for call in model.calls] == [2, 2, 1]
    assert [o.instances.scores.item() for o in outputs] == pytest.approx([i / 5 for i in range(5)])
    assert [o.instances.image_size[0] for o in outputs] == [10, 11, 12, 13, 14]


def test_every_kind_of_image_is_the_same_image(tmp_path):
    predictor = Predictor(Brightest())
    array = picture(102)
    Image.fromarray(array).save(tmp_path / "a.png")
    alpha = np.concatenate([array, np.full((20, 30, 1), 7, np.uint8)], 2)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    kinds = [
        array, alpha, tensor, Image.fromarray(array), Image.fromarray(alpha), tmp_path / "a.png", f"{tmp_path}/a.png",
        array[:, ::-1],
    ]  # fmt: skip
    for kind in kinds:
        assert score(predictor, kind) == pytest.approx(0.4)
        assert predictor(kind).instances.image_size == (20, 30)


def test_grayscale_becomes_three_channels():
    predictor = Predictor(Brightest())
    gray = np.full((20, 30), 51, np.uint8)
    for kind in (gray, gray[..., None], torch.from_numpy(gray)[None], torch.from_numpy(gray), Image.fromarray(gray)):
        assert score(predictor, kind) == pytest.approx(0.2)
    assert all(shape == (3, 20, 30) for (shape,) in predictor.model.calls)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (np.zeros((20, 30, 3)), "float64"),
        (torch.zeros(3, 20, 30), r"max_value=1\.0"),
        (np.zeros((3, 20, 30), np.uint8), r"shape \(3, 20, 30\)"),
        (np.zeros((2, 20, 30, 3), np.uint8), "in a list"),
        (np.zeros((0, 30, 3), np.uint8), "expected"),
        (Image.new("F", (4, 4)), "max_value"),
        (4.2, "float"),
    ],
)
def test_other_things_are_refused_with_what_is_expected(wrong, words):
    with pytest.raises(ValueError, match=words) as error:
        Predictor(Brightest())(wrong)
    assert "uint8" in str(error.value)


def test_files_that_are_missing_or_broken_are_named(tmp_path):
    (tmp_path / "b.png").write_text("no image")
    for name in ("b.png", "missing.png"):
        with pytest.raises(DataError, match=name):
            Predictor(Brightest())(tmp_path / name)


def test_augmentations_change_what_the_model_sees_and_not_the_pixels_of_the_output():
    model = Brightest()
    out = Predictor(model, augmentations=[Resize(size=(8, 10))])(picture()).instances
    assert model.calls == [[(3, 8, 10)]]
    assert out.image_size == (20, 30)
    assert out.boxes.tolist() == [[0, 0, 30, 20]]


class Noise(Augmentation):
    def __call__(self, record, rng):
        return type(record)(**{**record.__dict__, "image": rng.integers(0, 255, record.image.shape).astype(np.uint8)})


def test_predictions_do_not_depend_on_what_came_before():
    predictor = Predictor(Brightest(), augmentations=[Noise()])
    assert score(predictor, picture()) == score(predictor, picture())


def test_options_are_checked():
    with pytest.raises(ValueError, match="batch_size"):
        Predictor(Brightest(), batch_size=0)
    with pytest.raises(ConfigError, match="nowhere"):
        Predictor(Brightest(), device="nowhere")
    for given in ("output/run", None):
        with pytest.raises(ValueError, match=r"expected a model; Predictor\.from_run\(FOLDER\) takes a run"):
            Predictor(given)


@pytest.mark.parametrize("words", ["[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes", "another"])
def test_too_little_memory_is_said_with_what_to_lower(words):
    class Large(Brightest):
        def one(self, sample):
            raise RuntimeError(words)

    expected = r"out of memory .* with 2 images of up to 30 x 20 pixels at a time\. Take fewer \(--batch-size"
    error, match = (RuntimeError, words) if words == "another" else (MemoryError, expected)
    with pytest.raises(error, match=match):
        Predictor(Large())([picture(), picture(h=10)])


@pytest.fixture
def folder(tmp_path):
    for name, red in (("b.jpg", 0), ("a.PNG", 255), ("sub/c.png", 102)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(picture(red)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("x")
    return tmp_path


def test_folders(folder):
    predictor = Predictor(Brightest(), batch_size=2)
    found = list(predictor.predict_folder(folder))
    assert [p.name for p, _ in found] == ["a.PNG", "b.jpg"]
    assert found[0][1].instances.scores.item() == pytest.approx(1.0)
    assert [p.name for p, _ in predictor.predict_folder(folder, recursive=True)] == ["a.PNG", "b.jpg", "c.png"]
    (folder / "aa.png").write_text("broken")
    before = []
    with pytest.raises(DataError, match=r"aa\.png: .*skip_unreadable=True"):
        before.extend(path.name for path, _ in predictor.predict_folder(folder))
    assert before == ["a.PNG"]
    assert [p.name for p, _ in predictor.predict_folder(folder, skip_unreadable=True)] == ["a.PNG", "b.jpg"]
    with pytest.raises(DataError, match="no such folder"):
        predictor.predict_folder(folder / "missing")
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match="no image"):
        predictor.predict_folder(folder / "empty")


def test_images_are_read_as_those_that_the_model_was_tested_on(run, tmp_path):
    """``reading`` of the test dataset goes with the run."""
    for dataset in ("{name: CocoInstances, json_file: a, image_root: b, reading: {max_value: 4095}}",):
        joined = f"{{name: ConcatDataset, datasets: [{dataset}]}}"
        for node in (dataset, joined):
            predictor = Predictor.from_run(run[0], overrides=[f"data.test_dataset={node}"])
            assert predictor.reading == ImageReading(max_value=4095)
    Image.fromarray(np.full((20, 30), 2048, np.uint16)).save(tmp_path / "deep.png")
    assert (predictor.sample(tmp_path / "deep.png").image == 128).all()
    assert Predictor.from_run(run[0]).reading == ImageReading()


def test_videos_frame_by_frame(tmp_path):
    pytest.importorskip("av")
    from detkit.visualization import VideoWriter

    with VideoWriter(tmp_path / "clip.mp4", 10) as writer:
        for red in (0, 102, 204):
            writer.write(picture(red, 64, 96))
    model = Brightest()
    found = list(Predictor(model, batch_size=2).predict_video(tmp_path / "clip.mp4"))
    assert [number for number, _, _ in found] == [0, 1, 2]
    assert all(frame.shape == (64, 96, 3) for _, frame, _ in found)
    assert [o.instances.scores.item() for _, _, o in found] == pytest.approx([0, 0.4, 0.8], abs=0.05)
    assert [len(call) for call in model.calls] == [2, 1]


def test_videos_without_pyav_say_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match="pip install"):
        next(Predictor(Brightest()).predict_video("clip.mp4"))


def test_pictures_are_named_after_files_and_never_overwritten(folder):
    predictor = Predictor(Brightest())
    images = [folder / "a.PNG", folder / "sub" / "c.png", picture(), folder / "a.PNG"]
    files = predictor.write_pictures(images, predictor(images), folder / "out")
    assert [f.name for f in files] == ["a.png", "c.png", "000002.png", "a_2.png"]
    before = images[1].read_bytes()
    assert [f.name for f in predictor.write_pictures(images[1:2], predictor(images[1:2]), folder / "sub")] == [
        "c_2.png"
    ]
    assert images[1].read_bytes() == before
    drawn, low = np.array(Image.open(files[0])), np.array(Image.open(files[1]))
    assert (drawn[100, 100] != (255, 51, 0)).any()
    assert (low != (102, 51, 0)).any()  # its score, 0.4, is below the threshold: it is the best there is
    assert (predictor.draw(images[1], predictor(images[1]), show_best=0) == (102, 51, 0)).all()


def test_coco_results():
    predictor = Predictor(Brightest())
    outputs = predictor([picture(), picture(51)])
    rows = json.loads(json.dumps(predictor.to_coco_results(outputs, ["x", 7])))
    assert [r["image_id"] for r in rows] == ["x", 7]
    assert rows[0]["bbox"] == [0, 0, 30, 20]
    assert rows[0]["category_id"] == 1
    assert rows[1]["score"] == pytest.approx(0.2)
    assert [r["image_id"] for r in predictor.to_coco_results(outputs)] == [1, 2]


@pytest.fixture(scope="module")
def run(tmp_path_factory, pytestconfig):
    """The folder of a run that never trained: a tiny model that keeps all of its detections."""
    folder = tmp_path_factory.mktemp("run")
    exp = load_experiment(
        pytestconfig.rootpath / ROOT_CONFIG,
        [
            "model.roi_heads.box_head.detection.score_thresh=0.0",
            "model.roi_heads.box_head.detection.max_detections=3",
            "data.train_dataset.num_images=2",
            "data.test_augmentations=[{name: ResizeShortestEdge, short_edge: [64], max_size: 96}]",
        ],
    )
    torch.manual_seed(1)
    model = exp.build_model().eval()
    (folder / "config.yaml").write_text(to_yaml(exp.tree))
    Checkpointer(folder).save("model_final", model, config=exp.tree)
    Checkpointer(folder).save("checkpoint_0000003", model, config=exp.tree, trainer_state={})
    return folder, exp, model


def same(a, b):
    a, b = a.instances, b.instances
    return torch.equal(a.boxes.tensor, b.boxes.tensor) and torch.equal(a.masks.tensor, b.masks.tensor)


IMAGE = np.random.default_rng(0).integers(0, 255, (90, 120, 3)).astype(np.uint8)


def test_a_misspelt_run_is_answered_with_the_nearest(run):
    with pytest.raises(DataError, match=rf"does not exist. Did you mean '.*{run[0].name}'"):
        Predictor.from_run(f"{run[0]}x")


def test_from_run_is_the_model_of_the_run(run):
    folder, _, model = run
    predictor = Predictor.from_run(folder)
    out = predictor(IMAGE)
    assert out.instances.image_size == (90, 120)
    assert out.instances.masks.shape == (3, 90, 120)
    assert predictor.class_names == model.class_names
    resized = predictor.sample(IMAGE).image
    assert resized.shape[1:] == (64, 85)
    with torch.no_grad():
        assert same(out, model([Sample(resized, (90, 120))])[0])


def test_config_and_weights_or_weights_alone_are_the_same_model(run):
    folder, _, _ = run
    expected = Predictor.from_run(folder)(IMAGE)
    assert same(Predictor.from_weights(folder / "model_final.pth", config=folder / "config.yaml")(IMAGE), expected)
    assert same(Predictor.from_weights(folder / "model_final.pth")(IMAGE), expected)
    fewer = Predictor.from_weights(folder / "model_final.pth", ["model.roi_heads.box_head.detection.max_detections=1"])
    assert len(fewer(IMAGE).instances) == 1


def test_a_run_without_final_weights_gives_its_newest_checkpoint(run, tmp_path, caplog):
    folder, _, _ = run
    shutil.copytree(folder, tmp_path / "stopped")
    (tmp_path / "stopped" / "model_final.pth").unlink()
    assert same(Predictor.from_run(tmp_path / "stopped")(IMAGE), Predictor.from_run(folder)(IMAGE))
    assert "checkpoint_0000003.pth" in caplog.text
    assert same(Predictor.from_run(folder, folder / "checkpoint_0000003.pth")(IMAGE), Predictor.from_run(folder)(IMAGE))
    with pytest.raises(DataError, match=r"there is no 'other\.pth' in it"):
        Predictor.from_run(folder, "other.pth")


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"config\.yaml"):
        Predictor.from_run(tmp_path)
    (tmp_path / "model_final.pth").touch()
    with pytest.raises(DataError, match=r"is a file, and a run is a folder; Predictor\.from_weights"):
        Predictor.from_run(tmp_path / "model_final.pth")


def test_weights_without_names_or_config(run, tmp_path, caplog):
    folder, exp, model = run
    torch.save(model.state_dict(), tmp_path / "bare.pth")
    predictor = Predictor.from_weights(tmp_path / "bare.pth", config=folder / "config.yaml")
    assert predictor.class_names == exp.data.train_set.class_names
    assert not [r for r in caplog.records if r.levelname == "WARNING"]
    with pytest.raises(DataError, match="carries no config"):
        Predictor.from_weights(tmp_path / "bare.pth")


def test_weights_that_do_not_fill_the_model_are_refused(run, tmp_path):
    folder, _, model = run
    state = {k: v for k, v in model.state_dict().items() if "mask_head" not in k}
    torch.save({"model": state, "class_names": list(model.class_names)}, tmp_path / "part.pth")
    with pytest.raises(DataError, match="mask_head"):
        Predictor.from_weights(tmp_path / "part.pth", config=folder / "config.yaml")


def test_classes_come_from_the_checkpoint(run, tmp_path):
    folder, exp, _ = run
    model = exp.build_model(class_names=["cat", "dog"])
    Checkpointer(tmp_path).save("two", model)
    predictor = Predictor.from_weights(tmp_path / "two.pth", config=folder / "config.yaml")
    assert predictor.class_names == ("cat", "dog")
    assert load_weights(predictor.model, tmp_path / "two.pth").complete


def test_results_have_the_ids_that_the_training_data_gave_the_classes(run, tmp_path):
    folder, _, model = run
    ids = tuple(10 * n for n in range(1, len(model.class_names) + 1))
    model.category_ids = ids
    Checkpointer(tmp_path).save("numbered", model)
    model.category_ids = None
    predictor = Predictor.from_weights(tmp_path / "numbered.pth", config=folder / "config.yaml")
    assert predictor.category_ids == ids
    prediction = predictor(IMAGE)
    rows = predictor.to_coco_results([prediction])
    assert [row["category_id"] for row in rows] == [ids[c] for c in prediction.instances.classes.tolist()]
    assert Predictor.from_run(folder).to_coco_results([prediction])[0]["category_id"] < 10


def test_classes_without_names_in_the_weights_have_the_names_and_ids_of_the_training_data(run, tmp_path):
    folder, exp, model = run
    torch.save({"model": model.state_dict()}, tmp_path / "bare.pth")
    predictor = Predictor.from_weights(tmp_path / "bare.pth", config=folder / "config.yaml")
    assert predictor.category_ids == exp.data.train_set.category_ids


def test_weights_of_torchvision_predict_cocos_classes_without_its_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DETKIT_DATASETS", raising=False)
    theirs = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None)
    torch.save(theirs.state_dict(), "theirs.pth")
    predictor = Predictor.from_weights("theirs.pth", config="torchvision/faster_rcnn_mobilenet_v3_large_320_FPN")
    assert len(predictor.class_names) == len(predictor.category_ids) == 80
    assert dict(zip(predictor.class_names, predictor.category_ids))["toothbrush"] == 90


def test_precision_takes_a_faster_copy_and_leaves_the_model():
    model = load_experiment(ROOT_CONFIG).build_model(class_names=("a", "b", "c"))
    predictor = Predictor(model, device="cpu", precision="bf16")
    assert predictor.model is not model
    assert predictor.class_names == ("a", "b", "c")
    assert isinstance(predictor(picture(h=64, w=64)), Prediction)
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert Predictor(model, device="cpu").model is model
    with pytest.raises(ValueError, match="expected one of fp32, bf16"):
        Predictor(model, device="cpu", precision="half")


def test_a_config_that_came_with_weights_cannot_take_more_memory_than_they_fill(run, tmp_path):
    folder, *_ = run
    content = torch.load(folder / "model_final.pth", weights_only=True)
    content["config"]["model"]["roi_heads"]["box_head"]["fc_dims"] = [10**13]
    torch.save(content, tmp_path / "strangers.pth")
    with pytest.raises(DataError, match=r"in the file, \(10000000000000, \d+\) in the model"):
        Predictor.from_weights(tmp_path / "strangers.pth")
