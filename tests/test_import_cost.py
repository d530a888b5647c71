"""``import detkit`` is cheap, and the heavy optional libraries are loaded only where they are used."""

import statistics
import subprocess
import sys

PROBE = "import time, torch, torchvision; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"
HEAVY = ("matplotlib", "av", "tensorboard", "faster_coco_eval", "pandas", "scipy", "wandb")


def seconds(module: str) -> float:
    """The median time that ``import module`` adds to torch's and torchvision's."""
    command = [sys.executable, "-W", "ignore", "-c", PROBE.format(module)]
    return statistics.median(float(subprocess.check_output(command, text=True)) for _ in range(3))


def test_importing_detkit_costs_less_than_a_third_of_a_second():
    assert seconds("detkit") < 0.3


def test_heavy_libraries_are_not_loaded_by_importing_everything():
    """Nor those that torchvision does not load itself, as its older versions do PyAV."""
    loaded = f"{{m for m in {HEAVY} if m in sys.modules}}"
    code = f"import sys, torch, torchvision; theirs = {loaded}; import detkit.experiment, detkit.predictor"
    command = [sys.executable, "-W", "ignore", "-c", f"{code}; print(sorted({loaded} - theirs))"]
    assert subprocess.check_output(command, text=True).strip() == "[]"
