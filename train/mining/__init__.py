"""Offline candidates: from weights or embeddings to verified lists, resumable, on any number of ranks.

No training: a run that mines again between epochs calls this room, never the other way round.
"""
