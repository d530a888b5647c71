import numpy as np
import pytest
from PIL import Image

from detkit import command_line
from detkit.commands import visualize_data
from detkit.experiment import load_experiment

SMALL = ["data.train_dataset.num_images=6", "data.test_dataset.num_images=3"]


@pytest.fixture(scope="module")
def config(pytestconfig):
    return str(pytestconfig.rootpath / "configs/quick_start/mask_rcnn_shapes.yaml")


def test_training_images_as_the_loader_gives_them(config, tmp_path, capsys):
    out = tmp_path / "look"
    assert visualize_data.main(["--config-file", config, "--num", "4", "--output", str(out), *SMALL]) == 0
    assert len(list(out.glob("*.png"))) == 4
    said = capsys.readouterr().out
    assert "6 images" in said  # the dataset's summary
    assert str(out) in said


def test_pictures_show_the_augmented_image_with_its_target(config, tmp_path):
    crop = "data.train_augmentations=[{name: Resize, size: [300, 700]}]"
    assert visualize_data.main(["--config-file", config, "--num", "1", "--output", str(tmp_path), crop, *SMALL]) == 0
    (file,) = tmp_path.glob("*.png")
    width, height = Image.open(file).size
    assert width == 700
    assert 300 < height < 340  # and a title above
    exp = load_experiment(config, [crop, *SMALL])
    sample = next(iter(exp.data.train(exp.train.seed)))[0]
    plain = sample.image.permute(1, 2, 0).numpy()
    assert (np.array(Image.open(file))[-300:] != plain).any()


def test_test_images_go_to_the_run_folder_and_end_with_the_dataset(config, tmp_path, capsys):
    folder = f"train.output_dir={tmp_path}"
    assert visualize_data.main(["--config-file", config, "--split", "test", "--num", "50", folder, *SMALL]) == 0
    assert len(list((tmp_path / "data_test").glob("*.png"))) == 3
    assert "3 pictures" in capsys.readouterr().out


def test_the_same_samples_that_training_begins_with(config, tmp_path):
    exp = load_experiment(config, SMALL)
    assert visualize_data.main([config, "--num", "11", "--output", str(tmp_path), *SMALL]) == 0
    shown = [int(path.stem.partition("_")[2]) for path in sorted(tmp_path.glob("*.png"))]
    batches = iter(exp.data.train(exp.train.seed))
    trained = [s.image_id for batch in (next(batches), next(batches)) for s in batch]
    assert shown == trained[:11]


@pytest.mark.parametrize(("argument", "words"), [("data.train_dataset.num_imgs=3", "num_imgs"), ("nonsense", "=")])
def test_mistakes_end_with_their_message_alone(config, capsys, argument, words):
    assert command_line.run(lambda: visualize_data.main([config, argument])) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit):
        visualize_data.main(["--help"])
    assert "examples:" in capsys.readouterr().out
