"""How work is run: the plan, executors (threads, Ray), devices, the memory budget, the journal; what a task computes is
not known here.
"""
