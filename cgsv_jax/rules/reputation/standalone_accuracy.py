"""A reputation that no upload changes: what a client reaches alone."""

import jax

from cgsv_jax.core import checks
from cgsv_jax.rules.shares import renewed
from cgsv_jax.rules.spec import Choice
from cgsv_jax.rules.stateless import stateless
from cgsv_jax.types import Needs, Reputation, Standing, Upload

STANDALONE_ON = Choice(
    "validation",
    ("validation", "test"),
    "rows on which a method that reads standalone accuracies is told them: the server's, or the "
    "test rows as their authors do, which no decision should see",
)


def standalone_accuracy(on: str = "validation") -> Reputation:
    """r_i = a_i / sum_j a_j in every round; the score is a_i, `Upload.alone`. Shapes [N].

    NEEDS VALIDATION DATA, on which a_i is the accuracy, and as many rounds of training alone as the
    run has, see `simulation.train_alone`.

    Args:
      on: "validation", or "test": then a_i is the accuracy on the test rows.

    Raises:
      ValueError: `on` is another word, or, when traced, uploads do not carry it.
    """
    on_test = checks.choice("standalone_on", on, *STANDALONE_ON.allowed) == "test"

    def judged(upload: Upload, standing: Standing) -> Standing:
        if upload.alone is None:
            raise ValueError("a standalone accuracy needs uploads with alone, see Settings.alone")
        score = jax.numpy.where(upload.present, upload.alone, 0.0)
        return Standing(score, renewed(score, standing.reputation, upload.present))

    return stateless(Reputation, judged, needs=Needs(alone=True, alone_on_test=on_test))
