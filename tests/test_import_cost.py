"""``import detkit`` is cheap, and the heavy optional libraries are loaded only where they are used."""

import subprocess
import sys

PROBE = "import time, torch, torchvision; start = time.process_time(); import {}; print(time.process_time() - start)"
HEAVY = ("matplotlib", "av", "tensorboard", "faster_coco_eval", "pandas", "scipy", "wandb")


def seconds(module: str) -> float:
    """The processor time that ``import module`` adds to torch's and torchvision's, which load does not change."""
    command = [sys.executable, "-W", "ignore", "-c", PROBE.format(module)]
    return float(subprocess.check_output(command, text=True))


def test_importing_detkit_costs_less_than_a_third_of_a_second():
    assert seconds("detkit") < 0.3


def test_heavy_libraries_are_not_loaded_by_importing_everything():
    """Nor those that torchvision does not load itself, as its older versions do PyAV."""
    loaded = f"{{m for m in {HEAVY} if m in sys.modules}}"
    code = f"import sys, torch, torchvision; theirs = {loaded}; import detkit.experiment, detkit.predictor"
    command = [sys.executable, "-W", "ignore", "-c", f"{code}; print(sorted({loaded} - theirs))"]
    assert subprocess.check_output(command, text=True).strip() == "[]"
