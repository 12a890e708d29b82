"""What can be done with a launch model afterwards? Test it, fit it to somebody's samples, export it with its card.

Imports: errors, system, config, data, meta, maths, launch_models, record, workload, runtime.
"""
