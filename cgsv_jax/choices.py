"""Words that a rule is told."""


def choice(name: str, value: str, *allowed: str) -> str:
    """The word itself.

    Raises:
      ValueError: it is none of those allowed.
    """
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}, it must be {' or '.join(allowed)}")
    return value
