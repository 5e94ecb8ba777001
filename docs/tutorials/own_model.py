# %% [markdown]
# # A network of flax.nnx
#
# `from_nnx` takes the function that builds the module, since every seed draws a start of its own;
# `from_linen` and `from_equinox` do the same for these libraries. Dropout is on while a client
# trains and off where it is evaluated. BatchNorm's statistics are no parameters, and are refused:
# GroupNorm has none.

# %%
import numpy as np
from flax import nnx

import cgsv_jax as cg


class Net(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(64, 32, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.out = nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, images):
        x = nnx.relu(self.hidden(images.reshape(len(images), -1)))
        return self.out(self.dropout(x))


data = cg.data.load("digits")
clients = cg.partition.class_imbalance(np.random.default_rng(0), data.labels, 4)
result = cg.compare(data, clients, cg.models.from_nnx(lambda rngs: Net(rngs)), rounds=5, seeds=1)
print(result.table())

# %%
assert result.cells[0].num_parameters == 64 * 32 + 32 + 32 * 10 + 10
assert result.frames["summary"].filter(method="cgsv")["mean_accuracy"].item() > 0.1
