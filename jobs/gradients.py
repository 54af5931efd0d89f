"""`python -m jobs.gradients CONFIG`: a run up to and including the stage gradients."""

from jobs.stage import run_stage

if __name__ == "__main__":
    run_stage("gradients")
