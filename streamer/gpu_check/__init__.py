"""`make gpu-check`: is the GPU backend right, how fast is it, how far from the best there is. A check, not a test.

parts.py is the list; each part runs as a process of its own and leaves a record in gpu.json, of which gpu.md is made.
"""
