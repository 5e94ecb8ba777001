# %% [markdown]
# # Take a client's model out, and evaluate it elsewhere
#
# `save_models=True` (`--save-models`) keeps the models of the evaluation that counts, as plain
# arrays. On the command line one is taken out by `cgsv export RUN --method cgsv --client 3 --out
# client.npz`.

# %%
import pathlib
import tempfile

import numpy as np

import cgsv_jax as cg
from cgsv_jax import results

run = pathlib.Path(tempfile.mkdtemp()) / "run"
cg.compare("digits", 4, methods="cgsv", rounds=3, seeds=1, save_models=True, out=run)

# %% [markdown]
# Keys are those of the tables: partition, method, partition seed, seed. The network is built
# again from what the directory says; one of your own is handed over, `results.models(run,
# model)`.

# %%
kept = results.models(run)["class_imbalance", "cgsv", 0, 0]
data = cg.data.load("digits")
for client in range(4):
    logits = kept.model.apply(kept.params(client), data.test_inputs)
    accuracy = np.mean(np.argmax(logits, axis=1) == data.test_labels)
    assert np.float32(accuracy) == kept.accuracy[client]  # to the last row
