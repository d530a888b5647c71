"""The doctor's role: Check. A check of your own is a class in a file that the config names under ``imports:``."""

from collections.abc import Iterable
from typing import ClassVar

from detkit.doctor.context import CheckContext, Finding
from detkit.registry import Registry


class Check:
    """Looks for mistakes of one kind. All registered checks are run, so one of your own needs no line in the config.

    Attributes:
        needs: attributes of the context that must not be None (``train``, ``test``, ``model``, ``checkpoint``); where
            one is, a finding says why, and the check is left out.
        quick: whether it is run at the start of training too: it reads no images and takes no noticeable time.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    quick: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()

    def __call__(self, context: CheckContext) -> Iterable[Finding]:
        """What is wrong."""
        raise NotImplementedError


CHECKS: Registry[Check] = Registry("check", Check)
