# %% [markdown]
# # A measure of your own
#
# What an upload is worth to the others is a function of the uploads of a round. `cg.stateless`
# makes a contribution measure of it: `upload` holds the updates `deltas` [N, D], their `norms`,
# training losses and who is `present`; scores [N] come out. CGSV with it stands beside CGSV as it
# is published.

# %%
import cgsv_jax as cg


def longest(upload):  # who moves most is worth most
    return upload.present * upload.norms


mine = cg.cgsv(gamma=0.5, contribution=cg.stateless(cg.Contribution, longest))
result = cg.compare("digits", 4, methods={"cgsv": "cgsv", "mine": mine}, rounds=5, seeds=1)
print(result.table())

# %% [markdown]
# Of every round and client `result.frames["rounds"]` has the score and the reputation that came
# of it.

# %%
last = result.frames["rounds"].filter(method="mine", round=5)
assert last["score"].to_list() == last["update_norm"].to_list()
assert abs(last["reputation"].sum() - 1) < 1e-5
