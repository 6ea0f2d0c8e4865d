"""The words that parameter names are made of, as tables: a dot-separated segment, in lower case, and what it stands
for.

Gathered from the checkpoints of the families listed in `families`. A new naming habit is a new word here, not new code.
"""

from __future__ import annotations

__all__ = [
    "ADAPTERS",
    "ATTENTION",
    "ATTENTION_PLACES",
    "AUDIO_PLACES",
    "BIASES",
    "BUFFERS",
    "DERIVED",
    "EMBEDDINGS",
    "EXPERT_PLACES",
    "FEED_FORWARD",
    "FEED_FORWARD_PLACES",
    "HEAD_PLACES",
    "LAYER_LISTS",
    "LOOSE",
    "MIXED",
    "OUTPUTS",
    "PROJECTOR_PLACES",
    "QUANTIZATION",
    "RECURRENT",
    "RUNNING",
    "SIBLINGS",
    "STATE_SPACE",
    "STATE_SPACE_PLACES",
    "TRANSPARENT",
    "VISION_PLACES",
    "WEIGHTS",
]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _slots(rows: tuple[tuple[str, str, str], ...]) -> dict[str, tuple[str, str]]:
    """{word: (role, slot)} from rows of role, slot, words."""
    return {word: (role, slot) for role, slot, words in rows for word in words.split()}


LAYER_LISTS = _words(
    "layers layer h block blocks resblocks transformer_blocks transformer_layers albert_layers joint_blocks"
    " single_transformer_blocks double_blocks single_blocks"
)
"""Lists of blocks: the number behind the first of them is the layer."""

ATTENTION_PLACES = _words(
    "attn self_attn attention self_attention selfattention encdecattention encoder_attn cross_attn crossattention"
    " cross_attention inter_attention linear_attn att time_mix multi_head_attention image_pooling_2d attn1 attn2 attn3"
    " attn_1 img_attn txt_attn attentions context_attn mlstm_layer"
)
EXPERT_PLACES = _words("experts local_experts shared_expert shared_experts")
FEED_FORWARD_PLACES = EXPERT_PLACES | _words(
    "mlp feed_forward feedforward ffn ff block_sparse_moe moe shared_mlp densereludense channel_mix ffn1 ffn2"
    " ff_context img_mlp txt_mlp"
)
STATE_SPACE_PLACES = _words("mixer mamba ssm")
VISION_PLACES = _words(
    "vision_tower vision_model visual vision_backbone vision_encoder image_vit image_encoder vision_embed_tokens"
    " vision_module vit vpm"
)
AUDIO_PLACES = _words("audio_tower audio_model audio_encoder audio_embed")
PROJECTOR_PLACES = _words(
    "multi_modal_projector mm_projector image_projector connector merger modality_projection img_projection aligner"
    " visual_projection text_projection project_in project_out deepstack_merger_list"
)
HEAD_PLACES = _words(
    "lm_head embed_out output_layer predictions cls vocab_projector vocab_transform score classifier qa_outputs v_head"
    " value_head reward_head regression_head classification_head pre_classifier shared_head generator_lm_head lm_loss"
    " pred_layer output_projection"
)
"""What stands under these belongs to the model's head."""

