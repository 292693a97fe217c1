"""The watchdog: each process tells that it makes progress, one judges, and all end together.

Sockets and clocks only: it must work while Horovod or CUDA stand still.
"""
