"""Foreign formats, each read once while a store is built: annotations, features, pictures.

Training and evaluation never read them.
"""
