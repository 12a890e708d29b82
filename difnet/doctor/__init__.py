"""What does this machine have that a run needs, what does it lack, and what would help?

A check looks at one thing and returns a `Finding`; limits, folders and the way to ask a program are its arguments.
Nothing is changed: what is written, to see whether it can be, has no name and is gone at once.

Imports: system, data, record, workload, exchange, places.
"""