ATTENTION = _slots(
    (
        ("q_proj", "q_proj", "q_proj query wq q q_lin to_q linear_q query_proj c_q receptance"),
        ("q_proj", "q_a_proj", "q_a_proj wq_a"),
        ("q_proj", "q_b_proj", "q_b_proj wq_b"),
        ("k_proj", "k_proj", "k_proj key wk k k_lin to_k linear_k key_proj c_k"),
        ("v_proj", "v_proj", "v_proj value wv v v_lin to_v linear_v value_proj c_v"),
        ("qkv", "qkv", "qkv qkv_proj c_attn query_key_value wqkv w_pack in_proj linear_qkv att_proj attn_qkv"),
        ("qkv", "qkv", "in_proj_qkv in_proj_qkvz to_qkv qkv_lin"),
        ("qkv", "kv_proj", "kv_proj kv linear_kv key_value to_kv"),
        ("qkv", "kv_a_proj", "kv_a_proj_with_mqa kv_a_proj wkv_a"),
        ("qkv", "kv_b_proj", "kv_b_proj wkv_b"),
        ("o_proj", "o_proj", "o_proj out_proj wo o out_lin to_out linear_o c_proj dense proj attn_out output"),
        ("o_proj", "o_proj", "linear_proj out attn_output linear_out final_linear to_add_out"),
        ("q_proj", "q_proj", "add_q_proj linear_query"),
        ("k_proj", "k_proj", "add_k_proj linear_keys"),
        ("v_proj", "v_proj", "add_v_proj linear_values"),
        ("ssm", "in_proj_z", "in_proj_z"),
        ("ssm", "in_proj_b", "in_proj_b in_proj_a in_proj_ba"),
        ("ssm", "a_log", "a_log"),
        ("conv", "conv", "conv1d"),
        ("embedding", "position_embedding", "relative_attention_bias distance_embedding"),
    )
)
"""Words inside an attention module. Low-rank and joint projections (MLA) keep a slot of their own."""

FEED_FORWARD = _slots(
    (
        ("gate_proj", "gate_proj", "gate_proj w1 wi_0 w_gate linear_gate fc_1 receptance proj_up_gate"),
        (
            "up_proj",
            "up_proj",
            "up_proj w3 wi wi_1 fc1 c_fc fc fc_in lin1 linear1 dense_h_to_4h linear_fc1 up w_up key",
        ),
        ("up_proj", "up_proj", "fc_2 intermediate fc0 intermediate_dense proj_up w_1 linear_1"),
        ("down_proj", "down_proj", "down_proj w2 wo fc2 c_proj proj fc_out lin2 linear2 dense_4h_to_h linear_fc2 down"),
        ("down_proj", "down_proj", "output w_down value ff_out output_linear ffn_output output_dense proj_down w_2"),
        ("down_proj", "down_proj", "linear_2"),
        ("gate_up", "gate_up", "gate_up_proj ff_proj w12 gate_up input_linear gate_and_up_proj"),
        ("moe_gate", "moe_gate", "gate router wg shared_expert_gate"),
    )
)
"""Words inside a feed-forward module."""

_LOOSE_ATTENTION = _words(
    "q_proj k_proj v_proj o_proj query_key_value c_attn qkv_proj wqkv att_proj attn_out attn_qkv wq wk wv wo q_lin"
    " k_lin v_lin out_lin"
)
_LOOSE_FEED_FORWARD = _words(
    "gate_proj up_proj down_proj gate_up_proj fc1 fc2 c_fc ff_proj ff_out w1 w2 w3 intermediate output dense_h_to_4h"
    " dense_4h_to_h lin1 lin2 linear1 linear2 router shared_expert_gate ffn_output"
)
LOOSE = {word: (*ATTENTION[word], "attn") for word in _LOOSE_ATTENTION} | {
    word: (*FEED_FORWARD[word], "mlp") for word in _LOOSE_FEED_FORWARD
}
"""Words that say where they are by themselves, straight under a block (OPT's fc1, Molmo's att_proj): (role, slot,
part).
"""

STATE_SPACE = {
    word: (role, word)
    for role, words in (("ssm", "in_proj out_proj x_proj dt_proj a_log d dt_bias"), ("conv", "conv1d"))
    for word in words.split()
}
"""Words inside a state space module: (role, slot)."""

MIXED = _words("q_proj k_proj v_proj o_proj gate_proj up_proj down_proj")
"""Words that say where they are inside a state space module too, which a hybrid has in every layer (Nemotron-H)."""

RECURRENT = _words("recurrent_ih recurrent_hh recurrent_hr")
"""What `spellings` makes of the weights of recurrent layers."""

