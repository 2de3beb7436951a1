"""`make bench`: qsmtpd side by side with its peers.

Read in this order: plan.py (how much), contestants.py (who), steps.py (what),
load.py and its clients (how), main.py (in which order), goals.py and report.py
(what it comes to).
"""
