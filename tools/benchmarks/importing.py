"""start: a fresh interpreter until the model's code is there, and loading weights into a model"""

import subprocess
import sys
from collections.abc import Callable

import torch

from benchmarks.models import make_image, make_pair
from benchmarks.options import ImportOptions
from benchmarks.report import Report, Row
from benchmarks.timing import Candidate, measure
from detkit.checkpoint import load_weights

THEIRS = "import torchvision.models.detection"
OURS = "import detkit.predictor"


def _fresh(code: str) -> Callable[[], object]:
    return lambda: subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def run(options: ImportOptions) -> Report:
    """Measures. The baselines are importing torchvision's detectors, and ``load_state_dict`` of its Mask R-CNN."""
    pair = make_pair(64, make_image((64, 64)))
    state = {name: value.clone() for name, value in pair.theirs.state_dict().items()}
    candidates = [
        Candidate(THEIRS, _fresh(THEIRS), memory=False),
        Candidate(OURS, _fresh(OURS), memory=False),
        Candidate("torchvision load_state_dict", lambda: pair.theirs.load_state_dict(state)),
        Candidate("detkit load_weights of torchvision's", lambda: load_weights(pair.ours, state)),
    ]
    with torch.no_grad():
        measured = measure(candidates, rounds=options.rounds, warmup=options.warmup)
    rows = [Row.of(m, measured[number // 2 * 2]) for number, m in enumerate(measured)]
    return Report("start, Mask R-CNN R-50-FPN", rows, {}, options.plain())
