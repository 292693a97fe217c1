"""The published names of parameters beside ours, one table for each system: {published module: our module}.

A number between dots is carried over to `{l}`.
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

TABLES = {"uniter": UNITER, "vsrn": VSRN, "bfan": BFAN}
CONVOLUTIONS = {"vsrn": frozenset(f"graph.{n}.{part}" for n in range(1, 5) for part in ("theta", "phi", "g", "out"))}
"""Our linear maps `[out, in]` that are published as convolutions `[out, in, 1]`."""
COUNTER = ".num_batches_tracked"
"""What batch norms count and nothing reads; a checkpoint may lack it."""
