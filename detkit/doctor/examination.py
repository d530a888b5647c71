"""The examination: all checks on one patient, and what comes of them."""

import dataclasses
import logging
from collections.abc import Sequence

from detkit.config import ConfigError
from detkit.doctor.interfaces import CHECKS, SEVERITIES, Check, Finding
from detkit.doctor.patient import Patient
from detkit.experiment import Experiment
from detkit.modeling import MetaArch
from detkit.registry import DataError
from detkit.utils.distributed import world_size

logger = logging.getLogger(__name__)


def examine(patient: Patient) -> list[Finding]:
    """What all registered checks find, errors first. In the quick form only those that are quick are made."""
    found = [dataclasses.replace(finding, check="Patient") for finding in patient.findings]
    for name, check in CHECKS:
        if (patient.quick and not check.quick) or any(getattr(patient, need) is None for need in check.needs):
            continue
        found += [dataclasses.replace(finding, check=name) for finding in _made(check(), patient)]
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


def _made(check: Check, patient: Patient) -> list[Finding]:
    """What a check finds. Where it fails itself, on a part that it does not know, the others are made all the same."""
    try:
        return list(check(patient))
    except (ConfigError, DataError) as error:
        return [Finding("error", "config", str(error), "the message says the way out")]
    except Exception as error:  # whatever users' datasets and augmentations raise on a record without pixels
        logger.debug("a check failed", exc_info=True)
        what = f"the check itself failed and says nothing: {type(error).__name__}: {error}"
        return [
            Finding(
                "note", type(check).__name__, what, "mend the dataset, augmentation or check; log.txt has the trace"
            )
        ]


def examine_at_start(experiment: Experiment, model: MetaArch) -> None:
    """The quick form for the start of a training, when data and model are there; it changes nothing and draws nothing.

    Warnings and notes go to the log.

    Raises:
        ConfigError: there are errors; it lists them, with the way out of each.
    """
    patient = Patient(experiment, quick=True, num_processes=world_size()).take(model)
    found = examine(patient)
    errors = [finding for finding in found if finding.severity == "error"]
    if errors:
        raise ConfigError(_lines(errors) + "\ntrain.doctor=false trains all the same; tools/doctor.py says more")
    if found:
        logger.warning("the doctor (tools/doctor.py says more; train.doctor=false for none)\n%s", _lines(found))


def exit_code(findings: Sequence[Finding]) -> int:
    """2 where there are errors, 1 where there are warnings, 0 for notes or nothing."""
    worst = {finding.severity for finding in findings}
    return 2 if "error" in worst else 1 if "warning" in worst else 0


def _lines(findings: Sequence[Finding]) -> str:
    return "\n".join(
        f"  {f.severity}: {f.where}: {f.what}"
        + (f" ({f.how_many}: {'; '.join(f.examples[:3])}{'; ...' if f.how_many > 3 else ''})" if f.examples else "")
        + f". {f.fix}"
        for f in findings
    )
