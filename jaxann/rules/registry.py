"""The learning rules by name."""

from __future__ import annotations

from jaxann.rules.base import Rule
from jaxann.rules.direct import DirectFeedbackAlignment, OutputLayerOnly
from jaxann.rules.feedback import FeedbackAlignment, SignSymmetric

RULES: dict[str, Rule] = {
    "backprop": Rule(),
    "feedback_alignment": FeedbackAlignment(),
    "direct_feedback_alignment": DirectFeedbackAlignment(),
    "sign_symmetric": SignSymmetric(),
    "sign_symmetric_batchwise": SignSymmetric("batchwise"),
    "sign_symmetric_uniform": SignSymmetric("uniform"),
    "output_layer_only": OutputLayerOnly(),
}
"""The rules that need no settings, by name. `KolenPollack` needs an optimizer, others a number or a `threshold`."""
