"""Models with every activation hooked, equal to Hugging Face's. The only folder that imports TransformerLens."""

from mechsteer.models.attention import Fused
from mechsteer.models.batching import alike, as_prompts, at_last, first_tokens, pad
from mechsteer.models.checkpoint.generation_config import (
    applying,
    check_settings,
    logits_processors,
    stopping_criterion,
)
from mechsteer.models.checkpoint.resolve import organism_names
from mechsteer.models.checkpoint.sizes import check_sizes, shapes_in
from mechsteer.models.digest import file_digest, taken_once, tensor_digest, weights_digest
from mechsteer.models.folding import refuse_folded
from mechsteer.models.following import continuation_ids, spaced, word_id, word_ids
from mechsteer.models.forward import advance, advance_together, model_device, residual, start, unembed
from mechsteer.models.halving import Room, TooLargeError, fits
from mechsteer.models.heads import post_norm
from mechsteer.models.hooking import hooked, hooks_on
from mechsteer.models.identity import check_unhooked, model_identity
from mechsteer.models.info import (
    ModelInfo,
    check_model,
    context_of,
    is_encoder_decoder,
    loaded_info,
    model_info,
    multiplier,
    official_name,
    provenance,
)
from mechsteer.models.load import load
from mechsteer.models.parity import verify
from mechsteer.models.planning import plan
from mechsteer.models.sites import fires, parse, position_stack, predicting_stack, shape_of, site, sites, stacks, width
from mechsteer.models.state import (
    State,
    adopt,
    before_last,
    extend,
    fork,
    last_position,
    ordered_rows,
    rearrange,
    repeat_rows,
    select_rows,
)
from mechsteer.models.t5 import encode

__all__ = [
    "Fused",
    "ModelInfo",
    "Room",
    "State",
    "TooLargeError",
    "adopt",
    "advance",
    "advance_together",
    "alike",
    "applying",
    "as_prompts",
    "at_last",
    "before_last",
    "check_model",
    "check_settings",
    "check_sizes",
    "check_unhooked",
    "context_of",
    "continuation_ids",
    "encode",
    "extend",
    "file_digest",
    "fires",
    "first_tokens",
    "fits",
    "fork",
    "hooked",
    "hooks_on",
    "is_encoder_decoder",
    "last_position",
    "load",
    "loaded_info",
    "logits_processors",
    "model_device",
    "model_identity",
    "model_info",
    "multiplier",
    "official_name",
    "ordered_rows",
    "organism_names",
    "pad",
    "parse",
    "plan",
    "position_stack",
    "post_norm",
    "predicting_stack",
    "provenance",
    "rearrange",
    "refuse_folded",
    "repeat_rows",
    "residual",
    "select_rows",
    "shape_of",
    "shapes_in",
    "site",
    "sites",
    "spaced",
    "stacks",
    "start",
    "stopping_criterion",
    "taken_once",
    "tensor_digest",
    "unembed",
    "verify",
    "weights_digest",
    "width",
    "word_id",
    "word_ids",
]
