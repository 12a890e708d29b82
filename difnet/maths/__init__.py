"""What is computed? The model as one vector, the random numbers, the rates at which agents agree, the scores.

Pure functions of values: no sockets, files or clocks; random numbers come from a generator that is handed in.

Imports: errors, meta.
"""
