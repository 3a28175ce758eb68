"""What the activations say: measurements that return tidy tables, for both model families, under any intervention."""

from mechsteer.analysis.attention import attention
from mechsteer.analysis.cross_attention import cross_attention_shift
from mechsteer.analysis.features import instruction_features
from mechsteer.analysis.frozen_cross_attention import frozen_cross_attention
from mechsteer.analysis.influence import influence, influence_of
from mechsteer.analysis.lens import logit_lens
from mechsteer.analysis.match_influence import match_influence
from mechsteer.analysis.mcnemar import mcnemar
from mechsteer.analysis.rollout import rollout, rollout_of
from mechsteer.analysis.sensitivity import layer_sensitivity
from mechsteer.analysis.separability import separability
from mechsteer.analysis.similarity import similarity
from mechsteer.analysis.sinks import sinks
from mechsteer.analysis.volatility import volatility

__all__ = [
    "attention",
    "cross_attention_shift",
    "frozen_cross_attention",
    "influence",
    "influence_of",
    "instruction_features",
    "layer_sensitivity",
    "logit_lens",
    "match_influence",
    "mcnemar",
    "rollout",
    "rollout_of",
    "separability",
    "similarity",
    "sinks",
    "volatility",
]
