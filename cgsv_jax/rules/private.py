"""Private entries: a part of the model that no server sees and no reward moves."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from cgsv_jax.core import vectors
from cgsv_jax.types import (
    Algorithm,
    ArrayTree,
    Download,
    Network,
    PRNGKey,
    Spans,
    Standing,
    Upload,
)


def private(algorithm: Algorithm, spans: Spans) -> Algorithm:
    """The algorithm on all entries but these, which stay each client's own.

    With P the private entries and S all others, the algorithm is shown dw_i on S and 0 on P, and

        v_i = its reward on S,  dw_i on P.

    So u_N, quotas and energies are of what is shared, norms and cosines too. Who starts from the
    server's model, or is evaluated on it, has w_N on S and its own entries on P. The server's own
    model stays at w_0 on P: it is nobody's, and the accuracy of the server says what its shared
    layers are worth under random private ones. O(N D) a round more.

    What is kept on P is the update that was sent: of a client whose update an attack has forged,
    the forged one.

    >>> from cgsv_jax.rules.methods import fedavg
    >>> private(fedavg(), ((8, 20),)).private
    ((8, 20),)

    Args:
      algorithm: any whose rules know models by their updates alone. A quota that it gives out is a
        number of entries of the whole vector: beyond those that are shared there is nothing to get.
        Where it is one of each tensor, as in `cgsv:released`, private tensors are counted in it.
      spans: (start, stop) of stretches of the vector, for instance those of the tensors whose name
        says so in `cg.vectors.tensors(params)`, or of some of `Network.layers()`.

    Raises:
      ValueError: a span is none, the algorithm trains personal models beside, or judges models on
        validation rows, for which the server lacks the private entries, or has private ones
        already; or (when its state is made) a span ends beyond the vector, or nothing is shared.
    """
    spans = tuple((int(start), int(stop)) for start, stop in spans)
    if wrong := [span for span in spans if not 0 <= span[0] < span[1]]:
        raise ValueError(f"spans holds {wrong[0]}, it must hold (start, stop), 0 <= start < stop")
    if algorithm.needs.validation:
        raise ValueError("a server that judges models on validation rows must know all entries")
    if algorithm.personal is not None:
        raise ValueError(
            "the algorithm keeps a whole model of each client: nothing is left to keep"
        )
    if algorithm.private:
        raise ValueError("the algorithm has private entries already: give all spans at once")

    def init(num_clients: int, num_parameters: int) -> ArrayTree:
        last = max((stop for _, stop in spans), default=0)
        if last > num_parameters:
            raise ValueError(f"spans ends at {last}, it must end within {num_parameters} entries")
        places = np.zeros(num_parameters, bool)
        for start, stop in spans:
            places[start:stop] = True
        if places.all():
            raise ValueError(f"spans holds all {num_parameters} entries: nothing is shared")
        return algorithm.init(num_clients, num_parameters)

    def update(
        key: PRNGKey, upload: Upload, state: ArrayTree
    ) -> tuple[Download, Standing, ArrayTree]:
        mine = vectors.within(spans, upload.server.size)  # [D]
        deltas = jnp.where(mine[None, :], 0.0, upload.deltas)
        sent = upload._replace(deltas=deltas, norms=vectors.norms(deltas))
        if upload.gradients is not None:
            sent = sent._replace(gradients=jnp.where(mine[None, :], 0.0, upload.gradients))
        download, standing, state = algorithm.update(key, sent, state)
        aggregate = jnp.where(mine, 0.0, download.aggregate)
        energy = download.energy
        if energy is None:
            received = jnp.where(mine[None, :], 0.0, download.rewards)
            energy = vectors.energies(received, aggregate)
        rewards = jnp.where(mine[None, :], upload.deltas, download.rewards)
        shared = jnp.sum(~mine, dtype=download.quota.dtype)
        quota = jnp.minimum(download.quota, shared)
        return (
            download._replace(aggregate=aggregate, rewards=rewards, quota=quota, energy=energy),
            standing,
            state,
        )

    return algorithm._replace(init=init, update=jax.jit(update), private=spans)


def parted(network: Network | None, name: str, last: int, nothing: str) -> tuple[Spans, Spans]:
    """The entries of all layers but the last k, and those of the last k.

    Args:
      network: knows the layers.
      name: of the option that k is.
      last: k.
      nothing: what is not, where there are no more layers than these.

    Raises:
      ValueError: there are not, or the layers are not known.
    """
    layers = () if network is None else network.layers()
    if len(layers) <= last:
        raise ValueError(
            f"{name} is {last}, it must be less than the {len(layers)} layers of the model: "
            f"nothing would be {nothing}"
        )
    below, above = (tuple(itertools.chain(*own)) for own in (layers[:-last], layers[-last:]))
    return below, above
