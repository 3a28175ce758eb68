"""T5 v1.0, T5 v1.1 and FLAN-T5 as a HookedEncoderDecoder that shares its weights with the Hugging Face model.

The library's own converter knows only v1.0 (tied, ReLU). Here the gated feed-forward layer, the separate ``lm_head``
and unequal depths of the two stacks are converted too. Whether the decoder's output is multiplied by ``d_model **
-0.5`` before the unembedding is what ``scale_decoder_outputs`` says; ``tie_word_embeddings`` is true in transformers 5
always.

In half precision Hugging Face computes the last product of a feed-forward layer in float32 where its model says so
(``wo`` in float16), so that the stream is float32 from there on, and clamps a float16 stream to finite numbers after
each sublayer. :func:`_keep_wide` makes the hooked modules do the same, in the library's own forward too.
"""

from typing import Any

import torch
from torch import Tensor

from mechsteer.models.families.family import ACTIVATIONS
from mechsteer.models.weights.norms import multiply_by_inverse
from mechsteer.models.weights.views import build, heads_in, heads_out


def hooked_encoder_decoder(hf_model: Any) -> Any:
    """A HookedEncoderDecoder that shares its weights with ``hf_model`` (a T5ForConditionalGeneration), unprocessed."""
    from transformer_lens import HookedEncoderDecoder, HookedTransformerConfig

    c = hf_model.config
    parameter = next(hf_model.parameters())
    cfg = HookedTransformerConfig(
        d_model=c.d_model,
        d_head=c.d_kv,
        n_heads=c.num_heads,
        d_mlp=c.d_ff,
        d_vocab=c.vocab_size,
        n_layers=max(c.num_layers, c.num_decoder_layers),
        n_ctx=getattr(c, "n_positions", None) or 512,
        eps=c.layer_norm_epsilon,
        act_fn=ACTIVATIONS[c.dense_act_fn],
        gated_mlp=c.is_gated_act,
        normalization_type="RMS",
        positional_embedding_type="relative_positional_bias",
        relative_attention_max_distance=c.relative_attention_max_distance,
        relative_attention_num_buckets=c.relative_attention_num_buckets,
        decoder_start_token_id=getattr(c, "decoder_start_token_id", None),  # or the generation configuration has it
        attention_dir="bidirectional",
        use_attn_scale=False,
        tie_word_embeddings=getattr(c, "scale_decoder_outputs", False),  # mT5 never scales
        model_name=c.model_type,
        original_architecture=type(hf_model).__name__,
        init_weights=False,
        dtype=parameter.dtype,
        device=parameter.device.type,
    )

    def make() -> Any:
        model = HookedEncoderDecoder(cfg, move_to_device=False)
        del model.encoder[c.num_layers :]
        del model.decoder[c.num_decoder_layers :]
        model.setup()  # rebuild hook_dict without the blocks that were cut
        multiply_by_inverse(model)
        _keep_wide(model, hf_model.encoder.block[0].layer[-1].DenseReluDense.wo.weight.dtype)
        return model

    return build(make, _state(hf_model), parameter.device)


def _keep_wide(model: Any, wide: torch.dtype) -> None:
    """Compute the feed-forward layers' outputs in ``wide``, and keep a float16 stream finite.

    PyTorch's own hooks on the hook points' inputs do it, so that hook functions see what Hugging Face's modules see.
    """
    for block in (*model.encoder, *model.decoder):
        if wide != model.cfg.dtype:
            for weights in (block.mlp.W_out, block.mlp.b_out):
                weights.data = weights.data.to(wide)
            block.mlp.hook_post.register_forward_pre_hook(_as_float32)
        if model.cfg.dtype == torch.float16:
            for name in ("hook_resid_mid", "hook_resid_mid_cross", "hook_resid_post"):
                if hasattr(block, name):
                    getattr(block, name).register_forward_pre_hook(_clamped)


def _as_float32(point: Any, inputs: tuple[Tensor]) -> Tensor:
    return inputs[0].float()


def _clamped(point: Any, inputs: tuple[Tensor]) -> Tensor:
    """Hugging Face's clamp: float16 alone, and 1,000 below its largest number where something has overflowed."""
    (x,) = inputs
    if x.dtype != torch.float16:
        return x
    largest = torch.finfo(x.dtype).max
    limit = torch.where(x.isinf().any(), largest - 1000, largest)
    return x.clamp(-limit, limit)


def _state(hf: Any) -> dict[str, Tensor]:
    state = {
        "embed.W_E": hf.shared.weight,
        "encoder_final_ln.w": hf.encoder.final_layer_norm.weight,
        "decoder_final_ln.w": hf.decoder.final_layer_norm.weight,
        "unembed.W_U": hf.lm_head.weight.T,
    }
    for stack_name in ("encoder", "decoder"):
        stack = getattr(hf, stack_name)
        bias = stack.block[0].layer[0].SelfAttention.relative_attention_bias.weight
        state[f"{stack_name}.0.attn.rel_pos_bias.weight"] = bias
        for layer, block in enumerate(stack.block):
            named = _block(block.layer, decoder=stack_name == "decoder")
            state |= {f"{stack_name}.{layer}.{name}": tensor for name, tensor in named.items()}
    return state


def _block(sublayers: Any, *, decoder: bool) -> dict[str, Tensor]:
    state = _attention(sublayers[0].SelfAttention, "attn")
    if decoder:
        state |= _attention(sublayers[1].EncDecAttention, "cross_attn")
    for index, sublayer in enumerate(sublayers, start=1):
        state[f"ln{index}.w"] = sublayer.layer_norm.weight
    feed_forward = sublayers[-1].DenseReluDense
    if hasattr(feed_forward, "wi_0"):
        state |= {"mlp.W_gate": feed_forward.wi_0.weight.T, "mlp.W_in": feed_forward.wi_1.weight.T}
    else:
        state["mlp.W_in"] = feed_forward.wi.weight.T
    return state | {"mlp.W_out": feed_forward.wo.weight.T}


def _attention(attention: Any, name: str) -> dict[str, Tensor]:
    heads = attention.n_heads
    return {
        f"{name}.W_Q": heads_in(attention.q.weight, heads),
        f"{name}.W_K": heads_in(attention.k.weight, heads),
        f"{name}.W_V": heads_in(attention.v.weight, heads),
        f"{name}.W_O": heads_out(attention.o.weight, heads),
    }
