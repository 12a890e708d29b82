"""What does a terminal show while a run goes on? A live dashboard, or one plain line for each event.

Imports: maths, record.
"""
