"""A folder of one's own data as an experiment: its parts as datasets, and settings that fit what lies there."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from detkit.config import Config, complete, load_config, parse, parts_of
from detkit.config.named import CONFIGS
from detkit.data import open_dataset
from detkit.data.formats.dataset import FormatDataset, open_folder
from detkit.data.formats.parts import by_purpose, purpose
from detkit.data.interfaces import Dataset
from detkit.experiment.experiment import Experiment, load_experiment
from detkit.experiment.own_settings import Facts, Setting, derived
from detkit.registry import DataError, did_you_mean
from detkit.utils.file_names import file_stem
from detkit.utils.logging import quiet
from detkit.utils.words import amount

VAL_FRACTION = 0.2
"""The share of a folder without parts that is evaluated on, where nobody says another."""


@dataclasses.dataclass(frozen=True)
class OwnData:
    """A config for a folder.

    Args:
        config: the config's name or file.
        overrides: for ``load_experiment``: what the folder decides, and then what the caller gave.
        notes: what was recognised and what follows from it, for people.
        trust_imports: see ``load_experiment``.
    """

    config: str | Path | Mapping[str, Any]
    overrides: list[str]
    notes: str = ""
    trust_imports: bool | None = None

    def experiment(self, *more: str) -> Experiment:
        """The experiment, with ``more`` overrides."""
        experiment = load_experiment(self.config, [*self.overrides, *more], trust_imports=self.trust_imports)
        experiment.notes = self.notes
        return experiment


def own_data(
    folder: str | os.PathLike[str],
    config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    *,
    format: str | None = None,
    val_fraction: float | None = None,
    class_names: str | Sequence[str] | None = None,
    trust_imports: bool | None = None,
) -> OwnData:
    """The config and the overrides with which an experiment is about the data in ``folder``.

    Any config gets the folder's parts as its datasets. One of ``configs/own_data``, or one that has such a base, also
    gets the settings that fit the data; what the user's own YAML or ``overrides`` say stays.

    Args:
        folder: data in any format that ``open_dataset`` reads.
        config: what is trained; None is a small Mask R-CNN where the objects have masks, else a small Faster R-CNN.
        overrides: the caller's changes.
        format: the data's format; None recognises it.
        val_fraction: the share of the images that is evaluated on where the folder has no such part; None is 0.2.
        class_names: the classes to take, a text with commas between them or a sequence; None for all. Images with none
            of them are backgrounds.
        trust_imports: see ``load_experiment``.

    Raises:
        DataError: nothing readable lies there, or nothing to train or evaluate on.
        ConfigError: the config or an override is wrong, or it lists code that may not run.
    """
    share = VAL_FRACTION if val_fraction is None else val_fraction
    if not isinstance(share, int | float) or not 0 < share < 1:
        raise DataError(f"val_fraction: expected a number between 0 and 1, got {share!r}")
    names = [name.strip() for name in class_names.split(",")] if isinstance(class_names, str) else class_names
    chosen = None if names is None else tuple(names)
    nodes, (dataset, tested), notes = _datasets(folder, format, share, chosen)
    if val_fraction is not None and nodes[0].value["val_fraction"] is None:
        notes += "; it has a part to evaluate on, so val_fraction is not needed"
    facts, facts_tested = Facts.of(dataset, "train on"), Facts.of(tested, "evaluate on")
    if config is None:
        config = f"own_data/{'mask' if facts.has_masks else 'faster'}_rcnn_small"
    source = config if isinstance(config, Mapping) else Path(config)
    changes = [*map(str, nodes), *overrides]
    load_experiment(source, changes, trust_imports=trust_imports)  # what is wrong in it is said before anything follows
    fitting = _fitting(load_config(source, changes, Experiment, "skip"), facts, facts_tested)
    table = [(s.path, json.dumps(s.value), s.reason) for s in fitting]
    notes += f"; {source} trains on it"
    notes += f"\n{tabulate(table, ('setting', 'value', 'why'), disable_numparse=True)}" if table else ""
    return OwnData(source, [*map(str, [*nodes, *fitting]), *overrides], notes, trust_imports)


def evaluation_data(
    folder: str | os.PathLike[str],
    config: str | os.PathLike[str] | Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    format: str | None = None,
    class_names: Sequence[str] | None = None,
    trust_imports: bool | None = None,
) -> OwnData:
    """The config and the overrides with which ``folder`` is evaluated on: its validation part, else its test part.

    A folder without either is evaluated on as a whole, but of one that the config trains on, only what it leaves for
    evaluation. The classes are ``class_names``, or those that the config's training data name; data that do not list
    their classes may lack objects of some. What is found on other data
    goes to a folder of its own, ``on_<folder>`` in the run's, unless ``overrides`` name one: the run keeps its results.

    Args and errors: as for ``own_data``; ``class_names`` are those of the model, None where it does not know them.
    """
    source = config if isinstance(config, Mapping) else Path(config)
    experiment = load_experiment(source, overrides, trust_imports=trust_imports)
    everything = open_dataset(folder, format, check_images=0)
    parts = by_purpose(everything.splits)
    if any(
        _is_same(folder, trained) and (not parts or purpose(trained.get("split") or "") in ("", *parts))
        for _, _, trained in parts_of(experiment.data.train_dataset, FormatDataset, "")
    ):
        notes = f"{folder}: the run was trained on a part, the other is evaluated on"
        return OwnData(source, list(overrides), notes, trust_imports)
    split = parts.get("val", parts.get("test"))
    node: dict[str, Any] = {"name": "AutoDataset", "path": os.fspath(folder), "format": format, "split": split}
    names = class_names or experiment.data.train_dataset.kwargs.get("class_names")
    unknown = [name for name in names or () if name not in everything.class_names]
    if unknown and (everything.lists_classes or len(unknown) == len(names or ())):
        raise DataError(
            f"{folder}: has no class {', '.join(map(repr, unknown[:5]))}{', ...' if len(unknown) > 5 else ''}, which "
            f"the model knows; it has {', '.join(everything.class_names[:20])}. Give data with the same classes"
        )
    node |= {"val_fraction": None, "class_names": names}
    notes = f"{folder}: {everything.format}; {split or 'all of it'} to evaluate on"
    name = file_stem(Path(os.path.abspath(folder)).stem)
    own_folder = Setting("train.output_dir", os.path.join(experiment.train.output_dir, f"on_{name}"), "")
    changes = [*map(str, (Setting("data.test_dataset", node, ""), own_folder)), *overrides]
    return OwnData(source, changes, notes, trust_imports)


def _is_same(path: str | os.PathLike[str], trained: Mapping[str, Any]) -> bool:
    """Whether a path means the folder, or the file in it, that a dataset with these options was read from."""
    try:
        folders = [open_folder(os.fspath(text), "path") for text in (path, trained["path"])]
    except DataError:  # what was trained on is no longer there
        return False
    same = len({os.path.realpath(folder.path) for folder in folders}) == 1
    return same and len({folder.given for folder in folders} - {None}) < 2


def _datasets(
    folder: str | os.PathLike[str], format: str | None, share: float, chosen: tuple[str, ...] | None
) -> tuple[list[Setting], tuple[Dataset, Dataset], str]:
    """The nodes of the two datasets, these, and what was recognised."""
    everything = open_dataset(folder, format, class_names=chosen, check_images=0)
    present = {everything.class_names[number] for number in set(everything.objects().classes.tolist())}
    if not everything.lists_classes and (unseen := [name for name in chosen or () if name not in present]):
        near = did_you_mean(unseen[0], open_dataset(folder, format, check_images=0).class_names)
        raise DataError(f"{folder}: class_names: no object is of the class '{unseen[0]}'.{near}")
    parts = by_purpose(everything.splits)
    node: dict[str, Any] = {"name": "AutoDataset", "path": os.fspath(folder), "format": format, "val_fraction": None}
    train, test = parts.get("train"), parts.get("val", parts.get("test"))
    why = f"{train} to train on, {test} to evaluate on"
    if unused := [part for part in everything.splits if part not in (train, test)]:
        why += f"; {', '.join(unused)} not used (data.test_dataset.split={unused[0]} evaluates on it)"
    if everything.divisible:
        train, test, node["val_fraction"] = "train", "val", share
        why = f"no part to evaluate on: {share:.0%} of the images are, by a hash of their names"
    if train is None or test is None:
        what = f"has no part to {'train' if train is None else 'evaluate'} on; there are {', '.join(everything.splits)}"
        raise DataError(f"{folder}: {what}. Name one train and one val, as the others are named")
    groups = everything.groups if chosen is None else ()
    why += f"; {', '.join(groups)} only groups other classes and is left out" if groups else ""
    names = [name for name in everything.class_names if name not in groups]
    nodes = [
        Setting(f"data.{option}", {**node, "split": part, "class_names": names}, "")
        for option, part in (("train_dataset", train), ("test_dataset", test))
    ]
    options = {"val_fraction": node["val_fraction"], "class_names": tuple(names), "check_images": 0}
    with quiet("detkit.data"):  # it was said of everything
        pair = (open_dataset(folder, format, train, **options), open_dataset(folder, format, test, **options))
    return (
        nodes,
        pair,
        f"{folder}: {everything.format}, {amount(len(everything), 'image')}, {amount(len(names), 'class')}; {why}",
    )


def _fitting(given: Config, facts: Facts, tested: Facts) -> list[Setting]:
    """What the data decide of a config with a template below it, and the user does not say."""
    if not any(os.path.abspath(where).startswith(_FOLDERS[0]) for where in given.sources.values()):
        return []
    tree = complete(parse(given.tree, Experiment, sources=given.sources))
    settings = derived(tree, facts, tested, lambda path: not _is_template(given, path))
    return [setting for setting in settings if _is_template(given, setting.path)]


_FOLDERS = tuple(f"{os.path.abspath(CONFIGS / name)}{os.sep}" for name in ("own_data", "_base_"))


def _is_template(given: Config, path: str) -> bool:
    """Whether detkit's own files say what stands at ``path``, and no YAML or override of the user's."""
    below = [where for key, where in given.sources.items() if key == path or key.startswith((f"{path}.", f"{path}["))]
    return bool(below) and all(os.path.abspath(where).startswith(_FOLDERS) for where in below)
