"""The contract of a place: where hosts run. One file is one place; its factory bears the file's name.

A factory takes (agents, registry, token, listen) and returns a context manager that starts hosts for those agents and
has `poll() -> int | None` (an exit status once every host has ended) and `stop()`; leaving it ends whatever is left.
"""
