"""One self-contained HTML file of plans, runs and searches, which opens from disk and asks no network for anything.

``subject`` is what is shown of one plan, ``charts`` the numbers that the scripts draw, ``html`` the file itself. Tables
and numbers are written here by templates, so that they are there without scripts; ``assets/`` has the templates, the
style, our scripts, and the charting library as its package ships it.
"""
