"""Words of messages."""


def amount(number: int, noun: str) -> str:
    """``number`` with its noun: "1 image", "2 images", "2 classes"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}{'es' if noun.endswith('s') else 's'}"
