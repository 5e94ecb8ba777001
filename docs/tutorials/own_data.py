# %% [markdown]
# # Data and a division of your own
#
# A data set is four arrays: inputs [n, ...] and labels [n] to train on, and others to test with.
# Who holds which rows is a list of row numbers for every client. All that is wrong with them is
# named in one error.

# %%
import numpy as np

import cgsv_jax as cg

rng = np.random.default_rng(0)
labels = rng.integers(0, 3, 600)
inputs = (rng.normal(size=(600, 5)) + 2 * np.eye(3, 5)[labels]).astype(np.float32)
data = cg.Dataset(inputs[:400], labels[:400], inputs[400:], labels[400:])
clients = cg.partition.from_lists([range(0, 10), range(10, 60), range(60, 400)])
model = cg.models.mlp((5,), num_classes=3, hidden=())

# %% [markdown]
# Nobody has chosen a learning rate for these rows: say your own.

# %%
training = {"rounds": 10, "seeds": 2, "learning_rate": 0.2, "batch_size": 16}
result = cg.compare(data, clients, model, ["fedavg", "cgsv"], **training)
print(result.table())
alone = result.frames["clients"].filter(method="standalone").sort("seed", "client")
assert alone["rows"].to_list() == [10, 50, 340] * 2
assert result.frames["summary"]["mean_accuracy"].min() > 0.5
