"""What does a terminal show while a run goes on?"""
