"""detkit show on the project's own configs."""

from pathlib import Path

import pytest
import yaml

from detkit import command_line
from detkit.commands import show as show_command
from detkit.config import ConfigError, complete, load_config, parse
from detkit.experiment import Experiment
from detkit.modeling.interfaces import MASK_HEADS
from detkit.registry import Registry

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "quick_start" / "mask_rcnn_shapes.yaml"


@pytest.fixture
def show(capsys):
    def run(*argv: str) -> str:
        assert show_command.main([str(arg) for arg in argv]) == 0
        return capsys.readouterr().out

    return run


def test_the_complete_config_is_printed_and_loads_again(show, tmp_path):
    text = show("--config-file", CONFIG, "model.neck.out_channels=16")
    path = tmp_path / "complete.yaml"
    path.write_text(text)
    first = parse(load_config(CONFIG, ["model.neck.out_channels=16"]).tree, Experiment)
    assert parse(load_config(path).tree, Experiment) == first
    assert load_config(path).tree == complete(first)


def test_overrides_may_stand_anywhere(show):
    assert "16" in show("model.neck.out_channels=16", "--config-file", CONFIG, "--why", "model.neck.out_channels")


def test_the_list_names_every_role_and_every_class(show):
    text = show("--list")
    for base, registry in Registry.of.items():
        assert f"{registry.role} ({base.__name__}" in text
        for name in registry.names():
            assert f"\n  {name} " in text or f"\n  {name}\n" in text


def test_the_list_says_which_configs_use_a_part_also_by_a_default(show):
    lines = show("--list", "RoIAlignPooler").splitlines()
    assert lines[0].startswith("RoIAlignPooler: in ")
    assert "  coco/mask_rcnn_R_50_FPN_1x" in lines
    assert "  matterport/mask_rcnn_R_50_FPN" not in lines
    assert "  coco/mask_rcnn_R_50_FPN_1x" in show("--list", "GridSampleMaskPaster").splitlines()  # a default
    heads = show("--list", "MaskHead")
    assert "ConvUpsampleMaskHead: in " in heads
    with pytest.raises(ConfigError, match=r"no class 'FPM'\. Did you mean 'FPN'"):
        show("--list", "FPM")


def test_the_list_has_what_the_config_imports(show, tmp_path):
    (tmp_path / "listed_head.py").write_text(
        "from detkit.modeling.interfaces import MASK_HEADS, MaskHead\n"
        "@MASK_HEADS.register()\nclass ListedMaskHead(MaskHead):\n"
        '    """Does nothing.\n\n    Args:\n        strength: how much.\n    """\n'
        "    def __init__(self, input_shape: dict, num_classes: int, *, strength: float = 0.5): pass\n"
    )
    path = tmp_path / "c.yaml"
    path.write_text(f"_base_: {CONFIG}\nimports: [listed_head.py]\n")
    try:
        assert "ListedMaskHead             Does nothing." in show("--trust-imports", "--list", "--config-file", path)
        assert "strength: float = 0.5\n        how much." in show(
            "--options", "ListedMaskHead", "--config-file", path, "--trust-imports"
        )
        text = show("--trust-imports", "--config-file", path, "model.roi_heads.mask_head=ListedMaskHead")
        assert yaml.safe_load(text)["imports"] == [str(tmp_path / "listed_head.py")]
    finally:
        MASK_HEADS.forget(MASK_HEADS.get("ListedMaskHead").__module__)


def test_options_of_a_class_of_nested_options_and_of_a_role(show):
    text = show("--options", "ConvUpsampleMaskHead")
    assert "num_conv: int (>= 0) = 4" in text
    assert "runtime arguments, passed by its owner: input_shape, num_classes" in text
    assert "batch_size: int (>= 1) = 16" in show("--options", "DataConfig")
    assert "ConvUpsampleMaskHead" in show("--options", "MaskHead")


