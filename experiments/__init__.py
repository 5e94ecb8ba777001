"""Tables and figures by command; see README.md in this folder."""

# Every item, each a module with `main(argv)`.
__all__ = [
    "accuracy",
    "beta",
    "fairness",
    "fedrac",
    "fragility",
    "free_riders",
    "overhead",
    "populations",
    "psi_error",
    "released",
    "rivals",
    "robustness",
    "schedule",
    "steadiness",
    "weights",
]
