"""A round of FedAvg beside FedJAX: 100 MLP clients and 1,000 logistic clients.

    python -m benchmarks.fedjax_rounds [--scale smoke|full]

FedJAX runs in an environment of its own, made on demand (see benchmarks/peers.md).
"""

from benchmarks import common, peers, table

TARGETS = {"mlp": 1.15, "logistic": 1.3}
REPEATS = {"smoke": 1, "full": 9}


def rows(scale: str = "full") -> list[table.Row]:
    """One row per case.

    Raises:
        PeerError: FedJAX cannot be installed or run, with the reason.
    """
    found = []
    for case, target in TARGETS.items():
        result = peers.compare("fedjax", case, REPEATS[scale], smoke=scale == "smoke")
        names = " ".join(result.versions.values())
        found.append(
            table.Row(
                work=f"FedAvg round, {result.case.title}",
                against=f"FedJAX {names}, jit backend",
                ours=result.ours,
                theirs=result.theirs,
                ratio=result.ratio,
                target=target,
                note=f"parameters agree within {result.gap:.0e}",
            )
        )
    return found


if __name__ == "__main__":
    common.main(rows, __doc__.splitlines()[0])
