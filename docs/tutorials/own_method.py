# %% [markdown]
# # A method of your own, with a state and a number
#
# A part of a method is a pair `(init, update)`. Here the server's step gathers momentum, as that of
# the built-in `fedavgm`: the state is the last step [D], the number `roll` is declared, so that it
# may be set and swept.

# %%
import jax.numpy as jnp

import cgsv_jax as cg
from cgsv_jax.rules.spec import Interval, Number, Spec

mean = cg.fedavg()


def rolling(roll):
    def init(num_clients, num_parameters):
        return mean.init(num_clients, num_parameters), jnp.zeros(num_parameters)

    def update(key, upload, state):
        download, standing, inner = mean.update(key, upload, state[0])
        step = roll * state[1] + download.aggregate
        rewards = jnp.broadcast_to(step, download.rewards.shape)
        return download._replace(aggregate=step, rewards=rewards), standing, (inner, step)

    return cg.Algorithm(init, update, common=mean.common)


# %% [markdown]
# A `Spec` says how it is built and of which numbers; in a file with `METHODS = {"rolling":
# ROLLING}` it is a plugin, `cgsv sweep --plugin FILE --algorithms rolling --roll 0,0.5,0.9`. A name
# that the package has is refused.

# %%
ROLLING = Spec(rolling, {"roll": Number(0.9, Interval(0, 1), "momentum of the server", "roll")})
methods = {"fedavg": "fedavg", "rolling": ROLLING}
still = cg.compare("digits", 4, methods=methods, roll=0.0, rounds=5, seeds=1)
moving = cg.compare("digits", 4, methods=methods, roll=0.5, rounds=5, seeds=1)
(_, plain, same), (*_, other) = (r.frames["summary"]["mean_accuracy"] for r in (still, moving))
assert abs(plain - same) < 1e-6
assert other != plain
