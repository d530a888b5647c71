"""Words of messages."""

from collections.abc import Sequence

_MOST_NAMES = 5


def amount(number: int, noun: str) -> str:
    """``number`` with its noun: "1 image", "2 images", "2 classes"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}{'es' if noun.endswith('s') else 's'}"


def and_others(message: str, names: Sequence[str]) -> str:
    """``message`` of the first of several, and what else the same is wrong with; as it is where nothing else is."""
    if not names:
        return message
    shown = ", ".join(f"'{name[:100]}'" for name in names[:_MOST_NAMES])
    return f"{message}. The same is wrong with {len(names)} more: {shown}{', ...' if len(names) > _MOST_NAMES else ''}"
