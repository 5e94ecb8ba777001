# %% [markdown]
# # Early stopping with TensorBoard
# Every seed of every method ends after three evaluations without a better mean accuracy on the
# server's validation rows, and its accuracies, reputations and fairness go into event files.
# %%
import cgsv_jax as cg

result = cg.compare(
    *("digits", 5),
    methods=["fedavg", "cgsv"],
    rounds=30,
    eval_every=1,
    seeds=2,
    patience=3,
    track=["tensorboard"],
    out="runs/early",
)
result.frames["summary"].select("method", "seed", "stopped_round", "mean_accuracy", "fairness")
# %% [markdown]
# `tensorboard --logdir runs/early/tracking/tensorboard` shows the curves, a run for each seed.
