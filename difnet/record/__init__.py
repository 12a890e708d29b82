"""What happened in a run, and what is kept of it? The stream of events, what it adds up to, and the run folder.

Imports: errors, system, catalog, config, maths, launch_models, topology.
"""
