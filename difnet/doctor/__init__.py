"""What does this machine have that a run needs, what does it lack, and what would help?"""
