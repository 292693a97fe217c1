"""The time of an update, fitted on few ranks and projected to many.

Every figure says whether it was measured or computed.
"""
