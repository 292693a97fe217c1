"""Process groups and what ranks do together: launch, collectives, state transfer, progress, stop requests.

No models.
"""
