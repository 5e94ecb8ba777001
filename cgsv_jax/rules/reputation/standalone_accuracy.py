"""A reputation that no upload changes: what a client reaches alone."""

import jax

from cgsv_jax.rules.shares import renewed
from cgsv_jax.rules.stateless import stateless
from cgsv_jax.types import Needs, Reputation, Standing, Upload


def standalone_accuracy() -> Reputation:
    """r_i = a_i / sum_j a_j in every round; the score is a_i, `Upload.alone`. Shapes [N].

    NEEDS VALIDATION DATA, on which a_i is the accuracy, and as many rounds of training alone as the
    run has, see `simulation.train_alone`.

    Raises:
      ValueError: when traced, if uploads do not carry it.
    """

    def judged(upload: Upload, standing: Standing) -> Standing:
        if upload.alone is None:
            raise ValueError("a standalone accuracy needs uploads with alone, see Settings.alone")
        score = jax.numpy.where(upload.present, upload.alone, 0.0)
        return Standing(score, renewed(score, standing.reputation, upload.present))

    return stateless(Reputation, judged, needs=Needs(alone=True))
