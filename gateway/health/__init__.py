"""Checking targets on a schedule, judging the results, and choosing the target that new clients get."""
