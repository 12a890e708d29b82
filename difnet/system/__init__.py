"""What has this machine, and what does a process ask of it?"""
