"""Parts of a user's own that leave out options, or compute while they are built; and options that do not fit."""

import pytest
import torch
from tiny_detector import TINY, tiny_experiment

from detkit.checkpoint import Checkpointer
from detkit.config import ConfigError, parse
from detkit.experiment import load_experiment
from detkit.predictor import Predictor
from detkit.solver.interfaces import Optimizer
from detkit.training import train

OWN = {
    "rates": """
        import torch
        from detkit.modeling.interfaces import NECKS
        from detkit.modeling.necks import FPN

        @NECKS.register()
        class RateFPN(FPN):
            def __init__(self, input_shape, *, out_channels: int):
                super().__init__(input_shape, out_channels=out_channels)
                self.rates = [rate.item() for rate in torch.linspace(0, 0.1, 4)]
        """,
    "steps": """
        from detkit.solver.interfaces import OPTIMIZERS
        from detkit.solver.optimizers import SGD, AdamW

        @OPTIMIZERS.register()
        class FewOptionsSGD(SGD):
            def __init__(self, model, lr_scale, *, lr: float):
                super().__init__(model, lr_scale, lr=lr)

        @OPTIMIZERS.register()
        class FewOptionsAdamW(AdamW):
            def __init__(self, model, lr_scale, *, lr: float):
                super().__init__(model, lr_scale, lr=lr)
        """,
    "backbones": """
        from detkit.modeling.interfaces import BACKBONES
        from detkit.modeling.backbones import Swin

        @BACKBONES.register()
        class SmallSwin(Swin):
            def __init__(self, input_shape, *, embed_dim: int = 8):
                super().__init__(input_shape, embed_dim=embed_dim, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2))
        """,
}


@pytest.fixture
def own(tmp_path):
    for name, code in OWN.items():
        lines = [line[8:] for line in code.splitlines()]
        (tmp_path / f"{name}.py").write_text("\n".join(lines))

    def load(*imports: str, **model: object):
        node = {"_base_": "quick_start/mask_rcnn_shapes", "imports": [str(tmp_path / f"{i}.py") for i in imports]}
        return load_experiment({**node, "model": model}, TINY[3:])

    return load


def test_a_part_that_computes_with_values_while_it_is_built_predicts(own, tmp_path):
    experiment = own("rates", neck={"name": "RateFPN", "out_channels": 16})
    experiment.check_model()
    model = experiment.build_model(class_names=["a", "b"]).eval()
    assert model.neck.rates[-1] == pytest.approx(0.1)
    path = Checkpointer(tmp_path).save("model_final", model, config=experiment.tree)
    predictor = Predictor.from_weights(path, trust_imports=True)
    for name, value in predictor.model.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])
    assert predictor(torch.zeros(3, 64, 64, dtype=torch.uint8)).instances.image_size == (64, 64)
    assert experiment.build_shapes(2, class_names=None, keypoints=None).neck.rates == model.neck.rates


def test_a_backbone_with_fewer_options_goes_with_a_neck(own):
    model = own("backbones", backbone={"name": "SmallSwin"}).build_model(2)
    assert len(model.neck.laterals) == 4


@pytest.mark.parametrize("name", ["FewOptionsSGD", "FewOptionsAdamW"])
def test_an_optimizer_with_fewer_options_is_not_asked_of_those_that_it_lacks(own, name):
    own("steps")
    recipe = parse({"name": name, "lr": 0.5}, Optimizer)
    assert recipe(torch.nn.Linear(2, 2), 0.5).param_groups[0]["lr"] == 0.25


ANCHORS, POOLER = "model.proposal_generator.anchor_generator.sizes", "model.roi_heads.box_head.pooler"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([f"{ANCHORS}=[[12], [24]]"], rf"^{ANCHORS}: 2 lists for 5 feature levels"),
        (["model.neck.top_block=null"], rf"^{ANCHORS}: 5 lists for 4 feature levels"),
        (["model.roi_heads.in_features=[p9]"], r"^model\.roi_heads\.in_features: no feature named p9"),
        (
            [f"model.preprocess.{name}=[1, 2, 3, 4]" for name in ("pixel_mean", "pixel_std")]
            + ["model.preprocess.channel_order=BGR"],
            r"^model\.preprocess: 4 values of pixel_mean, .*BGR only to images of three channels",
        ),
    ],
)
def test_options_that_do_not_fit_together_are_said_before_data_are_read(overrides, words, tmp_path):
    nothing = [
        f"data.{part}_dataset={{name: CocoInstances, json_file: none.json, image_root: none}}"
        for part in ("train", "test")
    ]
    experiment = tiny_experiment(f"train.output_dir={tmp_path / 'run'}", *overrides, *nothing)
    with pytest.raises(ConfigError, match=words):
        train(experiment, False, None)
    assert not (tmp_path / "run").exists()