def test_options_of_a_path(show):
    text = show("--config-file", CONFIG, "--options", "model.roi_heads.mask_head")
    assert text.startswith("ConvUpsampleMaskHead (mask head)\n")
    assert "model.roi_heads.mask_head takes mask head node | null; registered: ConvUpsampleMaskHead" in text
    removed = show("--config-file", CONFIG, "--options", "model.roi_heads.mask_head", "model.roi_heads.mask_head=null")
    assert "an option of StandardRoIHeads" in removed
    assert "registered: ConvUpsampleMaskHead" in removed
    assert "model.neck.out_channels: int (>= 1) = 256" in show(
        "--config-file", CONFIG, "--options", "model.neck.out_channels"
    )


def test_a_config_with_names_of_before_is_shown_with_those_of_today(show, tmp_path):
    (tmp_path / "renamed_head.py").write_text(
        "from detkit.modeling.interfaces import MASK_HEADS, MaskHead\n"
        "@MASK_HEADS.register()\nclass RenamedMaskHead(MaskHead):\n"
        '    """Does nothing.\n\n    Args:\n        strength: how much.\n    """\n'
        '    renamed_from = ("EarlierMaskHead",)\n    renamed_options = {"force": "strength"}\n'
        "    def __init__(self, input_shape: dict, num_classes: int, *, strength: float = 0.5): pass\n"
    )
    path = tmp_path / "c.yaml"
    node = "{name: EarlierMaskHead, force: 0.25}"
    path.write_text(f"_base_: {CONFIG}\nimports: [renamed_head.py]\nmodel: {{roi_heads: {{mask_head: {node}}}}}\n")
    try:
        tree = yaml.safe_load(show("--trust-imports", "--config-file", path))
        assert tree["model"]["roi_heads"]["mask_head"] == {"name": "RenamedMaskHead", "strength": 0.25}
        why = show("--trust-imports", "--config-file", path, "--why", "model.roi_heads.mask_head")
        assert why.count("c.yaml:3") == 2
    finally:
        MASK_HEADS.forget(MASK_HEADS.get("RenamedMaskHead").__module__)


def test_why_names_file_override_and_default(show):
    def why(path, *overrides):
        return show("--config-file", CONFIG, "--why", path, *overrides)

    assert "mask_rcnn_shapes.yaml:" in why("model.neck.out_channels")
    assert "mask_rcnn_R_50_FPN.yaml:" in why("model.neck.name")
    assert "override 'model.neck.out_channels=7'" in why("model.neck.out_channels", "model.neck.out_channels=7")
    assert "default of FPN (" in why("model.neck.fuse")
    assert len(why("model.neck").splitlines()) > 3


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--options", "ConvUpsampleMaskHed"], "Did you mean 'ConvUpsampleMaskHead'?"),
        (["--config-file", CONFIG, "--why", "model.nek"], "Did you mean 'neck'?"),
        (["--config-file", CONFIG, "--options", "model.nek"], "Did you mean 'neck'?"),
        (["--config-file", CONFIG, "model.roi_heads.mask_head.num_cov=2"], "Did you mean 'num_conv'?"),
        (["--config-file", "no.yaml"], "no.yaml: there is no such file"),
    ],
)
def test_a_mistake_in_the_question_is_told(argv, words):
    with pytest.raises(ConfigError) as caught:
        show_command.main([str(arg) for arg in argv])
    assert words in str(caught.value)


def test_a_question_without_a_config_is_refused(capsys):
    with pytest.raises(SystemExit) as caught:
        show_command.main(["--why", "model"])
    assert caught.value.code == 2
    assert "give a CONFIG" in capsys.readouterr().err


def test_two_questions_at_once_are_refused(capsys):
    with pytest.raises(SystemExit):
        show_command.main([str(CONFIG), "--why", "model", "--options", "model"])
    assert "not allowed with argument --why" in capsys.readouterr().err


def test_the_shell_gets_2_and_the_message_alone(capsys):
    argv = ["--config-file", str(CONFIG), "model.neck.out_chanels=3"]
    assert command_line.run(lambda: show_command.main(argv)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "model.neck: FPN has no option 'out_chanels'. Did you mean 'out_channels'?" in err
    assert "Traceback" not in err


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit):
        show_command.main(["--help"])
    assert "--why model.neck.out_channels" in capsys.readouterr().out
