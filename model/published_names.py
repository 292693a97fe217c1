"""Published parameter names beside ours, one table for each system: {published module: our module}.

Numbers between dots are carried over to the `{l}` of the other side, in their order.
"""

from __future__ import annotations

UNITER = {
    "uniter.embeddings.word_embeddings": "text.words",
    "uniter.embeddings.position_embeddings": "text.positions",
    "uniter.embeddings.token_type_embeddings": "text.types",
    "uniter.embeddings.LayerNorm": "text.norm",
    "uniter.img_embeddings.img_linear": "region.feature",
    "uniter.img_embeddings.img_layer_norm": "region.feature_norm",
    "uniter.img_embeddings.pos_linear": "region.box",
    "uniter.img_embeddings.pos_layer_norm": "region.box_norm",
    "uniter.img_embeddings.mask_embedding": "region.mask",
    "uniter.img_embeddings.LayerNorm": "region.norm",
    "uniter.encoder.layer.{l}.attention.self.query": "encoder.layers.{l}.query",
    "uniter.encoder.layer.{l}.attention.self.key": "encoder.layers.{l}.key",
    "uniter.encoder.layer.{l}.attention.self.value": "encoder.layers.{l}.value",
    "uniter.encoder.layer.{l}.attention.output.dense": "encoder.layers.{l}.context",
    "uniter.encoder.layer.{l}.attention.output.LayerNorm": "encoder.layers.{l}.attention_norm",
    "uniter.encoder.layer.{l}.intermediate.dense": "encoder.layers.{l}.expand",
    "uniter.encoder.layer.{l}.output.dense": "encoder.layers.{l}.contract",
    "uniter.encoder.layer.{l}.output.LayerNorm": "encoder.layers.{l}.norm",
    "uniter.pooler.dense": "pooler",
    "itm_output": "match",
    "rank_output": "rank",
}

# The three state dicts of VSRN and the two of BFAN are joined under these prefixes.
PARTS = ("img_enc.", "txt_enc.", "caption_model.")
GRAPH = {"theta": "theta", "phi": "phi", "g": "g", "W.0": "out", "W.1": "norm"}
VSRN = {
    "img_enc.fc": "regions",
    **{f"img_enc.Rs_GCN_{n}.{theirs}": f"graph.{n}.{ours}" for n in range(1, 5) for theirs, ours in GRAPH.items()},
    "img_enc.img_rnn": "region_rnn",
    "img_enc.bn": "image_norm",
    "txt_enc.embed": "words",
    "txt_enc.rnn": "word_rnn",
    "caption_model.encoder.vid2hid": "caption.regions",
    "caption_model.encoder.rnn": "caption.encoder",
    "caption_model.decoder.embedding": "caption.words",
    "caption_model.decoder.attention.linear1": "caption.attend",
    "caption_model.decoder.attention.linear2": "caption.attention",
    "caption_model.decoder.rnn": "caption.decoder",
    "caption_model.decoder.out": "caption.out",
}
BFAN = {"img_enc.fc": "regions", "txt_enc.embed": "words", "txt_enc.rnn": "word_rnn"}

# The towers of LAPS as transformers 4.57 named them, beside the names that the installed one gives them.
_SEES = "img_enc.visual_encoder"
_VIT, _SWIN = f"{_SEES}.encoder.layer.{{l}}", f"{_SEES}.encoder.layers.{{l}}"
_SWIN_HERE = "vision.tower.encoder.layers.{l}"
_VIT_LAYER = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
}
_SWIN_BLOCK = {
    "attention.self.query": "attention.q_proj",
    "attention.self.key": "attention.k_proj",
    "attention.self.value": "attention.v_proj",
    "attention.self": "attention.relative_position_bias",
}
_LAYER = {
    "attention.output.dense": "attention.o_proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "layernorm_before": "layernorm_before",
    "layernorm_after": "layernorm_after",
}
_AROUND = ("embeddings", "embeddings.patch_embeddings.projection", "embeddings.norm", "layernorm")
_BERT = (
    "embeddings.word_embeddings",
    "embeddings.position_embeddings",
    "embeddings.token_type_embeddings",
    "embeddings.LayerNorm",
    "encoder.layer.{l}.attention.self.query",
    "encoder.layer.{l}.attention.self.key",
    "encoder.layer.{l}.attention.self.value",
    "encoder.layer.{l}.attention.output.dense",
    "encoder.layer.{l}.attention.output.LayerNorm",
    "encoder.layer.{l}.intermediate.dense",
    "encoder.layer.{l}.output.dense",
    "encoder.layer.{l}.output.LayerNorm",
)
LAPS = {
    **{f"{_SEES}.{name}": f"vision.tower.{name}" for name in _AROUND},
    **{f"{_VIT}.{theirs}": f"vision.tower.layers.{{l}}.{ours}" for theirs, ours in (_VIT_LAYER | _LAYER).items()},
    **{f"{_SWIN}.blocks.{{l}}.{t}": f"{_SWIN_HERE}.blocks.{{l}}.{o}" for t, o in (_SWIN_BLOCK | _LAYER).items()},
    **{f"{_SWIN}.downsample.{name}": f"{_SWIN_HERE}.downsample.{name}" for name in ("reduction", "norm")},
    "img_enc.vision_proj": "vision.project",
    **{f"txt_enc.bert.{name}": f"text.tower.{name}" for name in _BERT},
    "txt_enc.fc": "text.project",
    "cross_net.aggr_net": "aggregate",
    "cross_net.aggr_net.weight.0": "aggregate.norm",
    "cross_net.aggr_net.weight.1": "aggregate.squeeze",
    "cross_net.aggr_net.weight.3": "aggregate.weigh",
}

TABLES = {"uniter": UNITER, "vsrn": VSRN, "bfan": BFAN, "laps": LAPS}
UNUSED = {
    "uniter": (".position_ids",),
    "laps": (".pooler.dense.weight", ".pooler.dense.bias", ".position_ids", ".relative_position_index"),
}
"""Endings of published names that take no part in the computation: left out where others would be refused."""
OTHER_HEADS = {"uniter": ("cls.", "feat_regress.", "region_classifier.", "itm_match_row.")}
"""Beginnings of the names of pre-training heads (see also `give_rank_row`), which no matcher has: left out likewise."""
PART_OF = {"laps": ("cross_net.aggr_net.", ("weight.", "scale"))}
"""What a part of a model that was published alone lacks before its names, and how those begin."""
CONVOLUTIONS = {"vsrn": frozenset(f"graph.{n}.{part}" for n in range(1, 5) for part in ("theta", "phi", "g", "out"))}
"""Our linear maps `[out, in]` that are published as convolutions `[out, in, 1]`."""
COUNTER = ".num_batches_tracked"
"""What batch norms count and nothing reads; a checkpoint may lack it."""
