"""What has this machine, and what does a process ask of it? Signals, folders, programs, processor time, energy.

Imports: errors.
"""
