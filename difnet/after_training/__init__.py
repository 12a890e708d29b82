"""What can be done with a launch model afterwards? Test it, fit it to somebody's samples, predict, export.

Imports: errors, system, catalog, config, data, meta, maths, tasks, launch_models, record, workload, runtime.
"""
