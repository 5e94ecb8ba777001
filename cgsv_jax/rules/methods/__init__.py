"""Named methods. A new method is one file and one line of `METHODS`."""

from cgsv_jax.rules.compose import ComposedState, compose, needs_of
from cgsv_jax.rules.methods.cffl import CFFL, cffl
from cgsv_jax.rules.methods.cgsv import CGSV, cgsv, cgsv_released
from cgsv_jax.rules.methods.ditto import DITTO, ditto
from cgsv_jax.rules.methods.eci import ECI, eci
from cgsv_jax.rules.methods.fair_yet_equal import FAIR_YET_EQUAL, fair_yet_equal
from cgsv_jax.rules.methods.fedadam import FEDADAM, fedadam
from cgsv_jax.rules.methods.fedave import FEDAVE, fedave
from cgsv_jax.rules.methods.fedavg import FEDAVG, fedavg
from cgsv_jax.rules.methods.fedavg_finetuned import FEDAVG_FINETUNED, fedavg_finetuned
from cgsv_jax.rules.methods.fedavgm import FEDAVGM, fedavgm
from cgsv_jax.rules.methods.fedper import FEDPER, fedper
from cgsv_jax.rules.methods.fedprox import FEDPROX, fedprox
from cgsv_jax.rules.methods.fedrac import FEDRAC, fedrac
from cgsv_jax.rules.methods.fedsac import FEDSAC, fedsac
from cgsv_jax.rules.methods.fedyogi import FEDYOGI, fedyogi
from cgsv_jax.rules.methods.iafl import IAFL, iafl
from cgsv_jax.rules.methods.lg_fedavg import LG_FEDAVG, lg_fedavg
from cgsv_jax.rules.methods.q_ffl import Q_FFL, q_ffl
from cgsv_jax.rules.methods.random_reward import RANDOM_REWARD, random_reward
from cgsv_jax.rules.methods.rank import RANK, rank
from cgsv_jax.rules.methods.rffl import RFFL, rffl
from cgsv_jax.rules.methods.scaffold import SCAFFOLD, scaffold
from cgsv_jax.rules.methods.shapfed_wa import SHAPFED_WA, shapfed_wa
from cgsv_jax.rules.methods.size_weighted import SIZE_WEIGHTED, size_weighted
from cgsv_jax.rules.methods.standalone import STANDALONE, standalone
from cgsv_jax.rules.methods.witness import WITNESS, witness
from cgsv_jax.rules.private import private
from cgsv_jax.rules.removal import Removal
from cgsv_jax.rules.then import then

METHODS = {
    "standalone": STANDALONE,
    "fedavg": FEDAVG,
    "fedavg_finetuned": FEDAVG_FINETUNED,
    "fedprox": FEDPROX,
    "fedavgm": FEDAVGM,
    "fedadam": FEDADAM,
    "fedyogi": FEDYOGI,
    "scaffold": SCAFFOLD,
    "fedper": FEDPER,
    "lg_fedavg": LG_FEDAVG,
    "ditto": DITTO,
    "q_ffl": Q_FFL,
    "size_weighted": SIZE_WEIGHTED,
    "random_reward": RANDOM_REWARD,
    "cffl": CFFL,
    "rffl": RFFL,
    "eci": ECI,
    "iafl": IAFL,
    "fedsac": FEDSAC,
    "fedrac": FEDRAC,
    "rank": RANK,
    "shapfed_wa": SHAPFED_WA,
    "fedave": FEDAVE,
    "fair_yet_equal": FAIR_YET_EQUAL,
    "cgsv": CGSV,
    "witness": WITNESS,
}

__all__ = [
    "METHODS",
    "ComposedState",
    "Removal",
    "cffl",
    "cgsv",
    "cgsv_released",
    "compose",
    "ditto",
    "eci",
    "fair_yet_equal",
    "fedadam",
    "fedave",
    "fedavg",
    "fedavg_finetuned",
    "fedavgm",
    "fedper",
    "fedprox",
    "fedrac",
    "fedsac",
    "fedyogi",
    "iafl",
    "lg_fedavg",
    "needs_of",
    "private",
    "q_ffl",
    "random_reward",
    "rank",
    "rffl",
    "scaffold",
    "shapfed_wa",
    "size_weighted",
    "standalone",
    "then",
    "witness",
]
