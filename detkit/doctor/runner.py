"""Running the checks, and the report on what they find: a table for the eye, JSON for programs."""

import dataclasses
import json
import logging
import os
from collections import Counter
from collections.abc import Sequence

from tabulate import tabulate

from detkit.config import ConfigError
from detkit.doctor.interfaces import CHECKS, SEVERITIES, Check, CheckContext, Finding
from detkit.experiment import Experiment
from detkit.modeling import MetaArch
from detkit.registry import DataError
from detkit.utils import atomic_write
from detkit.utils.distributed import world_size

logger = logging.getLogger(__name__)
SHOWN = 3
"""Examples a row of the table."""


def run_checks(context: CheckContext) -> list[Finding]:
    """What all registered checks find, errors first. The quick form runs only those that are quick."""
    found = [dataclasses.replace(finding, check="CheckContext") for finding in context.findings]
    for name, check in CHECKS:
        if (context.quick and not check.quick) or any(getattr(context, need) is None for need in check.needs):
            continue
        found += [dataclasses.replace(finding, check=name) for finding in _run(check(), context)]
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


def _run(check: Check, context: CheckContext) -> list[Finding]:
    """What a check finds. Where it fails itself, on a part that it does not know, the others run all the same."""
    try:
        return list(check(context))
    except (ConfigError, DataError) as error:
        return [Finding("error", "config", str(error), "the message says what to do")]
    except Exception as error:  # whatever users' datasets and augmentations raise on a record without pixels
        logger.debug("a check failed", exc_info=True)
        what = f"the check itself failed and says nothing: {type(error).__name__}: {error}"
        fix = "mend the dataset, augmentation or check; log.txt has the trace"
        return [Finding("note", type(check).__name__, what, fix)]


def check_at_start(experiment: Experiment, model: MetaArch) -> list[Finding]:
    """The quick form for the start of a training, when data and model are there; it changes nothing and draws nothing.

    Warnings and notes go to the log, and are given back.

    Raises:
        ConfigError: there are errors; it lists them, with the fix of each.
    """
    found = run_checks(CheckContext(experiment, quick=True, num_processes=world_size()).use(model))
    errors = [finding for finding in found if finding.severity == "error"]
    if errors:
        raise ConfigError(_lines(errors) + "\ntrain.doctor=false trains all the same; detkit doctor says more")
    if found:
        level = logging.WARNING if exit_code(found) else logging.INFO  # notes alone are no warning
        logger.log(level, "the doctor (detkit doctor says more; train.doctor=false for none)\n%s", _lines(found))
    return found


def _lines(findings: Sequence[Finding]) -> str:
    return "\n".join(
        f"  {f.severity}: {f.where}: {f.what}"
        + (f" ({f.count}: {'; '.join([*f.examples][:3])}{'; ...' if f.count > 3 else ''})" if f.examples else "")
        + f". {f.fix}"
        for f in findings
    )


def exit_code(findings: Sequence[Finding]) -> int:
    """2 where there are errors, 1 where there are warnings, 0 for notes or nothing."""
    worst = {finding.severity for finding in findings}
    return 2 if "error" in worst else 1 if "warning" in worst else 0


def findings_table(findings: Sequence[Finding]) -> str:
    """A row a finding, then what belongs below the table, then a line that counts."""
    rows = [[f.severity, f.where, f.what, f.count, _examples(f), f.fix] for f in findings]
    headers = ["severity", "where", "what", "how many", "examples", "fix"]
    widths = [None, 26, 36, None, 40, 32]
    parts = [tabulate(rows, headers, tablefmt="grid", maxcolwidths=widths)] if rows else []  # type: ignore[arg-type]
    parts += [f"{f.where}: {f.what}\n{f.detail}" for f in findings if f.detail]
    counts = Counter(f.severity for f in findings)
    said = ", ".join(f"{counts[s]} {s}{'s' if counts[s] != 1 else ''}" for s in SEVERITIES if counts[s])
    return "\n\n".join([*parts, said or "nothing is wrong that the doctor knows of"])


def write_findings(findings: Sequence[Finding], path: str | os.PathLike[str]) -> None:
    """Writes a JSON list with an object a finding."""
    with atomic_write(path, "w") as file:
        json.dump([dataclasses.asdict(finding) for finding in findings], file, indent=1)
        file.write("\n")


def _examples(finding: Finding) -> str:
    shown, more = list(finding.examples)[:SHOWN], finding.count - SHOWN
    return "\n".join([*shown, *([f"and {more} more"] if shown and more > 0 else [])])