EMBEDDINGS = {
    word: slot
    for slot, words in (
        ("token_embedding", "embed_tokens wte tok_embeddings tok_embed word_embeddings word_embedding token_embedding"),
        (
            "token_embedding",
            "token_embeddings embed_in emb embedding embeddings tok_emb token_emb new_embedding shared",
        ),
        ("token_embedding", "embed_tokens_per_layer tok_embedding tokens_embed"),
        ("position_embedding", "wpe position_embeddings position_embedding embed_positions positional_embedding"),
        ("position_embedding", "pos_embed pos_emb pos_embedding relative_attention_bias positions_embed"),
        ("type_embedding", "token_type_embeddings"),
        ("patch_embedding", "patch_embedding patch_embeddings patch_embed patch_embedder class_embedding cls_token"),
        ("patch_embedding", "pad_embed mask_token"),
    )
    for word in words.split()
}

OUTPUTS = {"output": "lm_head", "head": "lm_head", "proj_out": "lm_head", "ff_out": "lm_head", "out_proj": "head"}
"""Words that are the head where they stand nearly alone at the top; `lm_head` yields tokens, `head` anything else."""

WEIGHTS = _words("weight w gamma kernel qweight weight_packed")
BIASES = _words("bias b beta")
ADAPTERS = _words(
    "lora_a lora_b lora_embedding_a lora_embedding_b lora_magnitude_vector lora_down lora_up lora_mid ia3_l dora_scale"
    " hada_w1_a hada_w1_b hada_w2_a hada_w2_b lokr_w1 lokr_w2 lokr_w1_a lokr_w1_b lokr_w2_a lokr_w2_b"
)
QUANTIZATION = _words(
    "scales biases qzeros g_idx weight_scale weight_scale_inv weight_zero_point weight_shape weight_g_idx input_scale"
    " output_scale weight_global_scale input_global_scale absmax quant_map nested_absmax nested_quant_map scb"
    " weight_format quant_state scale_inv k_scale v_scale"
)
"""What stands beside a quantized weight."""

DERIVED = _words(
    "inv_freq original_inv_freq masked_bias position_ids causal_mask attn_mask mask tril freqs_cis freqs_cos freqs_sin"
    " freqs cos_cached sin_cached alibi num_batches_tracked relative_position_index relative_coords_table"
    " ignore rotary_sin rotary_cos _float_tensor pixel_mean pixel_std"
    # the schedule of a diffusion model
    " betas alphas_cumprod alphas_cumprod_prev sqrt_alphas_cumprod sqrt_one_minus_alphas_cumprod lvlb_weights"
    " log_one_minus_alphas_cumprod sqrt_recip_alphas_cumprod sqrt_recipm1_alphas_cumprod posterior_variance"
    " posterior_log_variance_clipped posterior_mean_coef1 posterior_mean_coef2"
)
"""What the model's code computes: masks, frequencies, positions, schedules, counters."""

RUNNING = _words("running_mean running_var cluster_size embed_avg")
"""Statistics that training gathers: of batch norms, of codebooks."""

BUFFERS = DERIVED | RUNNING | _words("e_score_correction_bias")
"""What modules register as buffers."""

TRANSPARENT = _words(
    "linear layer layers base_layer module e_score_correction default original_module modules_to_save self norms"
    " weights dense proj projection conv wrapped_module _fsdp_wrapped_module _checkpoint_wrapped_module"
)
"""Words that say nothing themselves: the word before them decides."""

SIBLINGS: tuple[tuple[str, str | None, str | None, str], ...] = (
    # word, a sibling that must be there, one that must not, the slot it then has
    ("w1", None, "w3", "up_proj"),  # two matrices and no third: no gate (vision towers)
    ("w2", "c_proj", "w3", "gate_proj"),  # Qwen 1: w1 up, w2 gate, c_proj down
    ("gate", "up", "experts", "gate_proj"),  # a plain gated MLP, not a router
    ("fc1", "fc0", None, "down_proj"),  # MoonViT counts from 0
)
"""Words whose meaning depends on what stands beside them."""
