"""Learning rules: backward passes that differ on purpose."""

from jaxann.rules.angles import WithAngles
from jaxann.rules.base import Rule
from jaxann.rules.deltas import ClippedDeltas, NoisyDeltas, StraightThrough, threshold
from jaxann.rules.direct import DirectFeedbackAlignment, OutputLayerOnly
from jaxann.rules.feedback import FeedbackAlignment, KolenPollack, SignSymmetric

RULES: dict[str, Rule] = {
    "backprop": Rule(),
    "feedback_alignment": FeedbackAlignment(),
    "direct_feedback_alignment": DirectFeedbackAlignment(),
    "sign_symmetric": SignSymmetric(),
    "sign_symmetric_batchwise": SignSymmetric("batchwise"),
    "sign_symmetric_uniform": SignSymmetric("uniform"),
    "output_layer_only": OutputLayerOnly(),
}
"""Those that need nothing else, by name. `KolenPollack` needs the optimiser, others a number or a `threshold`."""


__all__ = [
    "RULES",
    "ClippedDeltas",
    "DirectFeedbackAlignment",
    "FeedbackAlignment",
    "KolenPollack",
    "NoisyDeltas",
    "OutputLayerOnly",
    "Rule",
    "SignSymmetric",
    "StraightThrough",
    "WithAngles",
    "threshold",
]
