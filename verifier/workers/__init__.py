"""Workers elsewhere: processes of this machine, or tasks of a Ray cluster. What they work on is no matter here.

Light: nothing of this room loads torch.
"""
