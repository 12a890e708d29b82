"""What can be done with a launch model afterwards?"""
