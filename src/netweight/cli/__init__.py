"""The command line: one file per command parses options, calls one job and shows its result; `progress` has the bars on
stderr.
"""
