# %% [markdown]
# # Clients that send back what they were sent
#
# Three of ten clients train nothing and upload what they received in the round before. To the
# cosine reputation they are the best of all, since they agree with the aggregate. `witness` hears
# a client only where it agrees beyond chance when what the server has sent to it is taken out.

# %%
import cgsv_jax as cg

methods = ("cgsv", "witness")
attack = {"attacks": ("free_rider_replay:3",), "attackers": (2, 5, 8)}
result = cg.compare(
    "digits", 10, methods=methods, partition="uniform", rounds=15, seeds=1, **attack
)

# %% [markdown]
# AUC is the probability that an honest client has the higher reputation: 1 where every honest
# client stands above every attacker, 0 where it is the other way round. The share is that of the
# entries of the aggregate that attackers receive, a mean over rounds.

# %%
summary, seen = result.frames["summary"], {}
for name in methods:
    (row,) = summary.filter(method=name).rows(named=True)
    seen[name] = row["separation"], row["attacker_share"]
    print(f"{name}: AUC {seen[name][0]:.2f}, attackers receive {seen[name][1]:.0%}")
assert seen["cgsv"][0] == 0
assert seen["witness"][0] == 1
assert seen["witness"][1] < seen["cgsv"][1] / 4
