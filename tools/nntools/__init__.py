"""What tools/nntool.py is made of: see there."""
