"""What is learnt: one file is one model; its factory bears the file's name and returns a torch.nn.Module."""
