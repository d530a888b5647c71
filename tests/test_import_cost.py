"""``import detkit`` loads next to nothing, and the heavy optional libraries are loaded only where they are used."""

import subprocess
import sys

HEAVY = ("matplotlib", "av", "tensorboard", "faster_coco_eval", "pandas", "scipy", "wandb")


def run(code: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.check_output([sys.executable, "-W", "ignore", "-c", code], text=True).strip()


def test_importing_detkit_loads_neither_torch_nor_a_package_of_its_own():
    loaded = "sorted(m for m in sys.modules if m.startswith('detkit.') or m in ('torch', 'numpy', 'omegaconf'))"
    assert run(f"import sys, detkit; print({loaded})") == "[]"


def test_heavy_libraries_are_not_loaded_by_importing_everything():
    """Nor those that torchvision does not load itself, as its older versions do PyAV."""
    loaded = f"{{m for m in {HEAVY} if m in sys.modules}}"
    code = f"import sys, torch, torchvision; theirs = {loaded}; import detkit.experiment, detkit.predictor"
    assert run(f"{code}; print(sorted({loaded} - theirs))") == "[]"
