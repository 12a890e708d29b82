"""Does the record of a run hold together? Each check reads it again, and passes it, fails it, or says why nobody knows.

Imports: errors, system, maths, launch_models, record.
"""
