"""The scores of one row, as a network with classes of their numbers gives them."""

import numpy as np

from camserve.answer.predictions import RowScores
from camserve.labels import Labels
from camserve.output_spec import OutputSpec, line_up


def row_of(scores):
    (head,) = line_up((OutputSpec(),), [Labels([str(number) for number in range(len(scores))])])
    scores = np.array(scores, np.float32)
    probabilities = np.exp(scores) / np.exp(scores).sum()
    return RowScores(scores, probabilities, np.argsort(-scores), head)
