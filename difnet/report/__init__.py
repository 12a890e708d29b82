"""How do runs become pictures, tables and pages? Experiments side by side, in what they reached and what it cost.

Imports: errors, system, maths, topology, record, screen.
"""
