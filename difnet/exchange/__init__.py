"""How do states and words travel?"""
