"""The parts of the race: problems, contenders, processes, the course and its report. `benchmarks/race.py` runs it."""
