"""The same FedAvg round in the simulators that people use: FedJAX, DrJAX, pfl, Flower, BlazeFL.

    python -m benchmarks.peers [--smoke] [--peers fedjax,drjax] [--cases mlp,logistic] [--json FILE]

Each peer runs in a process and an environment of its own (`environments`); `work` and `protocol`
are what both sides share, and need NumPy alone. `with_<peer>` is the peer's side, `ours` is this
package's, `comparison` lets them alternate.
"""

from typing import Any


def compare(peer: str, case: Any, repeats: int = 5, smoke: bool = False, **options: Any) -> Any:
    """`comparison.compare`, imported only when called: peers import this folder without JAX."""
    from benchmarks.peers import comparison

    return comparison.compare(peer, case, repeats, smoke, **options)
