"""What is learnt? One file is one model; its factory bears the file's name and returns a torch.nn.Module.

Imports no other room.
"""
