"""``import detkit`` loads next to nothing, and the heavy optional libraries are loaded only where they are used."""

import subprocess
import sys

import pytest

HEAVY = ("matplotlib", "av", "tensorboard", "faster_coco_eval", "pandas", "scipy", "wandb")


def run(code: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.check_output([sys.executable, "-W", "ignore", "-c", code], text=True).strip()


def test_importing_detkit_loads_neither_torch_nor_a_package_of_its_own():
    loaded = "sorted(m for m in sys.modules if m.startswith('detkit.') or m in ('torch', 'numpy', 'omegaconf'))"
    assert run(f"import sys, detkit; print({loaded})") == "[]"


@pytest.mark.parametrize(
    ("library", "options"), [("tabulate", []), ("msgspec", ["-W", "always"]), ("iopath", ["-W", "error"])]
)
def test_importing_detkit_prints_nothing_whatever_its_dependencies_warn_of(tmp_path, library, options):
    """A stand-in for the library warns, and then is the library itself."""
    lines = ["import importlib, sys, warnings"]
    lines += [
        f"warnings.warn('soon to be gone', {kind}Warning, stacklevel=2)" for kind in ("", "Future", "Deprecation")
    ]
    lines += ["del sys.modules[__name__], sys.path[0]", "sys.modules[__name__] = importlib.import_module(__name__)"]
    (tmp_path / f"{library}.py").write_text("\n".join(lines))
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import detkit.predictor, detkit.doctor"
    done = subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_code_outside_of_detkit_may_warn():
    code = "import detkit.registry, warnings; warnings.warn('mine')"
    done = subprocess.run([sys.executable, "-W", "always", "-c", code], capture_output=True, text=True)
    assert "UserWarning: mine" in done.stderr


def test_heavy_libraries_are_not_loaded_by_importing_everything():
    """Nor those that torchvision does not load itself, as its older versions do PyAV."""
    loaded = f"{{m for m in {HEAVY} if m in sys.modules}}"
    code = f"import sys, torch, torchvision; theirs = {loaded}; import detkit.experiment, detkit.predictor"
    assert run(f"{code}; print(sorted({loaded} - theirs))") == "[]"
