"""Names as people write them: `MNIST` is mnist, `Power-Law` is power_law."""

from collections.abc import Iterable


def meant(word: str, names: Iterable[str]) -> str:
    """The name that a word stands for: one that differs in case and hyphens only, if it is one.

    >>> meant("Power-Law", ["uniform", "power_law"])
    'power_law'
    >>> meant("powerlaw", ["uniform", "power_law"])
    'powerlaw'
    """
    names = list(names)
    if word in names or len(word) > 200:
        return word
    alike = [name for name in names if _folded(name) == _folded(word)]
    return alike[0] if len(alike) == 1 else word


def _folded(word: str) -> str:
    return word.replace("-", "_").casefold()
