"""How a client's worth is measured. A new measure is one file and one line of `CONTRIBUTIONS`."""

from cgsv_jax.core import deprecated
from cgsv_jax.rules.contribution.banzhaf import BANZHAF, banzhaf
from cgsv_jax.rules.contribution.class_cosine import CLASS_COSINE, class_cosine
from cgsv_jax.rules.contribution.cosine import COSINE, cosine
from cgsv_jax.rules.contribution.echo import ECHO, echo
from cgsv_jax.rules.contribution.fgfl import FGFL, fgfl
from cgsv_jax.rules.contribution.foolsgold import FOOLSGOLD, foolsgold
from cgsv_jax.rules.contribution.games import GAMES, Game, cosine_game, validation_game
from cgsv_jax.rules.contribution.gtg_shapley import GTG_SHAPLEY, gtg_shapley
from cgsv_jax.rules.contribution.least_core import LEAST_CORE, least_core
from cgsv_jax.rules.contribution.leave_one_out import LEAVE_ONE_OUT, leave_one_out
from cgsv_jax.rules.contribution.leave_self_out import LEAVE_SELF_OUT, leave_self_out
from cgsv_jax.rules.contribution.projection import PROJECTION, projection
from cgsv_jax.rules.contribution.quotient import QUOTIENT, quotient
from cgsv_jax.rules.contribution.s2_wef import S2_WEF, s2_wef
from cgsv_jax.rules.contribution.sampled_shapley import SAMPLED_SHAPLEY, sampled_shapley
from cgsv_jax.rules.contribution.shapley import SHAPLEY, shapley
from cgsv_jax.rules.contribution.tmc_shapley import TMC_SHAPLEY, tmc_shapley
from cgsv_jax.rules.contribution.validation_accuracy import validation_accuracy
from cgsv_jax.rules.contribution.validation_shapley import VALIDATION_SHAPLEY, validation_shapley
from cgsv_jax.rules.contribution.viceroy import VICEROY, viceroy

# Which of them are values of a game, their declarations say: they have a part "game".
CONTRIBUTIONS = {
    "cosine": COSINE,
    "leave_self_out": LEAVE_SELF_OUT,
    "class_cosine": CLASS_COSINE,
    "echo": ECHO,
    "quotient": QUOTIENT,
    "projection": PROJECTION,
    "shapley": SHAPLEY,
    "sampled_shapley": SAMPLED_SHAPLEY,
    "leave_one_out": LEAVE_ONE_OUT,
    "banzhaf": BANZHAF,
    "least_core": LEAST_CORE,
    "gtg_shapley": GTG_SHAPLEY,
    "tmc_shapley": TMC_SHAPLEY,
    "foolsgold": FOOLSGOLD,
    "viceroy": VICEROY,
    "fgfl": FGFL,
    "s2_wef": S2_WEF,
}

_REPUTATIONS = (
    *("accumulated", "moving_average", "participation_rate", "random_share", "sharpened"),
    *("size_share", "standalone_accuracy"),
)
__getattr__ = deprecated.names(
    __name__,
    {"MEASURES": "cgsv_jax.contribution.CONTRIBUTIONS"}
    | {name: f"cgsv_jax.reputation.{name}" for name in _REPUTATIONS},
)

__all__ = [
    "CONTRIBUTIONS",
    "GAMES",
    "VALIDATION_SHAPLEY",
    "Game",
    "banzhaf",
    "class_cosine",
    "cosine",
    "cosine_game",
    "echo",
    "fgfl",
    "foolsgold",
    "gtg_shapley",
    "least_core",
    "leave_one_out",
    "leave_self_out",
    "projection",
    "quotient",
    "s2_wef",
    "sampled_shapley",
    "shapley",
    "tmc_shapley",
    "validation_accuracy",
    "validation_game",
    "validation_shapley",
    "viceroy",
]
