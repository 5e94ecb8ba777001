"""How many whole programs are traced."""

from cgsv_jax.core import simulation


def counted(patch):
    """A list that grows by one with every program traced, as long as the patch holds."""
    traces, advance = [], simulation.advance

    def counting(*args, **kwargs):
        traces.append(1)
        return advance(*args, **kwargs)

    patch.setattr(simulation, "advance", counting)
    return traces
