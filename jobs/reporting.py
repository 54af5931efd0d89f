"""`python -m jobs.reporting CONFIG`: a run up to and including the stage reporting."""

from jobs.stage import run_stage

if __name__ == "__main__":
    run_stage("reporting")
