"""start: a fresh interpreter until the model's code is there, and loading weights into a model"""

import subprocess
import sys
from collections.abc import Callable

import torch

from detkit.benchmark.models import make_image, make_pair
from detkit.benchmark.options import ImportOptions
from detkit.benchmark.report import Report, Row
from detkit.benchmark.timing import Contestant, measure
from detkit.checkpoint import load_weights

THEIRS = "import torchvision.models.detection"
OURS = "import detkit.predictor"


def _fresh(code: str) -> Callable[[], object]:
    return lambda: subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def run(options: ImportOptions) -> Report:
    """Measures. The baselines are importing torchvision's detectors, and ``load_state_dict`` of its Mask R-CNN."""
    pair = make_pair(64, make_image((64, 64)))
    state = {name: value.clone() for name, value in pair.theirs.state_dict().items()}
    contestants = [
        Contestant(THEIRS, _fresh(THEIRS), memory=False),
        Contestant(OURS, _fresh(OURS), memory=False),
        Contestant("torchvision load_state_dict", lambda: pair.theirs.load_state_dict(state)),
        Contestant("detkit load_weights of torchvision's", lambda: load_weights(pair.ours, state)),
    ]
    with torch.no_grad():
        measured = measure(contestants, rounds=options.rounds, warmup=options.warmup)
    rows = [Row.of(m, measured[number // 2 * 2]) for number, m in enumerate(measured)]
    return Report("start, Mask R-CNN R-50-FPN", rows, {}, options.plain())
