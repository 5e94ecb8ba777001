"""One peer and this package on one case: the same end first, then the times, in turn."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from benchmarks.peers import environments, ours, protocol, work
from cgsv_jax.experiment import timing

PeerError = protocol.PeerError


class Comparison(NamedTuple):
    """What was measured; one repeat is one round of all clients."""

    peer: str  # its title
    versions: dict[str, str]  # of its distributions, and what else it tells of itself
    case: work.Case
    theirs: timing.Timing
    ours: timing.Timing
    ratio: timing.Timing  # theirs / ours, repeat by repeat
    gap: float  # ‖ours - theirs‖ / ‖theirs - start‖ after the first round
    last_gap: float  # after the last one
    startup: float  # seconds from the start of the peer's process until it was ready
    first: float  # seconds of the peer's first round, which compiles
    our_first: float


def compare(
    peer: str,
    case: str | work.Case,
    repeats: int = 5,
    smoke: bool = False,
    *,
    clients: int | None = None,
    limit: float = 600,
    width: int | None = None,
) -> Comparison:
    """Installs the peer if need be, checks that both sides agree, and times rounds in turn.

    Args:
        peer: key of `environments.PEERS`.
        case: a case or its key in `work.CASES`. One with `rounds` is repeated as often as that.
        repeats: timed rounds of each side.
        smoke: a tiny version of the case whose times mean nothing.
        clients: fewer of them than the case has.
        limit: seconds that the peer may take for any one round.
        width: layout of ours; default: the case's on a CPU, all at once elsewhere.

    Raises:
        PeerError: the peer cannot be installed, fails, is too slow, or ends at other parameters.
    """
    environment = environments.prepare(peer)
    if environment.python is None:
        raise PeerError(environment.error)
    chosen = environments.PEERS[peer]
    command = (str(environment.python), *chosen.program)
    case = work.CASES[case] if isinstance(case, str) else case
    case = work.smoke(case) if smoke else case
    case = work.fewer(case, clients) if clients else case
    if width is None and jax.default_backend() == "cpu":
        width = case.width
    made = work.make(case)
    federation = ours.build(made, width)
    repeats = case.rounds or repeats
    return measure(chosen.title, command, made, federation, repeats, limit)


def measure(
    title: str,
    command: Sequence[str],
    made: work.Work,
    federation: protocol.Federation,
    repeats: int,
    limit: float = 600,
) -> Comparison:
    """Times a peer's program beside a federation in this process.

    Args:
        title: of the peer.
        command: interpreter and arguments of its program.
        made: the work of both.
        federation: ours.
        repeats: timed rounds of each side.
        limit: seconds that the peer may take for any one round.

    Raises:
        PeerError: as in `compare`.
    """
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        work.save(made, Path(folder))
        with protocol.Peer(command, Path(folder), limit) as peer:
            # The first round compiles.
            first = peer.advance(1)
            our_first = timing.once(lambda: federation.advance(1))
            gap = _agree(peer, federation, made, made.case.tolerance)
            calls: dict[str, Callable[[], object]] = {
                "theirs": lambda: peer.advance(1),
                "ours": lambda: federation.advance(1),
            }
            # A published run's rounds take minutes: the first one must do.
            times = timing.alternate(calls, repeats, warmup=0 if made.case.rounds else 1)
            # Every timed round did the same work, too: a client that failed in one would show.
            # Rounding grows from step to step, most where max-pooling meets ties.
            last_gap = _agree(peer, federation, made, 10 * made.case.tolerance)
            return Comparison(
                peer=title,
                versions=peer.versions,
                case=made.case,
                theirs=times["theirs"],
                ours=times["ours"],
                ratio=timing.ratio(times["theirs"], times["ours"]),
                gap=gap,
                last_gap=last_gap,
                startup=peer.startup,
                first=first,
                our_first=our_first,
            )


def _agree(
    peer: protocol.Peer, federation: protocol.Federation, made: work.Work, tolerance: float
) -> float:
    gap = work.gap(made.start, peer.parameters(), federation.parameters())
    if not gap < tolerance:  # NaN is not smaller either
        raise PeerError(f"it ends elsewhere: the relative gap is {gap:.1e}")
    return gap
