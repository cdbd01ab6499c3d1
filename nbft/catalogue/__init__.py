"""Base models and datasets to choose from, as plain values; the form and the command line show them.

Everything but the two searches is read from this machine, in bounded time and without torch. Names
of files and texts of the hub are data: whoever shows them escapes them.
"""
