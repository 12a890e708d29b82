"""What has this machine, and what does a process ask of it? Signals, folders and who holds them, programs, processor
time, energy.

Imports: errors.
"""
